"""xraycomp: a Kaggle competition submission kit for chest X-ray classification."""

__version__ = "0.1.0"
