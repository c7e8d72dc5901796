"""A scheduler for hpcgate that runs jobs as background processes on the login node."""

from hpcgate_background.scheduler import Background

__all__ = ["Background"]
