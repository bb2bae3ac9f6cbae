"""Few sizes for prompts, caches and rows, so that few programs serve every length. What is added is padding."""

from jaxgpt.config import GPTConfig

PROMPTS = (64, 256, 512, 1024)
CAPACITIES = (256, 512, 1024)
"""With 1024 tokens there are 9 pairs of these, each a program that reads prompts, and 3 programs that decode."""


def prompt_size(config: GPTConfig, length: int) -> int:
    """How many tokens a program reads for prompts of up to `length`."""
    return _bounded(config, _size(PROMPTS, length))


def capacity(config: GPTConfig, prompt: int, length: int) -> int:
    """How many tokens the cache has room for, where texts grow from `prompt` (a size) to `length` tokens."""
    if config.max_length is None:  # no layer looks further back than its window
        length = min(length, max(window for window in config.windows if window is not None))
    return max(min(prompt, CAPACITIES[-1]), _bounded(config, _size(CAPACITIES, length)))


def rows(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _size(sizes: tuple[int, ...], length: int) -> int:
    return next((size for size in sizes if size >= length), 1 << (length - 1).bit_length())


def _bounded(config: GPTConfig, size: int) -> int:
    return size if config.max_length is None else min(size, config.max_length)
