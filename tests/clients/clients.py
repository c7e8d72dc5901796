"""pyfirecrest's clients and its command line as the tests call them."""

import asyncio
import contextvars
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import firecrest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.slurm import Slurm
from hpcgate.demo.users import User

COMMAND = Path(sys.executable).with_name("firecrest")


class Blocking:
    """The asynchronous client with the face of the synchronous one: each call runs until it is done."""

    def __init__(self, client: firecrest.v2.AsyncFirecrest, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            # The runner has a context of its own; pyfirecrest keeps its correlation id in the caller's.
            return self._runner.run(value(*args, **options), context=contextvars.copy_context())

        return call


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command `firecrest` as one user runs it."""

    environment: dict[str, str] = field(repr=False)
    directory: Path
    """Where it runs."""

    def __call__(
        self, *arguments: str | Path, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it, with other environment variables if need be, and if ``check`` have it succeed."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment | environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stderr == ""
        return done

    def json(self, *arguments: str | Path, **environment: str) -> Any:
        """Run it and return what it prints, as JSON."""
        return json.loads(self(*arguments, check=True, **environment).stdout)


def command_line(url: str, user: User, token_url: str, directory: Path) -> CommandLine:
    """Return the command line set up by nothing but the environment variables that it documents."""
    return CommandLine(
        {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "COLUMNS": "200",
            "FIRECREST_URL": url,
            "FIRECREST_CLIENT_ID": user.client_id,
            "FIRECREST_CLIENT_SECRET": user.client_secret,
            "AUTH_TOKEN_URL": token_url,
            "FIRECREST_SYSTEM": "demo",
        },
        directory,
    )


@dataclass(frozen=True, slots=True)
class Site:
    """A system with a scheduler, seen through the gateway by its name and past the gateway by Slurm's own commands."""

    name: str
    slurm: Slurm
    cluster: Cluster
    user: User

    def run(self, *argv: str) -> str:
        """Run a command as the user where Slurm's commands mean this system."""
        return self.cluster.as_user(self.user, argv, slurm=self.slurm).stdout

    def job(self, job_id: str) -> dict[str, str]:
        """Return what the controller says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


Make = Callable[..., Any]
"""Makes a client: the URL and the token source may be replaced."""
