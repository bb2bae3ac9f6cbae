"""Proof by comparison with transformers: above the rest of the converters, which know nothing of it."""
