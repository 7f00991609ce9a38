"""From labels and probabilities to metrics, tables and plots. Knows neither torch nor Kaggle."""
