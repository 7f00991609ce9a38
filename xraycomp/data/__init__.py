"""From a competition's files to batches: what is known about the images before any model."""
