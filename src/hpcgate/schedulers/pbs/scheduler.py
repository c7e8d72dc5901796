"""The OpenPBS scheduler."""

from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.pbs.settings import PbsSettings


class Pbs(Scheduler):
    """OpenPBS 23.06 and its relatives."""

    Settings = PbsSettings
    account_directive = "#PBS -A {account}"
