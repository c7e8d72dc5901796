"""Environment variables that steer PBS's commands.

Those by which a user turns to another server, or gives directives another prefix, are unset. Where the configuration
lies (``PBS_CONF_FILE``, ``PBS_EXEC``, ``PBS_HOME``) is the site's. OpenPBS 23.06 Reference Guide, "Environment
variables" of qsub, qstat and qdel; OpenPBS 23.06 Administrator's Guide, "The pbs.conf file".
"""

from hpcgate.ssh.commands.quoting import Steering

STEERING = Steering(
    prefixes=(
        "PBS_BATCH_SERVICE_PORT", "PBS_DEFAULT", "PBS_DPREFIX", "PBS_PRIMARY", "PBS_SECONDARY", "PBS_SERVER",
    )
)  # fmt: skip
