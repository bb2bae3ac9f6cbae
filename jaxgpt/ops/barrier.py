"""The optimization barrier."""

import jax

barrier = jax.lax.optimization_barrier
"""The identity. XLA neither fuses nor moves computations across it."""
