"""Environment variables that steer PBS's commands.

Those by which a user turns to another server, or gives directives another prefix, are unset; so are host names,
ports and methods of pbs.conf, any of which makes all commands fail if it makes no sense. Where the configuration lies
(``PBS_CONF_FILE``, ``PBS_EXEC``, ``PBS_HOME``) is the site's, and where output goes (``PBS_OUTPUT_HOST_NAME``) is the
user's. OpenPBS 23.06 Reference Guide, "Environment variables" of qsub, qstat and qdel; OpenPBS 23.06 Administrator's
Guide, "The pbs.conf file"; and what pbs_loadconf.c reads from the environment.
"""

from hpcgate.ssh.commands.quoting import Steering

STEERING = Steering(
    prefixes=(
        "PBS_BATCH_SERVICE_PORT", "PBS_DEFAULT", "PBS_DPREFIX", "PBS_PRIMARY", "PBS_SECONDARY", "PBS_SERVER",
        "PBS_COMM_", "PBS_DATA_SERVICE_", "PBS_LEAF_", "PBS_MAIL_HOST_NAME", "PBS_MANAGER_SERVICE_PORT",
        "PBS_MOM_NODE_NAME", "PBS_MOM_SERVICE_PORT", "PBS_PUBLIC_HOST_NAME", "PBS_SCHEDULER_SERVICE_PORT",
        "PBS_SMTP_SERVER_NAME", "PBS_AUTH_METHOD", "PBS_ENCRYPT_METHOD", "PBS_SUPPORTED_AUTH_METHODS", "PBS_TMPDIR",
    )
)  # fmt: skip
