"""Networks, augmentation, losses, the training engine and the run folder."""
