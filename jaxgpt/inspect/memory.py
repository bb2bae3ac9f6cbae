"""The memory that a compiled program needs."""

from typing import Any

from jax.stages import Compiled


def memory_needed(compiled: Compiled) -> int:
    """Bytes on each device while a program runs: arguments + outputs - aliased + temporaries."""
    memory: Any = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes
