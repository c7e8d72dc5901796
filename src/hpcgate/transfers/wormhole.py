"""Transfers by magic-wormhole."""

import json
import secrets
from typing import ClassVar, Literal

from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.config import TransferSettings
from hpcgate.config.values import Seconds
from hpcgate.errors import BadRequest
from hpcgate.ssh.files.command_scripts import ADOPT
from hpcgate.transfers import python_jobs
from hpcgate.transfers.base import Directives, Download, Script, Started, Transfer, TransferContext, Upload
from hpcgate.transfers.ends import check_target, size_of_source
from hpcgate.transfers.python_jobs import ENVIRONMENT, RECEIVE, PythonSettings

REQUIREMENT = "magic-wormhole"

_EXPORT = """\
HPCGATE_ARGUMENTS=$arguments
HPCGATE_CODE=$code
HPCGATE_WAIT=$wait
export HPCGATE_ARGUMENTS HPCGATE_CODE HPCGATE_WAIT
"""

# The working directory is one of the job's own, so that the name of what comes need not be known before.
_UPLOAD = f"""\
{ADOPT}
{ENVIRONMENT}
{RECEIVE}
{_EXPORT}
"""

_RECEIVED = """\
status=$?
if [ "$status" -ne 0 ]; then exit "$status"; fi
if [ -h ./new ] || [ ! -f ./new ]; then fail 'What came is not a file.'; fi
if [ -e "../$base" ]; then adopt "../$base" ./new || exit; fi
mv -f -T -- ./new "../$base" || exit
echo 'File was successfully transferred.'
"""

_DOWNLOAD = f"""\
{ENVIRONMENT}
{_EXPORT}
"""

_SENT = """\
status=$?
if [ "$status" -ne 0 ]; then exit "$status"; fi
echo 'File was successfully transferred.'
"""


class WormholeSettings(PythonSettings):
    """How a job gets magic-wormhole, and the servers that it uses."""

    service_type: Literal["wormhole"] = Field(description="wormhole.")
    relay_url: str | None = Field(
        None,
        pattern=r"^wss?://[^\s]+$",
        description="The mailbox server, such as ws://HOST:4000/v1; magic-wormhole's public one if unset.",
    )
    transit_helper: str | None = Field(
        None,
        pattern=r"^tcp:[^\s:]+:[0-9]+$",
        description="The transit relay, as tcp:HOST:PORT; magic-wormhole's public one if unset.",
    )
    wait_timeout: Seconds = Field(
        7200, description="Seconds that a job waits for the other end of the wormhole, or for more of the file."
    )


class WormholeTransfer(Transfer):
    """Uploads and downloads by a code that is used once. Bytes are encrypted from end to end."""

    Settings: ClassVar[type[TransferSettings]] = WormholeSettings
    method: ClassVar[str] = "wormhole"
    keyed: ClassVar[bool] = True

    def __init__(self, settings: WormholeSettings, context: TransferContext) -> None:
        self._settings = settings
        self._context = context
        self._program = python_jobs.run("wormhole_program")

    async def upload(self, principal: Principal, upload: Upload) -> Started:
        """Submit the job that receives what the user's wormhole sends.

        Raises:
            BadRequest: There is no code.
            IsADirectory, PathNotFound, PermissionDenied: The target cannot take a file.
        """
        code = upload.fields.get("wormhole_code")
        if not code:
            raise BadRequest("wormholeCode is required for an upload by wormhole.")
        await check_target(self._context.pool, principal, upload.path)
        arguments = ["receive", "--accept-file", "--hide-progress", "-o", "new", code]
        values = self._values(code, arguments)
        body = _UPLOAD + self._program + _RECEIVED
        script = Script("transfer-wormhole-in", values, body, {"target": upload.path})
        directives = Directives(self.method, {"wormhole_code": code})
        return await self._context.start(principal, script, upload.account, upload.key, directives)

    async def download(self, principal: Principal, download: Download) -> Started:
        """Submit the job that sends the file to whoever has the code.

        Raises:
            PathNotFound, PermissionDenied, IsADirectory: The file cannot be read.
        """
        await size_of_source(self._context.pool, principal, download.path)
        code = new_code()
        arguments = ["send", "--hide-progress", "--no-qr", "--code", code, "--", download.path.text]
        script = Script("transfer-wormhole-out", self._values(code, arguments), _DOWNLOAD + self._program + _SENT)
        directives = Directives(self.method, {"wormhole_code": code})
        return await self._context.start(principal, script, download.account, download.key, directives)

    def _values(self, code: str, command: list[str]) -> dict[str, str]:
        settings = self._settings
        arguments = ["--relay-url", settings.relay_url] if settings.relay_url else []
        if settings.transit_helper:
            arguments += ["--transit-helper", settings.transit_helper]
        return {
            **settings.environment(REQUIREMENT),
            "arguments": json.dumps([*arguments, *command]),
            "code": code,
            "wait": str(settings.wait_timeout),
        }


def new_code() -> str:
    """Return a code: the number of a mailbox that hardly anybody has, and a secret that nobody guesses.

    https://magic-wormhole.readthedocs.io/en/latest/welcome.html#design
    """
    return f"{secrets.randbelow(900_000_000) + 100_000_000}-{secrets.token_hex(8)}"
