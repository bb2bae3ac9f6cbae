"""`jaxgpt verify`."""

from typing import Annotated

import tyro


def main(arguments: list[str]) -> int:
    """Print a parity certificate; returns the exit code: 0 where every bound holds, 1 where one is exceeded."""
    from converters.commands import Verify, verify
    from jaxgpt.loading import load

    chosen = tyro.cli(Annotated[Verify, tyro.conf.PositionalRequiredArgs], prog="jaxgpt verify", args=arguments)
    return verify(chosen, load=load)
