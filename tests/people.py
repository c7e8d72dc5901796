"""The users of the cluster as the tests see them."""

from dataclasses import dataclass

import httpx

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.users import User


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the cluster with an HTTP client that carries a token."""

    user: User
    http: httpx.Client
    cluster: Cluster

    def run(self, *argv: str | bytes) -> str:
        """Run a command on the login node's machine as the user, past the gateway, and return its output."""
        return self.cluster.as_user(self.user, list(argv)).stdout
