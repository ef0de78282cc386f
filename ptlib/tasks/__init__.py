"""Tasks: examples in parts to train, select and test on, and the files that they come from."""
