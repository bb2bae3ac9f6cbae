"""Running out of memory, told by the many errors that libraries raise for it."""

WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""What JAX, CUDA, torch and the C library say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the host or a device has no memory left.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"))
    (True, True)
    >>> is_out_of_memory(ValueError("out of memory is no matter of values"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words.lower() in text for words in WORDS)
