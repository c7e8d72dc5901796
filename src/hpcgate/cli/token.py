"""``hpcgate token``: get a token, or see what one says and what a gateway makes of it."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hpcgate.config import ConfigError, ServiceAccount, Settings, load
from hpcgate.config.files import read_text
from hpcgate.config.loading import ENVIRONMENT_VARIABLES
from hpcgate.errors import GatewayError
from hpcgate.threads import Threads

if TYPE_CHECKING:
    from hpcgate.auth.principal import Principal

T = TypeVar("T")

TokenOption = Annotated[
    str | None,
    typer.Option(envvar="HPCGATE_TOKEN", help="An access token. ps shows it: better use the variable, or a file."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="HPCGATE_TOKEN_FILE", readable=False, help="A file with the access token; - is standard input."
    ),
]

_TIMES = ("exp", "nbf", "iat", "auth_time")


def token(
    token_url: Annotated[
        str | None,
        typer.Option(envvar="AUTH_TOKEN_URL", help="The IdP's token endpoint; by default the configuration's."),
    ] = None,
    client_id: Annotated[str | None, typer.Option(envvar="FIRECREST_CLIENT_ID", help="The client's id.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(envvar="FIRECREST_CLIENT_SECRET", help="The client's secret; asked for if not given.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Scopes, separated by blanks.")] = None,
    system: Annotated[
        str | None, typer.Option(help="Be the service account of this system of the configuration.")
    ] = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="Show what a token says, and with --config whether the gateway would accept it."),
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", envvar=list(ENVIRONMENT_VARIABLES), readable=False, help="The configuration file (YAML)."
        ),
    ] = None,
) -> None:
    """Get an access token by client credentials and print it; or show one.

    With --show nothing is asked for: the header and the claims of a token are printed, its signature aside, and with
    --config whether the gateway would accept it, and as which user. Exit 1 if it would not.
    """
    if show:
        raise typer.Exit(_show(given_token(token, token_file) or _typed(), config))
    from hpcgate.auth.client_credentials import TokenRefused, fetch_token

    settings = _settings(config) if system is not None or token_url is None else None
    account = None if settings is None or system is None else _account(settings, system)
    if account is not None:
        client_id, secret = account.client_id, account.secret.get_secret_value()
        scope = scope or account.scope
    elif client_id is None:
        raise typer.BadParameter("is required, or --system", param_hint="--client-id")
    elif client_secret is not None:
        secret = client_secret
    else:
        secret = typer.prompt("Client secret", hide_input=True, err=True)
    oidc = None if settings is None else settings.auth.authentication
    url = token_url or (oidc.token_url if oidc is not None else "")
    method = "client_secret_post" if oidc is None else oidc.token_endpoint_auth_method
    try:
        granted = run(fetch_token(url, client_id, secret, scope=scope, method=method))
    except TokenRefused as error:
        raise failure(str(error)) from None
    typer.echo(granted.access_token)


def given_token(token: str | None, file: Path | None) -> str | None:
    """Return the token of an option or of a file, None if there is none. An unreadable file ends the command."""
    if file is None:
        return token
    try:
        text = sys.stdin.read() if str(file) == "-" else read_text(file)
    except OSError as error:
        raise failure(f"Cannot read the token: {file}: {error.strerror}") from None
    except UnicodeError:
        raise failure(f"Cannot read the token: {file} is not text") from None
    return text.strip()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command waits for. Its end waits for no thread that hangs, in a look-up of a name for example."""

    async def all_of_it() -> T:
        asyncio.get_running_loop().set_default_executor(Threads("worker"))
        return await work

    return asyncio.run(all_of_it())


def failure(message: str) -> typer.Exit:
    """Print a line for the user, and return what ends the command with status 1."""
    typer.echo(message, err=True)
    return typer.Exit(1)


def be_silent() -> None:
    """Keep log lines out of what a command prints: what they say is in its answer."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def _typed() -> str:
    if sys.stdin.isatty():
        raise typer.BadParameter("is required, or HPCGATE_TOKEN", param_hint="--token-file")
    text = sys.stdin.read().strip()
    if not text:
        raise failure("No token was given.")
    return text


def _settings(config: Path | None) -> Settings:
    if config is None:
        raise typer.BadParameter("is required, or --config", param_hint="--token-url")
    try:
        return load(config)
    except ConfigError as error:
        raise failure(str(error)) from None


def _account(settings: Settings, system: str) -> ServiceAccount:
    for cluster in settings.clusters:
        if cluster.name.casefold() == system.casefold():
            if cluster.service_account is None:
                raise failure(f"The system {cluster.name} has no service_account.")
            return cluster.service_account
    known = ", ".join(cluster.name for cluster in settings.clusters) or "none at all"
    raise failure(f"There is no system {system}; the configuration has {known}.")


def _show(token: str, config: Path | None) -> int:
    from hpcgate.auth.keys import decode_base64url, decode_json

    parts = token.split(".")
    header, claims = (decode_json(decode_base64url(part) or b"") for part in (parts + [""] * 2)[:2])
    if isinstance(header, dict) and isinstance(claims, dict):
        typer.echo(json.dumps({"header": header, "claims": claims}, indent=2, ensure_ascii=False))
        for line in _in_words(claims):
            typer.echo(line)
    else:
        typer.echo("The token is not a JWT: only the IdP knows what it says.")
    if config is None:
        typer.echo("! not verified: --config says by which rules")
        return 0
    be_silent()
    try:
        principal = run(_verify(token, _settings(config)))
    except GatewayError as error:
        typer.echo(f"\N{BALLOT X} refused, with status {error.status}: {error.message}")
        return 1
    typer.echo(f"\N{CHECK MARK} accepted, as the user {principal.username}")
    return 0


def _in_words(claims: dict[str, Any]) -> list[str]:
    lines = []
    for name in _TIMES:
        moment = claims.get(name)
        if isinstance(moment, int | float) and abs(moment) < 1e11:
            seconds = moment - time.time()
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
            lines.append(f"{name}: {when}, {_span(abs(seconds))} {'from now' if seconds > 0 else 'ago'}")
    return lines


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


async def _verify(token: str, settings: Settings) -> "Principal":
    from hpcgate.auth.jwks import Jwks
    from hpcgate.auth.tokens import TokenVerifier

    authentication = settings.auth.authentication
    jwks = Jwks(authentication)
    tokens = TokenVerifier(authentication, jwks, settings.http.max_header_size)
    try:
        await jwks.renew()
        return await tokens.principal(token)
    finally:
        await tokens.close()
        await jwks.close()
