"""The options of qsub that a script may hold where its user may reach some paths only.

qsub(1B) of OpenPBS; ``-k`` (files left in the home), ``-S`` and ``-v`` (which may say where a job began), ``-W``
(staging) and others that name files are left out.
"""

from hpcgate.schedulers.directives import Directives

OPTIONS = Directives(
    mark="PBS",
    naming="N",
    flags=frozenset("Vhz"),
    harmless=frozenset("AaJjlMmNPpqr"),
    streams=frozenset("eo"),
    # Standard streams without a path of their own are files of the job's name.
    forbidden={"q": "@", "N": "/"},
    guides=("PBS_",),
)
