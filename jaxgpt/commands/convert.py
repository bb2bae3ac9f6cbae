"""`jaxgpt convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from converters.arguments import Convert
from jaxgpt.commands.sources import read_text

if TYPE_CHECKING:
    import numpy as np


def main(arguments: list[str]) -> int:
    """Write a model in the format of another library; returns the exit code."""
    chosen = tyro.cli(Annotated[Convert, tyro.conf.PositionalRequiredArgs], prog="jaxgpt convert", args=arguments)
    from converters.commands import convert
    from jaxgpt.loading import load, load_tokenizer, write_source_tokenizer

    def read_tokens(text: Path) -> "np.ndarray":
        return load_tokenizer(chosen.source).encode(read_text(str(text), text))

    convert(chosen, load=load, read_tokens=read_tokens, write_tokenizer=write_source_tokenizer)
    return 0
