"""The command line: serve, check, demo, openapi, token, version."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

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
        bool, typer.Option("--connect", help="Look at each login node's and jump host's host keys, too.")
    ] = False,
) -> None:
    """List every mistake of a configuration; exit 1 if there is one.

    With --connect each login node and jump host is called, without a user or a credential, and its host keys are shown
    with what the gateway would make of them; exit 1 if it would not connect to one.
    """
    from hpcgate.config.check import report

    lines, status = report(config)
    for line in lines:
        typer.echo(line)
    if connect and status == 0:
        status = asyncio.run(_survey(_load(config)))
    raise typer.Exit(status)


async def _survey(settings: Settings) -> int:
    from hpcgate.ssh.survey import survey

    status = 0
    found = await asyncio.gather(*(survey(cluster.name, cluster.ssh) for cluster in settings.clusters))
    for cluster, findings in zip(settings.clusters, found, strict=True):
        for finding in findings:
            mark = {True: "\N{CHECK MARK}", None: "!", False: "\N{BALLOT X}"}[finding.good]
            typer.echo(f"{mark} {cluster.name}: {finding.text}")
            status |= finding.good is False
    return status


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
