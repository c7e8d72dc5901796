"""What every transfer method has, and the nouns that they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from hpcgate.auth import Principal
from hpcgate.config import TransferSettings
from hpcgate.config.probing import ServiceName
from hpcgate.errors import NotSupported
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.ssh.pool import Pool


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job as transfers hand it to the scheduler. Every path is absolute.

    Attributes:
        name: The job's name.
        script: The whole script, directives included.
        working_directory: Where it runs.
        standard_output: The file for its output.
        standard_error: The file for its error words.
        account: The account to charge where the script itself does not name it.
        key: What the scheduler is to submit it once for, if there was an Idempotency-Key.
        memo: What is to be kept with the key.
    """

    name: str
    script: str
    working_directory: RemotePath
    standard_output: str
    standard_error: str
    account: str | None = None
    key: object | None = None
    memo: str = ""


class Submit(Protocol):
    """How a transfer job reaches the scheduler; transfers and schedulers do not know each other."""

    async def __call__(self, principal: Principal, job: BatchJob) -> str:
        """Submit a job once and return its id.

        Raises:
            UnderWay: Another request with that key has made one meanwhile.
            SubmissionRefused: With the scheduler's own words.
            TimedOut: The job may or may not have been submitted.
        """


@dataclass(frozen=True, slots=True)
class JobLogs:
    """The files that a transfer job writes; absolute paths on the system."""

    output_log: str
    error_log: str


@dataclass(frozen=True, slots=True)
class TransferJob:
    """A submitted transfer job (contract, transfer)."""

    job_id: str
    system: str
    working_directory: str
    logs: JobLogs


@dataclass(frozen=True, slots=True)
class Directives:
    """What the user needs to carry a transfer through.

    Attributes:
        transfer_method: The method.
        fields: What the method tells the user: numbers, texts, and tuples of texts. The contract's fields in
            snake_case, others as users are to see them.
    """

    transfer_method: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keyed:
    """What a request with an Idempotency-Key is answered with each time.

    Attributes:
        key: What the scheduler is to submit the job once for.
        directives: What the answer holds besides the job.
    """

    key: object
    directives: Directives | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """What a transfer job does.

    Attributes:
        name: The job's name.
        values: Shell variables by name, set before the body begins, each to exactly this text.
        body: The rest of the script, in POSIX sh, free of any value of a request.
        paths: Shell variables that are set to exactly these bytes.
        keyed: What it is submitted once for, if there was an Idempotency-Key.
    """

    name: str
    values: dict[str, str]
    body: str
    paths: Mapping[str, RemotePath] = field(default_factory=dict)
    keyed: Keyed | None = None


class RunJob(Protocol):
    """How a transfer method runs a job of its own."""

    async def __call__(self, principal: Principal, script: Script, account: str | None) -> TransferJob:
        """Submit the script with the system's directives.

        Raises:
            UnderWay: Another request with the key has made one meanwhile.
            BadRequest: The directives need an account and there is none, or it cannot be one.
            NotSupported: The system has no directory for such jobs.
        """


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is to come in.

    Attributes:
        path: The file that it becomes on the system, absolute.
        account: The account to charge.
        file_size: Its size in bytes, where the user said it.
        fields: What else the request says for this method: the contract's fields in snake_case, others as they came.
        key: What its job is to be submitted once for.
    """

    path: RemotePath
    account: str | None = None
    file_size: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    key: object | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is to go out: its absolute path on the system, the account to charge, and the key as for `Upload`."""

    path: RemotePath
    account: str | None = None
    key: object | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A transfer under way."""

    job: TransferJob
    directives: Directives


@dataclass(frozen=True, slots=True)
class TransferContext:
    """What a transfer method finds around it.

    Attributes:
        system: The system's name.
        pool: The connections to its login node.
        run_job: How to run a job there.
    """

    system: str
    pool: Pool
    run_job: RunJob

    async def start(
        self,
        principal: Principal,
        script: Script,
        account: str | None,
        key: object | None,
        directives: Directives,
    ) -> Started:
        """Run a job, and return what its request is answered with: once, if there is a key."""
        if key is not None:
            script = replace(script, keyed=Keyed(key, directives))
        return Started(await self.run_job(principal, script, account), directives)


@dataclass(frozen=True, slots=True)
class Service:
    """What a method stands on that may fail by itself, and is probed where `probing.services` has its name.

    Attributes:
        name: The name, in `probing.services` and in what is said of health.
        check: What `hpcgate check --connect` calls it.
        well: What it says if the service answers, with a place for the settings' ``name``.
        advice: What it says to look at if not.
    """

    name: ServiceName
    check: str
    well: str
    advice: str


class Transfer(ABC):
    """A way to move files past the gateway. Found by the entry points ``hpcgate.transfers``, by ``service_type``.

    Attributes:
        Settings: The model of its settings.
        method: The name that requests use, as ``transferMethod``.
        keyed: Whether it hands a request's key on (`TransferContext.start`).
        service: What it stands on, None for a method that is always there.
    """

    Settings: ClassVar[type[TransferSettings]]
    method: ClassVar[str]
    keyed: ClassVar[bool] = False
    service: ClassVar[Service | None] = None

    @abstractmethod
    def __init__(self, settings: Any, context: TransferContext) -> None:
        """Keep the settings (an instance of ``Settings``) and the surroundings; open nothing."""

    async def upload(self, principal: Principal, upload: Upload) -> Started:
        """Begin to bring a file in.

        Raises:
            BadRequest: The request lacks something, or exceeds what the method can carry.
            NotSupported: This method brings nothing in.
        """
        raise NotSupported(f"Uploads by {self.method} are configured but not available in this version")

    async def download(self, principal: Principal, download: Download) -> Started:
        """Begin to bring a file out.

        Raises:
            PathNotFound, PermissionDenied, IsADirectory: As for reading the file.
            NotSupported: This method brings nothing out.
        """
        raise NotSupported(f"Downloads by {self.method} are configured but not available in this version")

    async def ping(self) -> None:  # noqa: B027 (a method without a service of its own is always there)
        """Return if the service behind it answers, else raise `Unavailable`."""

    async def close(self) -> None:  # noqa: B027 (a method with nothing open has nothing to close)
        """Close what is open."""
