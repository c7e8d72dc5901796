"""What users have set of PBS's own variables does not lead its commands astray."""

from __future__ import annotations

import subprocess

from hpcgate.schedulers.pbs.variables import STEERING

# As pbs_loadconf.c of OpenPBS reads them, of those that its commands use.
UNSET = (
    "PBS_BATCH_SERVICE_PORT", "PBS_BATCH_SERVICE_PORT_DIS", "PBS_COMM_NAME", "PBS_COMM_ROUTERS",
    "PBS_DATA_SERVICE_HOST", "PBS_DATA_SERVICE_PORT", "PBS_DEFAULT", "PBS_DPREFIX", "PBS_LEAF_NAME",
    "PBS_LEAF_ROUTERS", "PBS_MAIL_HOST_NAME", "PBS_MANAGER_SERVICE_PORT", "PBS_MOM_NODE_NAME", "PBS_MOM_SERVICE_PORT",
    "PBS_PRIMARY", "PBS_PUBLIC_HOST_NAME", "PBS_SCHEDULER_SERVICE_PORT", "PBS_SECONDARY", "PBS_SERVER",
    "PBS_SERVER_HOST_NAME", "PBS_SMTP_SERVER_NAME", "PBS_AUTH_METHOD", "PBS_ENCRYPT_METHOD",
    "PBS_SUPPORTED_AUTH_METHODS", "PBS_TMPDIR",
)  # fmt: skip
KEPT = ("PBS_CONF_FILE", "PBS_EXEC", "PBS_HOME", "PBS_OUTPUT_HOST_NAME", "PBS_ENVIRONMENT", "PBS_JOBID", "PATH")


def test_what_pbs_takes_from_the_environment_is_unset_but_where_it_lies() -> None:
    environment = dict.fromkeys((*UNSET, *KEPT), "x:y") | {"PATH": "/usr/bin:/bin"}
    argv = ["sh", "-c", STEERING.unsetting() + "exec env"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    left = {line.partition("=")[0] for line in done.stdout.splitlines()} & {*UNSET, *KEPT}
    assert left == set(KEPT)
