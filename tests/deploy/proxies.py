"""HAProxy, nginx and Envoy in front of several gateways, by the files of `deploy` with other addresses and ports."""

import datetime
import ipaddress
import os
import re
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hpcgate.demo.cluster import Cluster, Gateway, silent
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.processes import Daemon

DEPLOY = Path(__file__).parents[2] / "deploy"
KINDS = ("haproxy", "nginx", "envoy")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        kind: Which one.
        url: Where it listens, by HTTPS.
        daemon: Its process.
        directory: What it may write to.
        trust: What a client needs to believe its certificate.
    """

    kind: str
    url: str
    daemon: Daemon
    directory: Path
    trust: ssl.SSLContext

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, verify=self.trust, timeout=600, **options)


def start_proxy(kind: str, cluster: Cluster, gateways: Sequence[Gateway], patience: str = "75s") -> Proxy:
    """Start one and wait until a gateway answers through it; ``patience`` replaces the time-outs of 75 seconds."""
    port = cluster.take_port()
    directory = cluster.directory / f"{kind}-{port}"
    directory.mkdir()
    certificate(directory)
    addresses = [gateway.url.removeprefix("http://") for gateway in gateways]
    argv = {"haproxy": _haproxy, "nginx": _nginx, "envoy": _envoy}[kind](directory, port, addresses, patience)
    url = f"https://127.0.0.1:{port}"
    trust = ssl.create_default_context(cafile=directory / "fullchain.pem")
    daemon = Daemon(cluster.keeper, kind, argv, log=directory / "log", ready=lambda _: _answers(url, trust))
    daemon.start()
    return Proxy(kind, url, daemon, directory, trust)


def certificate(directory: Path) -> None:
    """Write a certificate for 127.0.0.1 and its key, apart and in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpcgate.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in (("fullchain.pem", chain), ("privkey.pem", private), ("hpcgate.pem", chain + private)):
        (directory / file).write_bytes(content)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Return a text with each pattern, which must be there, replaced."""
    for pattern, replacement in changes:
        text, count = re.subn(pattern, lambda _, new=replacement: new, text, flags=re.MULTILINE)  # type: ignore[misc]
        assert count, pattern
    return text


def _haproxy(directory: Path, port: int, addresses: Sequence[str], patience: str) -> list[str]:
    ensure_installed({"haproxy": "haproxy"}, silent)
    servers = "\n".join(f"    server gateway-{number} {address}" for number, address in enumerate(addresses))
    text = changed(
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
        (r"bind :443 ", f"bind 127.0.0.1:{port} "),
        ("/etc/haproxy/certs", str(directory)),
        (r"(\n    server gateway-.*)+", f"\n{servers}"),
        ("75s", patience),
    )
    if os.geteuid() != 0:
        text = changed(text, (r"^    (user|group) haproxy\n", ""))
    config = directory / "haproxy.cfg"
    config.write_text(text)
    return [program("haproxy"), "-db", "-f", str(config)]


def _nginx(directory: Path, port: int, addresses: Sequence[str], patience: str) -> list[str]:
    ensure_installed({"nginx": "nginx"}, silent)
    servers = "\n".join(f"    server {address} max_fails=1 fail_timeout=1s;" for address in addresses)
    text = changed(
        (DEPLOY / "nginx" / "hpcgate.conf").read_text(),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/nginx/hpcgate", str(directory)),
        (r"(\n    server 10[^\n]*max_fails=1 fail_timeout=1s;)+", f"\n{servers}"),
        ("75s", patience),
    )
    (directory / "hpcgate.conf").write_text(text)
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    lines = [
        *(["user root;"] if os.geteuid() == 0 else []),
        "worker_processes 2;",
        f"pid {directory}/nginx.pid;",
        "events { worker_connections 1024; }",
        "http {",
        f"access_log {directory}/access.log;",
        *(f"{kind}_temp_path {directory}/{kind};" for kind in temporary),
        f"include {directory}/hpcgate.conf;",
        "}",
    ]
    config = directory / "nginx.conf"
    config.write_text("\n".join(lines) + "\n")
    return [program("nginx"), "-p", str(directory), "-e", "stderr", "-g", "daemon off;", "-c", str(config)]


def _envoy(directory: Path, port: int, addresses: Sequence[str], patience: str) -> list[str]:
    text = changed((DEPLOY / "envoy" / "envoy.yaml").read_text(), ("/etc/envoy/tls", str(directory)), ("75s", patience))
    document = yaml.safe_load(text)
    resources = document["static_resources"]
    listening = resources["listeners"][0]["address"]["socket_address"]
    listening |= {"address": "127.0.0.1", "port_value": port}
    (endpoints,) = resources["clusters"][0]["load_assignment"]["endpoints"]
    places = [address.rsplit(":", 1) for address in addresses]
    endpoints["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(one)}}}} for host, one in places
    ]
    config = directory / "envoy.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    envoy = str(Path(sys.executable).with_name("envoy"))
    return [envoy, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "-c", str(config)]


def _answers(url: str, trust: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{url}/status/readiness", verify=trust).status_code == 200
    except httpx.TransportError:
        return False
