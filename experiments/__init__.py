"""What is measured: models, corpus, captures, search space, trial specifications and measuring protocols."""
