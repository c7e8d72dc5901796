"""OpenPBS, by its commands on the login node."""

from hpcgate.schedulers.pbs.scheduler import Pbs
from hpcgate.schedulers.pbs.settings import PbsSettings

__all__ = ["Pbs", "PbsSettings"]
