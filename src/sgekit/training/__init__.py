"""Training and evaluating classifiers: recipes, runs, checkpoints."""
