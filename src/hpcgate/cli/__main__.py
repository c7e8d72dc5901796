"""``python -m hpcgate.cli``."""

from hpcgate.cli.commands import main

main()
