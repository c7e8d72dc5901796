"""One system, walked as a user: its login nodes, its scheduler and its file systems; and its object stores."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hpcgate.auth import Principal
from hpcgate.auth.authorizer import Authorizer
from hpcgate.config import Cluster, SchedulerSettings, SshSettings, plugin
from hpcgate.config.models import FileSystem
from hpcgate.config.quotas import QuotaSettings
from hpcgate.credentials.base import CredentialSource
from hpcgate.diagnosis import clocks, tools
from hpcgate.errors import (
    BadAnswer,
    CommandFailed,
    CredentialRefused,
    Forbidden,
    GatewayError,
    HostKeyRefused,
    LoginNodeError,
    LoginNodeShut,
    NeverBegan,
    SchedulerUnavailable,
    TimedOut,
    ToolMissing,
)
from hpcgate.filesystem.quotas import QuotaCommand
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.slurm.rest.problems import DaemonDown
from hpcgate.ssh import preflight
from hpcgate.ssh.nodes import Node
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.survey import Finding, Surveyor
from hpcgate.transfers.base import Script, Service, Transfer, TransferContext, TransferJob

LOOKED_FOR = 20
"""Channels after which it is not tried to open one more; sshd's own MaxSessions is 10."""
FEW = 4
"""With fewer channels, streams and commands wait for each other."""
MAX_LOGINS = 32
LONGEST = 60.0
"""Seconds that one check may take, whatever the settings say."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whom to log in as.

    Attributes:
        principal: Returns who that is.
        advice: What to do if it cannot.
    """

    principal: Callable[[], Awaitable[Principal]]
    advice: str


_LOOK = """\
if [ ! -e "$1" ]; then echo missing
elif [ ! -d "$1" ]; then echo other
elif [ ! -r "$1" ] || [ ! -x "$1" ]; then echo closed
else echo good; fi
"""


class Crowds:
    """How many of so many logins at once each login node dropped. One is tried at a time, and each only once.

    Several systems may have the same login node, and its sshd may punish an address that comes too often.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._known: dict[tuple[Node, int], int] = {}

    async def dropped(self, pool: Pool, principal: Principal, count: int) -> int:
        """Return how many were dropped.

        Raises:
            GatewayError: As `preflight.logins`.
        """
        node = (pool.settings.nodes[0], count)
        async with self._turn:
            if node not in self._known:
                self._known[node] = await preflight.logins(pool, principal, count)
            return self._known[node]


async def look_at_system(
    settings: Cluster,
    credentials: CredentialSource,
    who: Who | None,
    authorizer: Authorizer | None = None,
    *,
    crowds: Crowds,
    surveyor: Surveyor,
) -> list[tuple[str, Finding]]:
    """Look at a system, at all of it at the same time where that changes no result.

    Args:
        settings: The system.
        credentials: Where SSH credentials come from.
        who: Whom to log in as; None if there is nobody, then what needs a login is left out.
        authorizer: The service that says who may use which system, if there is one.
        crowds: How each login node took many logins at once, found out by the first system that asks.
        surveyor: What each machine shows, found out by the first system that asks.

    Returns:
        What each finding is about, and the finding.
    """
    stores = asyncio.create_task(_stores(settings, credentials))
    try:
        about = settings.name
        found = [(about, finding) for finding in await surveyor.survey(settings.name, settings.ssh)]
        found += await _as_somebody(settings, credentials, who, authorizer, crowds)
        found += [(about, finding) for finding in await stores]
    finally:
        stores.cancel()
        await asyncio.gather(stores, return_exceptions=True)
    return found


async def _as_somebody(
    settings: Cluster,
    credentials: CredentialSource,
    who: Who | None,
    authorizer: Authorizer | None,
    crowds: Crowds,
) -> list[tuple[str, Finding]]:
    if who is None:
        return [
            (
                settings.name,
                Finding(
                    None,
                    "left out, for there is nobody to log in as: MaxSessions, clock, MaxStartups, SFTP, scheduler, "
                    "file systems",
                    "configure a service_account, or give a user's token by HPCGATE_TOKEN or --token-file",
                    "login",
                ),
            )
        ]
    try:
        async with asyncio.timeout(LONGEST):
            principal = await who.principal()
    except (GatewayError, TimeoutError) as error:
        return [(settings.name, Finding(False, f"nobody to log in as: {_words(error)}", who.advice, "token"))]
    entries = (settings.ssh.host,) if isinstance(settings.ssh.host, str) else settings.ssh.host
    nodes = [settings.ssh.model_copy(update={"host": entry}) for entry in entries]
    walked = await asyncio.gather(*(_Walk(settings, ssh, credentials, principal, crowds).all() for ssh in nodes))
    several = len(nodes) > 1
    asked = [] if authorizer is None else [(settings.name, await _authorization(settings, principal, authorizer))]
    return asked + [
        (f"{settings.name} at {'{}:{}'.format(*ssh.nodes[0])}" if several else settings.name, finding)
        for ssh, findings in zip(nodes, walked, strict=True)
        for finding in findings
    ]


async def _authorization(settings: Cluster, principal: Principal, authorizer: Authorizer) -> Finding:
    check, user = "authorization", principal.username
    try:
        async with asyncio.timeout(LONGEST):
            await authorizer.authorize(principal, settings.name)
    except Forbidden:
        advice = "fine for a service account; users need the relation member of the vcluster"
        return Finding(None, f"the authorization service answers, and does not let {user} in", advice, check)
    except (GatewayError, TimeoutError) as error:
        advice = "see auth.authorization: url and timeout"
        return Finding(False, f"the authorization service: {_words(error)}", advice, check)
    return Finding(True, f"the authorization service lets {user} in", check=check)


class _Walk:
    """One login node, as one user, on one connection of its own."""

    def __init__(
        self,
        settings: Cluster,
        ssh: SshSettings,
        credentials: CredentialSource,
        principal: Principal,
        crowds: Crowds,
    ) -> None:
        self._settings = settings
        self._ssh = ssh
        self._credentials = credentials
        self._principal = principal
        self._crowds = crowds
        self._opens_channels = False
        own: dict[str, Any] = {"max_clients": 1, "failed_login_pause": 0, "files": "sftp", "max_sessions": None}
        self._pool = Pool(settings.name, ssh.model_copy(update=own), credentials)

    async def all(self) -> list[Finding]:
        try:
            login = await self._guarded("login", self._login)
            if not all(finding.good for finding in login):
                return login
            found = login
            # The first one on the connection: it counts.
            found += await self._guarded("MaxSessions", self._channels)
            if not self._opens_channels:
                return found
            found += await self._guarded("login shell", self._tools)
            found += await self._guarded("clock", self._clock)
            found += await self._guarded("MaxStartups", self._startups)
            found += await self._guarded("SFTP", self._sftp)
            found += await self._guarded("scheduler", self._scheduler)
            for findings in await asyncio.gather(*map(self._file_system, self._settings.file_systems)):
                found += findings
            return found
        finally:
            await self._pool.close()

    async def _guarded(
        self, check: str, look: Callable[..., Awaitable[list[Finding]]], *arguments: Any
    ) -> list[Finding]:
        subject = " ".join((check, *(one for one in arguments if isinstance(one, str))))
        try:
            async with asyncio.timeout(LONGEST):
                return await look(*arguments)
        except (GatewayError, TimeoutError) as error:
            return [Finding(False, f"{subject}: {_words(error)}", _advice(error), check)]

    async def _run(self, argv: list[str]) -> str:
        async with self._pool.lease(self._principal) as session:
            done = await session.run(argv)
        if not done.ok:
            raise CommandFailed(f"{argv[0]} ended with status {done.exit_status}: {done.words}")
        return done.stdout.decode("utf-8", "replace").strip()

    async def _login(self) -> list[Finding]:
        started = time.monotonic()
        async with self._pool.lease(self._principal):
            seconds = time.monotonic() - started
        return [Finding(True, f"{self._principal.username} logs in, in {seconds:.2f} s", check="login")]

    async def _channels(self) -> list[Finding]:
        async with self._pool.lease(self._principal) as session:
            count = await preflight.channels(session, LOOKED_FOR)
        self._opens_channels = count > 0
        check, wanted = "MaxSessions", self._ssh.max_sessions
        raise_it = "raise MaxSessions in sshd_config for the gateway's address, to 100 or so"
        if not count:
            return [
                Finding(
                    False, "the login node opens no channel: MaxSessions is 0, or it forwards only", raise_it, check
                )
            ]
        if wanted is not None and wanted > count and count < LOOKED_FOR:
            text = f"a connection has {count} channels, fewer than ssh.max_sessions, {wanted}"
            return [Finding(False, text, f"{raise_it}, or lower ssh.max_sessions", check)]
        if count < FEW:
            text = f"a connection has {count} channel{'s' if count > 1 else ''} (MaxSessions)"
            return [Finding(None, f"{text}: a user's requests wait for each other", raise_it, check)]
        least = "at least " if count == LOOKED_FOR else ""
        more = ", and it was not tried to open more" if count == LOOKED_FOR else ""
        return [Finding(True, f"a connection has {least}{count} channels (MaxSessions){more}", check=check)]

    async def _tools(self) -> list[Finding]:
        settings = self._settings.scheduler
        wanted = tools.needed(settings.type, getattr(settings, "connection_mode", "ssh"))
        async with self._pool.lease(self._principal) as session:
            return await tools.look_for(session, wanted)

    async def _clock(self) -> list[Finding]:
        asked = time.time()
        there = await self._run(["date", "+%s.%N"])
        answered = time.time()
        try:
            reading = clocks.Reading(float(there) - (asked + answered) / 2, (answered - asked) / 2)
        except ValueError:
            return [
                Finding(None, f"the login node's clock is unknown: date prints {clipped(there, 40)!r}", check="clock")
            ]
        return [clocks.of_node(reading)]

    async def _startups(self) -> list[Finding]:
        check = "MaxStartups"
        if self._ssh.proxy_host is not None:
            text = "MaxStartups was not tried through the jump host"
            advice = "see that the sshd_config of both machines takes ssh.max_logins logins at once"
            return [Finding(None, text, advice, check)]
        count = min(self._ssh.max_logins, MAX_LOGINS)
        dropped = await self._crowds.dropped(self._pool, self._principal, count)
        if dropped:
            text = f"of {count} logins at once {dropped} were dropped by sshd (MaxStartups, or who else logs in now)"
            advice = f"raise MaxStartups to {3 * self._ssh.max_logins}:30:100 or more, or lower ssh.max_logins"
            return [Finding(False, text, advice, check)]
        text = f"{count} logins at once were all taken, as many as ssh.max_logins allows"
        if count < self._ssh.max_logins:
            text = f"{count} logins at once were all taken; ssh.max_logins allows {self._ssh.max_logins}"
        return [Finding(True, f"{text} (sshd does not show MaxStartups itself, and counts everybody's)", check=check)]

    async def _sftp(self) -> list[Finding]:
        async with self._pool.lease(self._principal) as session:
            refusal = await preflight.sftp(session)
        check, wanted = "SFTP", self._ssh.files
        if refusal is None:
            used = "works" if wanted != "commands" else "works, but is not used (ssh.files is commands)"
            return [Finding(True, f"SFTP {used}", check=check)]
        offer = "put `Subsystem sftp internal-sftp` into sshd_config"
        if refusal == preflight.NO_ROOM:
            offer = "raise MaxSessions"
        if wanted == "sftp":
            return [Finding(False, f"SFTP does not work: {refusal}", f"{offer}, or set ssh.files to auto", check)]
        if wanted == "auto":
            text = f"SFTP does not work, so files are reached by commands, which is slower: {refusal}"
            return [Finding(None, text, offer, check)]
        return [Finding(True, "SFTP does not work, and is not used (ssh.files is commands)", check=check)]

    async def _scheduler(self) -> list[Finding]:
        check, settings = "scheduler", self._settings.scheduler
        scheduler = plugin("hpcgate.schedulers", settings.type)(self._settings.name, settings, self._pool)
        found: list[Finding] = []
        try:
            found += await self._interface(scheduler)
            await scheduler.ping(self._principal)
            version = await scheduler.installed_version(self._principal)
        except GatewayError as error:
            # What answers, or does not, is the scheduler or the service before it, on whichever machine it runs.
            return [*found, Finding(False, f"{check}: {_words(error)}", _scheduler_advice(error, settings), check)]
        finally:
            await scheduler.close()
        return [*found, *self._version(version)]

    async def _interface(self, scheduler: Scheduler) -> list[Finding]:
        """Tell which versions of its interface a service before the scheduler offers, and whether it is one of them."""
        check, settings = "scheduler", self._settings.scheduler
        try:
            offered = await scheduler.offered(self._principal)
        except CommandFailed:
            # It does not say.
            return []
        if not offered:
            return []
        wanted = str(getattr(settings, "api_version", "")).removeprefix("v")
        shown = ", ".join(offered)
        if wanted in offered:
            return [Finding(True, f"slurmrestd offers {shown}; api_version is {wanted}", check=check)]
        advice = f"set scheduler.api_version to {offered[-1]}"
        return [Finding(False, f"slurmrestd offers {shown}, but api_version is {wanted}", advice, check)]

    def _version(self, version: str | None) -> list[Finding]:
        check, settings = "scheduler", self._settings.scheduler
        if version is None:
            return [Finding(True, f"{settings.type} answers, and does not tell its version", check=check)]
        if _release(version) != _release(settings.version):
            text = f"{settings.type} {version} answers, but scheduler.version is {settings.version}"
            return [Finding(None, text, f"set scheduler.version to {version}", check)]
        return [Finding(True, f"{settings.type} {version} answers", check=check)]

    async def _file_system(self, settings: FileSystem) -> list[Finding]:
        found = await self._guarded("file system", self._look, settings.path)
        if settings.quota is not None:
            found += await self._guarded("quota", self._quota, settings.path, settings.quota)
        return found

    async def _quota(self, path: str, settings: QuotaSettings) -> list[Finding]:
        check, user = "quota", self._principal.username
        try:
            told = await self._pool.perform(self._principal, QuotaCommand(path, settings).run, retry=True)
        except (BadAnswer, CommandFailed, ToolMissing) as error:
            advice = "correct file_systems[].quota: its command, or its format"
            return [Finding(False, f"the quota of {path} is not told: {_words(error)}", advice, check)]
        if not told:
            return [Finding(True, f"{user} has no quota on {path}", check=check)]
        resources = ", ".join(dict.fromkeys(one.resource for one in told))
        return [Finding(True, f"the quota of {user} on {path} is told: {resources}", check=check)]

    async def _look(self, path: str) -> list[Finding]:
        check, user = "file system", self._principal.username
        match await self._run(["sh", "-c", _LOOK, "ls", path]):
            case "good":
                return [Finding(True, f"{path} is a directory that {user} can read", check=check)]
            case "missing":
                advice = "mount it, or correct file_systems"
                return [Finding(False, f"{path} does not exist, or {user} cannot reach it", advice, check)]
            case "other":
                return [Finding(False, f"{path} is not a directory", "correct file_systems", check)]
        advice = "fine if it is meant for other users; else see its mode"
        return [Finding(None, f"{path} is a directory that {user} cannot read", advice, check)]


async def _stores(settings: Cluster, credentials: CredentialSource) -> list[Finding]:
    ways = settings.data_operation.data_transfer
    methods = [(way, plugin("hpcgate.transfers", way.service_type)) for way in ways]
    stores = [(way, method, method.service) for way, method in methods if method.service is not None]
    if not stores:
        return []
    pool = Pool(settings.name, settings.ssh, credentials)

    async def no_job(principal: Principal, script: Script, account: str | None) -> TransferJob:
        raise CommandFailed("This is a check")

    async def look(way: Any, method: type[Transfer], service: Service) -> Finding:
        transfer = method(way, TransferContext(settings.name, pool, no_job))
        try:
            async with asyncio.timeout(LONGEST):
                await transfer.ping()
        except (GatewayError, TimeoutError) as error:
            return Finding(False, _words(error).rstrip("."), service.advice, service.check)
        finally:
            await transfer.close()
        return Finding(True, service.well.format(name=way.name), check=service.check)

    try:
        return list(await asyncio.gather(*(look(*store) for store in stores)))
    finally:
        await pool.close()


def _release(version: str) -> tuple[int, ...]:
    """Return the two numbers that say which release it is."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _words(error: Exception) -> str:
    return error.message if isinstance(error, GatewayError) else f"no answer within {LONGEST:g} s"


def _scheduler_advice(error: GatewayError, settings: SchedulerSettings) -> str:
    """Return what to look at where a scheduler did not answer as it should: slurmrestd, where that is asked."""
    if isinstance(error, LoginNodeError | NeverBegan | CredentialRefused | LoginNodeShut):
        return _advice(error)
    if getattr(settings, "connection_mode", "ssh") == "ssh":
        if isinstance(error, SchedulerUnavailable):
            return "see that the scheduler is up, and that the login node's own commands reach it"
        return _advice(error)
    match error:
        case Forbidden():
            return "see Slurm's auth/jwt: its JWKS, userclaimfield, clocks (operations/slurm-jwt.md)"
        case DaemonDown():
            return "slurmrestd answers: see the daemon that it names, slurmctld or slurmdbd"
        case TimedOut() | SchedulerUnavailable():
            return f"see that slurmrestd runs, and that the gateway reaches {getattr(settings, 'api_url', '')}"
    return "see scheduler.api_url and api_version, and slurmrestd's own log (operations/slurm-jwt.md)"


def _advice(error: Exception) -> str:
    match error:
        case HostKeyRefused():
            return "see the host key above"
        case CredentialRefused():
            return "see sshd's log, and the page on SSH credentials"
        case NeverBegan():
            return "mend the start-up files of the account, or see that it may run commands (sshd, its shell)"
        case LoginNodeShut():
            return "exempt the gateway's address in sshd_config: PerSourcePenaltyExemptList (operations/sshd.md)"
        case TimedOut() | TimeoutError():
            return "see whether the login node is overloaded or a file system of it hangs"
    return "see the login node"
