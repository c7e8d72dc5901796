"""The settings of HTTP: proxies, headers, browsers of other origins, and the patience with slow clients."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from hpcgate.config.base import Model
from hpcgate.config.values import Pause, Seconds


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("must be an IP address or a network, such as 10.0.0.0/8, without bits of a host") from None


def _origin(value: str) -> str:
    scheme, separator, host = value.partition("://")
    if value != "*" and (scheme not in ("http", "https") or not separator or not host or "/" in host):
        raise ValueError("must be *, or a scheme, a host and perhaps a port, such as https://portal.example.org")
    return value


class CorsSettings(Model):
    """Which web pages of other origins may call the API from a browser."""

    allow_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        min_length=1, description="The pages' origins, such as https://portal.example.org; * is any."
    )
    max_age: int = Field(600, ge=0, description="Seconds for which a browser may remember the permission.")


class HttpSettings(Model):
    """How HTTP is served."""

    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; "
        "those of anybody else are ignored.",
    )
    cors: CorsSettings | None = Field(None, description="Access from web pages of other origins; none if unset.")
    security_headers: bool = Field(
        True, description="Add headers that keep browsers from guessing, framing and running what the API answers."
    )
    hsts_max_age: int = Field(
        0, ge=0, description="Seconds for Strict-Transport-Security on answers over TLS; 0 leaves the header out."
    )
    merge_slashes: bool = Field(
        True,
        description="Take slashes in a row in the path of a request for one, but on the way to the metrics, from which "
        "proxies keep others away; else they are answered 404. A proxy with rules for paths has to merge them, too.",
    )
    max_header_size: int = Field(64 * 1024, ge=8192, description="Most bytes of a request's first line and headers.")
    header_timeout: Seconds = Field(
        20, description="Seconds that a client may take for the first line and the headers of a request."
    )
    keep_alive: Pause = Field(5, description="Seconds that a connection may rest between two requests.")
    body_timeout: Seconds = Field(
        60, description="Seconds that a request's body may take to arrive, those that stream apart."
    )
    min_body_rate: int = Field(
        512,
        ge=1,
        description="Bytes a second that a client must send of a streamed body, on average and beyond "
        "streams.stall_timeout; time in which the gateway takes nothing does not count.",
    )
    max_bodies_per_user: int = Field(
        256, ge=1, description="Most request bodies of one user that may be arriving at a time; more are told 429."
    )
    max_body_memory: int = Field(
        256 * 1024 * 1024,
        ge=32 * 1024 * 1024,
        description="Most bytes of request bodies, those that stream apart, that are kept at a time; a quarter for one "
        "user.",
    )
    send_timeout: Seconds = Field(60, description="Seconds that a client may take nothing of an answer.")
    max_requests: int = Field(
        5000,
        ge=32,
        description="Most requests at a time, those that wait included, streams apart; more are answered 503. "
        "Each takes some 20 KiB.",
    )
    max_delay: Seconds = Field(
        10, description="Seconds that a request may wait for its turn; one that would wait longer is answered 503."
    )
    drain: Pause = Field(
        10,
        description="Seconds after SIGTERM for which connections are still taken while /status/readiness says 503, so "
        "that load balancers take note; 0 if none has asked for readiness within the last minute.",
    )
    graceful_stop: Pause = Field(
        30, description="Seconds that requests under way, streams included, have to finish after that."
    )
