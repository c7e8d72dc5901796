"""The command line: serve, check, demo, openapi, token, version."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hpcgate import __version__
from hpcgate.config import Settings
from hpcgate.health.command import app as maintenance_app

app = typer.Typer(
    name="hpcgate",
    help="A FirecREST-compatible HTTP gateway to HPC systems.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="YAML_CONFIG_FILE", help="The configuration file (YAML)."),
]


TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="HPCGATE_TOKEN_FILE", help="A file with the access token; - is standard input.", show_default=False
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
        typer.Option(envvar="HPCGATE_TLS_CERT", help="Serve HTTPS with this certificate and its chain (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="HPCGATE_TLS_KEY", help="The certificate's private key (PEM), if in a file of its own."),
    ] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    if tls_key is not None and tls_cert is None:
        raise typer.BadParameter("needs --tls-cert", param_hint="--tls-key")
    settings = _load(config)
    from hpcgate.config.loading import load
    from hpcgate.serving import serve as serve_settings
    from hpcgate.tls import Unusable

    try:
        serve_settings(settings, host=host, port=port, tls_cert=tls_cert, tls_key=tls_key, load=lambda: load(config))
    except Unusable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The configuration file (YAML).")],
    connect: Annotated[
        bool, typer.Option("--connect", help="Call all that it names: the IdP, login nodes, schedulers, stores.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HPCGATE_TOKEN",
            help="Log in as the user of this access token; by default as each system's service account. "
            "ps shows it: better use the environment variable, or a file.",
        ),
    ] = None,
    token_file: TokenFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """List every mistake of a configuration; exit 1 if there is one.

    With --connect everything that the configuration names is called, and each line has a tick, a warning or a cross and
    what to do about it: the IdP's keys, token endpoint and clock; each login node's host key, MaxSessions, MaxStartups,
    SFTP and clock; the scheduler and its version; the file systems; S3. Exit 1 if there is a cross.
    """
    from hpcgate.config.check import report

    lines, status = report(config)
    findings: list[tuple[str, Any]] = []
    if connect and status == 0:
        from hpcgate.checking.walk import walk

        _be_silent()
        findings = asyncio.run(walk(_load(config), _token(token, token_file)))
        status = int(any(finding.good is False for _, finding in findings))
    if as_json:
        document = {
            "status": status,
            "configuration": lines,
            "findings": [
                {
                    "about": about,
                    "check": finding.check,
                    "outcome": OUTCOMES[finding.good][0],
                    "text": finding.text,
                    "advice": finding.advice or None,
                }
                for about, finding in findings
            ],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        for line in lines:
            typer.echo(line)
        for about, finding in findings:
            advice = f" \N{RIGHTWARDS ARROW} {finding.advice}" if finding.advice else ""
            typer.echo(f"{OUTCOMES[finding.good][1]} {about}: {finding.text}{advice}")
    raise typer.Exit(status)


OUTCOMES = {True: ("ok", "\N{CHECK MARK}"), None: ("warning", "!"), False: ("failed", "\N{BALLOT X}")}
"""The word and the mark of each outcome."""


def _be_silent() -> None:
    """Keep log lines out of what a command prints: what they say is in its findings."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def _token(token: str | None, file: Path | None) -> str | None:
    """Return the token of an option, a file or standard input."""
    if file is None:
        return token
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeError) as error:
        raise _failure(f"Cannot read the token: {_reason(error)}") from None
    return text.strip()


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "it is no text"
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _failure(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


@app.command()
def openapi(
    config: ConfigOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Print the OpenAPI document, of a configuration or in general."""
    from hpcgate.app import create_app

    general = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
    }
    settings = Settings.model_validate(general) if config is None else _load(config)
    text = json.dumps(create_app(settings).openapi(), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once/--stay", envvar="ONCE", help="Exit after the tour instead of staying up.")
    ] = False,
    install: Annotated[bool, typer.Option(help="Install missing Debian packages.")] = True,
) -> None:
    """Start a whole HPC cluster on this machine, with the gateway before it, and give a tour of the API."""
    from hpcgate.demo.show import show

    raise typer.Exit(show(once=once, install=install, console=Console()))


@app.command()
def token(
    token_url: Annotated[str, typer.Option(envvar="AUTH_TOKEN_URL", help="The IdP's token endpoint.")],
    client_id: Annotated[str, typer.Option(envvar="FIRECREST_CLIENT_ID", help="The client's id.")],
    client_secret: Annotated[
        str | None, typer.Option(envvar="FIRECREST_CLIENT_SECRET", help="The client's secret; asked for if not given.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Scopes, separated by blanks.")] = None,
) -> None:
    """Get an access token by client credentials and print it."""
    from hpcgate.auth.client_credentials import TokenRefused, fetch_token

    secret = client_secret if client_secret is not None else typer.prompt("Client secret", hide_input=True)
    try:
        typer.echo(asyncio.run(fetch_token(token_url, client_id, secret, scope=scope)).access_token)
    except TokenRefused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


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
    """Run the command line."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()


if __name__ == "__main__":
    main()
