"""`jaxgpt verify`."""

from typing import Annotated

import tyro

from converters.arguments import Verify


def main(arguments: list[str]) -> int:
    """Print a parity certificate; returns the exit code: 0 where every bound holds, 1 where one is exceeded."""
    chosen = tyro.cli(Annotated[Verify, tyro.conf.PositionalRequiredArgs], prog="jaxgpt verify", args=arguments)
    from converters.commands import verify
    from jaxgpt.loading import load

    return verify(chosen, load=load)
