"""Studies: which settings of training are best, tried by processes that share them."""
