"""``hpcgate maintenance``: tell running gateways that a system is not to be used for a while."""

import re
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from hpcgate.config import Cluster, MaintenanceWindow, Settings
from hpcgate.config.files import in_time
from hpcgate.config.loading import ENVIRONMENT_VARIABLES

if TYPE_CHECKING:
    from hpcgate.health.maintenance import Notices, Window

app = typer.Typer(help="Take a system out of service for a while, and back, while the gateways run.")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=list(ENVIRONMENT_VARIABLES),
        readable=False,
        help="The gateways' configuration file (YAML).",
    ),
]
SystemArgument = Annotated[str, typer.Argument(help="The system's name, in any case.")]

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


def moment(text: str, now: datetime) -> datetime:
    """Return the moment that an operator means.

    Args:
        text: ISO 8601, the local time zone if it names none, or a duration from now: ``90m``, ``4h``, ``1d12h``.
        now: The present, with its time zone.

    Raises:
        ValueError: It is neither.
    """
    duration = _DURATION.fullmatch(text.strip())
    if duration is not None and any(duration.groups()):
        days, hours, minutes = (int(part or 0) for part in duration.groups())
        return now + timedelta(days=days, hours=hours, minutes=minutes)
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write 2027-02-01T06:00, or 4h for four hours from now") from None
    return given.astimezone() if given.tzinfo is None else given


def _fail(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


def _settings(config: Path | None) -> tuple[Settings, "Notices"]:
    from hpcgate.config.loading import load
    from hpcgate.config.mistakes import ConfigError
    from hpcgate.health.maintenance import Notices

    try:
        settings = load(config)
    except ConfigError as error:
        raise _fail("\n".join(str(mistake) for mistake in error.mistakes)) from None
    if settings.state_directory is None:
        raise _fail("The configuration names no state_directory, so there is nowhere to leave word for the gateways.")
    return settings, Notices(Path(settings.state_directory))


def _system(settings: Settings, name: str) -> Cluster:
    for cluster in settings.clusters:
        if cluster.name.casefold() == name.casefold():
            return cluster
    known = ", ".join(cluster.name for cluster in settings.clusters) or "none at all"
    raise _fail(f"There is no system {name}; the configuration has {known}.")


@app.command("set")
def set_window(
    system: SystemArgument,
    until: Annotated[
        str | None,
        typer.Option(help="When it ends: ISO 8601, or a duration from now as 90m, 4h, 1d12h. Unset: when cleared."),
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="When it begins, in the same way. Unset: now.")] = None,
    reason: Annotated[str, typer.Option(help="What users are told.")] = "",
    config: ConfigOption = None,
) -> None:
    """Put a system under maintenance; replaces what was set before."""
    from hpcgate.health.maintenance import Window

    settings, notices = _settings(config)
    name = _system(settings, system).name
    now = datetime.now().astimezone().replace(microsecond=0)
    try:
        begins = moment(start, now) if start else now
        ends = moment(until, now) if until else None
        if ends is not None and ends <= now:
            raise ValueError("it would be over already")
        window = MaintenanceWindow(start=begins, until=ends, reason=reason)
    except ValueError as error:
        words = error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else error
        raise _fail(f"No maintenance set: {words}") from None
    try:
        in_time(lambda: notices.put(name, window))
    except OSError as error:
        raise _fail(f"Cannot write {notices.path(name)}: {error.strerror}") from None
    typer.echo(f"{name}: {_text(Window.of(window))}")


@app.command()
def clear(system: SystemArgument, config: ConfigOption = None) -> None:
    """Put a system back into service; a window of the configuration stays."""
    settings, notices = _settings(config)
    name = _system(settings, system).name
    try:
        there_was = in_time(lambda: notices.remove(name))
    except OSError as error:
        raise _fail(f"Cannot remove {notices.path(name)}: {error.strerror}") from None
    typer.echo(f"{name}: {'cleared' if there_was else 'nothing was set'}")


@app.command("list")
def list_windows(config: ConfigOption = None) -> None:
    """List the windows that are on or to come, of the configuration and of operators."""
    from hpcgate.health.maintenance import Window

    settings, notices = _settings(config)
    now = time.time()
    for cluster in settings.clusters:
        planned = [Window.of(window) for window in cluster.maintenance]
        try:
            noted = in_time(partial(notices.read, cluster.name))
        except (OSError, ValueError) as error:
            raise _fail(str(error)) from None
        for source, windows in (("configuration", planned), ("operator", noted)):
            for window in windows:
                if not window.over(now):
                    state = "now" if window.active(now) else "planned"
                    typer.echo(f"{cluster.name}: {state}, {_text(window)} ({source})")


def _text(window: "Window") -> str:
    from hpcgate.health.maintenance import iso

    start = "" if window.start is None else f"from {iso(window.start)} "
    words = f": {window.reason}" if window.reason else ""
    return f"{start}until {iso(window.until) or 'cleared'}{words}"
