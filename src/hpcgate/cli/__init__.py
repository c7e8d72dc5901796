"""The command line: commands, and nothing that they do."""

from hpcgate.cli.commands import main

__all__ = ["main"]
