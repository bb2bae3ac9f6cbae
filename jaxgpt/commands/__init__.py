"""The subcommands of `jaxgpt`, one module each."""
