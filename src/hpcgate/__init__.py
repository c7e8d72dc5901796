"""hpcgate: a FirecREST-compatible HTTP gateway to HPC systems."""

from importlib.metadata import version

__version__ = version("hpcgate")
