"""What people watch while a campaign runs."""
