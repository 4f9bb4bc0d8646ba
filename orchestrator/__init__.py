"""What people run: the command line, the campaign loop, the Ray pool and the budget."""
