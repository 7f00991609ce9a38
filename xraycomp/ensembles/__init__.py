"""Several runs, or tables from anywhere, made into one: of predictions, or of weights."""
