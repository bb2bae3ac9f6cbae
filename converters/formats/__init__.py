"""Files of weights: each format is read as named tensors, and written from a model."""
