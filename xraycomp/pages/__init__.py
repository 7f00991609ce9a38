"""From the files of runs to pages that anyone can open. Knows neither torch nor Kaggle."""
