"""Transfers through a port of a compute node, by firecrest-streamer."""

import base64
import json
import secrets
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from hpcgate.auth import Principal
from hpcgate.config import TransferSettings
from hpcgate.config.values import Port, Seconds
from hpcgate.errors import NotSupported
from hpcgate.transfers import python_jobs
from hpcgate.transfers.base import Directives, Download, Script, Started, Transfer, TransferContext, Upload
from hpcgate.transfers.ends import check_target, size_of_source
from hpcgate.transfers.python_jobs import ENVIRONMENT_LATER, RECEIVE, PythonSettings

REQUIREMENT = "firecrest-streamer"

MAX_ADDRESSES = 8000
"""Most addresses in the coordinates, so that an answer stays within some 200 kB."""

_UPLOAD = f"""\
{ENVIRONMENT_LATER}
{RECEIVE}
HPCGATE_TEMPORARY=new
HPCGATE_ARGUMENTS=$arguments
HPCGATE_TARGET=../$base
HPCGATE_WAIT=$wait
export HPCGATE_TEMPORARY HPCGATE_ARGUMENTS HPCGATE_TARGET HPCGATE_WAIT
"""

_DOWNLOAD = f"""\
{ENVIRONMENT_LATER}
HPCGATE_ARGUMENTS=$arguments
HPCGATE_WAIT=$wait
export HPCGATE_ARGUMENTS HPCGATE_WAIT
"""

_END = """\
status=$?
if [ "$status" -ne 0 ]; then exit "$status"; fi
echo 'File was successfully transferred.'
"""


class StreamerSettings(PythonSettings):
    """Where a streamer job listens and how users reach it."""

    service_type: Literal["streamer"] = Field(description="streamer.")
    host: str | None = Field(None, description="The address that the job listens on; all of its node if unset.")
    port_range: tuple[Port, Port] = Field((5665, 5675), description="The first and the last port that it may take.")
    public_ips: tuple[str, ...] | None = Field(None, description="The addresses that users connect to; host if unset.")
    wait_timeout: Seconds = Field(
        86400, description="Seconds that the job waits for a user to connect, or for the next 5 MiB of the file."
    )
    connection_attempts: int = Field(
        60_000,
        ge=1,
        description="How many connections a client tries in all: its addresses are repeated to that end, since clients"
        " try each port of each address once, and a job that has begun to run takes a moment to take its port.",
    )
    inbound_transfer_limit: int = Field(5 * 1024**3, gt=0, description="Most bytes of an upload.")

    @field_validator("port_range")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError("must be the first and the last port, in this order")
        return value


class StreamerTransfer(Transfer):
    """Uploads and downloads over a WebSocket that a job opens.

    The job runs firecrest-streamer's server on a compute node, the user firecrest-streamer's client, and a secret that
    both know lets them find each other.
    """

    Settings: ClassVar[type[TransferSettings]] = StreamerSettings
    method: ClassVar[str] = "streamer"
    keyed: ClassVar[bool] = True

    def __init__(self, settings: StreamerSettings, context: TransferContext) -> None:
        self._settings = settings
        self._context = context
        self._program = python_jobs.run("streamer_program")

    async def upload(self, principal: Principal, upload: Upload) -> Started:
        """Submit the job that waits for the file.

        Raises:
            IsADirectory, PathNotFound, PermissionDenied: The target cannot take a file.
            NotSupported: The settings name no address for users.
        """
        self._addresses()
        await check_target(self._context.pool, principal, upload.path)
        return await self._start(principal, "receive", upload)

    async def download(self, principal: Principal, download: Download) -> Started:
        """Submit the job that waits for whoever fetches the file.

        Raises:
            PathNotFound, PermissionDenied, IsADirectory: The file cannot be read.
            NotSupported: The settings name no address for users.
        """
        self._addresses()
        await size_of_source(self._context.pool, principal, download.path)
        return await self._start(principal, "send", download)

    def _addresses(self) -> tuple[str, ...]:
        settings = self._settings
        if settings.public_ips:
            return settings.public_ips
        if settings.host:
            return (settings.host,)
        raise NotSupported(f"{self._context.system}: the streamer's public_ips are not configured")

    async def _start(self, principal: Principal, verb: str, asked: Upload | Download) -> Started:
        settings = self._settings
        secret = secrets.token_urlsafe(32)
        first, last = settings.port_range
        arguments = ["server", "--secret", secret, "--port-range", str(first), str(last)]
        arguments += ["--host", settings.host or "0.0.0.0"]  # noqa: S104 (documented: all addresses if unset)
        arguments += ["--wait-timeout", str(int(settings.wait_timeout))]
        arguments += ["--inbound-transfer-limit", str(settings.inbound_transfer_limit)]
        for address in self._addresses():
            arguments += ["--public-ips", address]
        arguments += [verb, "--path", asked.path.text]
        values = {
            **settings.environment(REQUIREMENT),
            "arguments": json.dumps(arguments),
            "wait": str(settings.wait_timeout),
        }
        if verb == "receive":
            script = Script("transfer-streamer-in", values, _UPLOAD + self._program + _END, {"target": asked.path})
        else:
            script = Script("transfer-streamer-out", values, _DOWNLOAD + self._program + _END)
        addresses = list(self._addresses())
        repeats = settings.connection_attempts // (len(addresses) * (last - first + 1))
        repeats = max(1, min(repeats, MAX_ADDRESSES // len(addresses)))
        coordinates = {"ports": [first, last], "ips": addresses * repeats, "secret": secret}
        encoded = base64.urlsafe_b64encode(json.dumps(coordinates).encode()).decode()
        directives = Directives(self.method, {"coordinates": encoded})
        return await self._context.start(principal, script, asked.account, asked.key, directives)
