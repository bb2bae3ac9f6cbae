"""The model: pure functions and modules that know nothing of training."""
