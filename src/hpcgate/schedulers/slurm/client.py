"""What a way of talking to Slurm offers: commands on the login node, slurmrestd, or both."""

from collections.abc import Sequence
from typing import Protocol

from hpcgate.auth import Principal
from hpcgate.schedulers.base import Account, JobDescription, JobMetadata, Node, Partition, Reservation
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.slurm.command_line import CommandLine
from hpcgate.schedulers.slurm.controls import Controls
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.rest.backend import Hybrid, Rest
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.ssh.pool import Pool


class Client(Protocol):
    """One way of talking to Slurm."""

    @property
    def control(self) -> Controls:
        """What it can do to jobs."""

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job and return its id, and what Slurm has said besides."""

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what would be submitted, and what Slurm expects of it if it can be asked."""

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs that the controller knows, ended ones that it still remembers included."""

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database; `NoHistory` if the site has none."""

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name."""

    async def exits(self, principal: Principal, selection: Selection) -> dict[str, tuple[int | None, int | None]]:
        """Return exit status and signal of ended jobs by raw id, where `live` does not tell them."""

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, of the jobs given."""

    async def cancel(self, principal: Principal, job_id: JobId) -> Outcome:
        """Cancel a job and return what became of it."""

    async def attach(self, principal: Principal, job_id: JobId, shell_command: str) -> None:
        """Run a shell command as a step and wait for its end."""

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes."""

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the partitions."""

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no slurmdbd, or none that answers."""

    async def ping(self, principal: Principal) -> None:
        """Return if at least one controller is up."""

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the release, such as ``22.05.8``; None if it is not told."""


def client(system: str, settings: SlurmSettings, pool: Pool) -> Client:
    """Return the client for the system's ``connection_mode``; nothing is opened."""
    match settings.connection_mode:
        case "rest":
            return Rest(system, settings, pool)
        case "hybrid":
            return Hybrid(system, settings, pool)
        case _:
            return CommandLine(system, settings, pool)


def commands_of(client: Client) -> CommandLine | None:
    """Return the commands on the login node that a client uses, None if it uses slurmrestd alone."""
    match client:
        case CommandLine():
            return client
        case Hybrid():
            return client.commands
        case _:
            return None
