"""`python -m jaxgpt` is the command `jaxgpt`."""

from jaxgpt.cli import run

if __name__ == "__main__":
    run()
