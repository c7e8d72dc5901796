"""What the operator of a demo cluster would tell somebody who installs a gateway before it."""

import shlex
from pathlib import Path

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.idp import AUDIENCE
from hpcgate.demo.keys import write_private
from hpcgate.demo.problems import DemoError

ENVIRONMENT = "site.env"
"""The file with addresses and names, as variables for a shell; it is written last."""


def begin(directory: Path) -> None:
    """Make the directory, and take away what an earlier cluster has left there, which is not true any more.

    Raises:
        DemoError: It cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ENVIRONMENT).unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(f"cannot write to {directory}: {error.strerror}") from error


def write(cluster: Cluster, directory: Path) -> list[Path]:
    """Write all that a gateway's configuration has to know of a cluster, secrets in files that only the caller reads.

    Args:
        cluster: The running cluster.
        directory: Where to write, as `begin` has left it.

    Returns:
        The files, `ENVIRONMENT` first.

    Raises:
        DemoError: They cannot be written.
    """
    user = cluster.users[0]
    facts = {
        "ISSUER": cluster.idp.issuer,
        "AUDIENCE": AUDIENCE,
        "TOKEN_URL": cluster.idp.token_url,
        "JWKS_URL": cluster.idp.jwks_url,
        "LOGIN_HOST": cluster.sshd.host,
        "LOGIN_PORT": str(cluster.sshd.port),
        "SLURM_VERSION": cluster.slurm.version,
        "HOMES": str(cluster.homes),
        "SCRATCH": str(cluster.scratch),
        "SERVICE_CLIENT_ID": cluster.idp.service_client_id,
        "USER_NAME": user.name,
        "USER_HOME": str(user.home),
        "CLIENT_ID": user.client_id,
        "GATEWAY_PORT": str(cluster.take_port()),
    }
    secrets = {
        "user_ca": cluster.authority.private_text(),
        "service.client_secret": cluster.idp.service_client_secret,
        "client_secret": user.client_secret,
    }
    environment, known_hosts = directory / ENVIRONMENT, directory / "known_hosts"
    try:
        for name, content in secrets.items():
            write_private(directory / name, content.encode())
        known_hosts.write_text(cluster.sshd.known_hosts_line + "\n")
        unfinished = environment.with_suffix(".new")
        unfinished.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in facts.items()))
        unfinished.rename(environment)
    except OSError as error:
        raise DemoError(f"cannot write to {directory}: {error.strerror}") from error
    return [environment, known_hosts, *(directory / name for name in secrets)]
