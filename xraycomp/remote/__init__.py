"""Everything that concerns Kaggle itself."""
