"""The command line."""

import atexit
import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hpcgate import __version__
from hpcgate.cli.maintenance import app as maintenance_app
from hpcgate.cli.token import TokenFileOption, TokenOption, be_silent, failure, given_token, run
from hpcgate.cli.token import token as token_command
from hpcgate.config import Settings
from hpcgate.config.files import in_time
from hpcgate.config.loading import ENVIRONMENT_VARIABLES
from hpcgate.config.monitoring import TracingSettings

app = typer.Typer(
    name="hpcgate",
    help="A FirecREST-compatible HTTP gateway to HPC systems.",
    epilog="Exit status: 0 for success, 1 if something is wrong, which is said, 2 for a wrong command line, 3 if the "
    "server could not start.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    # readable: what reads it says what is wrong, and that is not a mistake of the command line.
    typer.Option(
        "--config", "-c", envvar=list(ENVIRONMENT_VARIABLES), readable=False, help="The configuration file (YAML)."
    ),
]


def _load(config: Path | None) -> Settings:
    from hpcgate.config.loading import load
    from hpcgate.config.mistakes import ConfigError

    try:
        return load(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            typer.echo(str(mistake), err=True)
        raise typer.Exit(1) from None


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 picks a free one.", min=0, max=65535)] = 8000,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="HPCGATE_TLS_CERT", readable=False, help="Serve HTTPS with this certificate and its chain (PEM)."
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="HPCGATE_TLS_KEY",
            readable=False,
            help="The certificate's private key (PEM), if in a file of its own.",
        ),
    ] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C; SIGHUP reloads the configuration."""
    if tls_key is not None and tls_cert is None:
        raise typer.BadParameter("needs --tls-cert", param_hint="--tls-key")
    from hpcgate.server.starting import Starting

    starting = Starting("reading the configuration")
    settings = _load(config)
    from hpcgate.config.loading import load
    from hpcgate.server.run import serve as serve_settings
    from hpcgate.server.tls import Unusable

    try:
        serve_settings(
            settings,
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            load=lambda: load(config),
            starting=starting,
        )
    except Unusable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.command()
def check(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(envvar=list(ENVIRONMENT_VARIABLES), readable=False, help="The configuration file (YAML)."),
    ] = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Call all that it names: the IdP, login nodes, schedulers, stores.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """List every mistake of a configuration; exit 1 if there is one.

    With --connect everything that the configuration names is called, as each system's service account or as the user of
    a token, and each line has a tick, a warning or a cross and what to do about it: the IdP's keys, token endpoint and
    clock; each login node's host key, MaxSessions, MaxStartups, SFTP and clock; the scheduler and its version; the file
    systems; object stores. Exit 1 if there is a cross.
    """
    from hpcgate.config.check import report

    if not connect and any(_typed(context, name) for name in ("token", "token_file")):
        raise typer.BadParameter("a token is for --connect; without it nothing is called", param_hint="--token")
    if config is None:
        raise typer.BadParameter(f"name a file, here or by {ENVIRONMENT_VARIABLES[0]}", param_hint="config")
    lines, status = report(config)
    findings: list[tuple[str, Any]] = []
    if connect and status == 0:
        from hpcgate.diagnosis.run import walk

        be_silent()
        findings = run(walk(_load(config), given_token(token, token_file)))
        status = int(any(finding.good is False for _, finding in findings))
    if as_json:
        typer.echo(_as_json(status, lines, findings))
    else:
        for line in lines:
            typer.echo(line)
        for about, finding in findings:
            advice = f" \N{RIGHTWARDS ARROW} {finding.advice}" if finding.advice else ""
            typer.echo(f"{OUTCOMES[finding.good][1]} {about}: {finding.text}{advice}")
    raise typer.Exit(status)


def _as_json(status: int, lines: Sequence[str], findings: Sequence[tuple[str, Any]]) -> str:
    shown = [
        {
            "about": about,
            "check": finding.check,
            "outcome": OUTCOMES[finding.good][0],
            "text": finding.text,
            "advice": finding.advice or None,
        }
        for about, finding in findings
    ]
    return json.dumps({"status": status, "configuration": lines, "findings": shown}, indent=2)


def _typed(context: typer.Context, name: str) -> bool:
    """Say whether an option stands on the command line, not only in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


OUTCOMES = {True: ("ok", "\N{CHECK MARK}"), None: ("warning", "!"), False: ("failed", "\N{BALLOT X}")}
"""The word and the mark of each outcome."""


@app.command()
def openapi(
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", readable=False, help="Write here instead of printing.")
    ] = None,
) -> None:
    """Print the OpenAPI document, of a configuration or in general."""
    from hpcgate.server.app import create_app

    general = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
    }
    settings = Settings.model_validate(general) if config is None else _load(config)
    # To describe the API nothing need be sent anywhere.
    app = create_app(settings.model_copy(update={"tracing": TracingSettings()}))
    text = json.dumps(app.openapi(), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        in_time(lambda: output.write_text(text))
    except OSError as error:
        raise failure(f"Cannot write {output}: {error.strerror}") from None


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once/--stay", envvar="ONCE", help="Exit after the tour instead of staying up.")
    ] = False,
    install: Annotated[bool, typer.Option(help="Install missing Debian packages.")] = True,
    cluster: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            readable=False,
            help="Start the cluster alone, and write there what a gateway's configuration has to know of it.",
        ),
    ] = None,
) -> None:
    """Start a whole HPC cluster on this machine, with the gateway before it, and give a tour of the API."""
    from rich.console import Console

    from hpcgate.demo.show import host, show

    # This one stays, and makes objects all the while.
    gc.freeze()
    gc.enable()
    if cluster is not None:
        raise typer.Exit(host(directory=cluster, install=install, console=Console()))
    raise typer.Exit(show(once=once, install=install, console=Console()))


app.command()(token_command)


@app.command("api-key")
def api_key() -> None:
    """Make an API key and print it with the hash that a configuration holds (auth.api_keys).

    The key is shown this once. Nothing is stored or sent.
    """
    from hpcgate.auth.api_keys import hash_of, new_key

    key = new_key()
    typer.echo(f"key: {key}")
    typer.echo(f"hash: {hash_of(key)}")


app.add_typer(maintenance_app, name="maintenance", no_args_is_help=True)

config_app = typer.Typer(help="About configuration files.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    from hpcgate.config.reference import schema as json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line.

    Nothing is looked through for garbage meanwhile, nor at the end: a command loads some 200,000 objects, which stay,
    and to look through them again and again was a quarter of its time (docs/decisions/garbage.md). A command that goes
    on begins to look once it has loaded.
    """
    gc.disable()
    atexit.register(gc.freeze)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()


if __name__ == "__main__":
    main()
