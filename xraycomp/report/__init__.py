"""From arrays and tables to metrics, plots and pages. Knows neither torch nor Kaggle."""
