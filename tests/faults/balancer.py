"""HAProxy before several gateways, as the documentation shows it."""

import re
from collections.abc import Sequence
from pathlib import Path

import httpx

from hpcgate.demo.cluster import Cluster, Gateway, silent
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.processes import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "staying-up.md"


def configuration(port: int, gateways: Sequence[Gateway]) -> str:
    """Return the documented configuration with this port and these servers in place of those of the page."""
    shown = re.search(r"^```haproxy\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert shown is not None
    kept = [line for line in shown[1].splitlines() if not re.match(r"\s+(server|bind) ", line)]
    text = "\n".join(kept).replace("frontend api", f"frontend api\n    bind 127.0.0.1:{port}")
    servers = [f"    server gateway-{number} {one.url[7:]}" for number, one in enumerate(gateways)]
    return "\n".join([text, *servers, ""])


def start_balancer(cluster: Cluster, gateways: Sequence[Gateway]) -> tuple[Daemon, str]:
    """Start it and return it with its URL."""
    ensure_installed({"haproxy": "haproxy"}, silent)
    port = cluster.take_port()
    config = cluster.directory / "haproxy.cfg"
    config.write_text(configuration(port, gateways))
    url = f"http://127.0.0.1:{port}"
    daemon = Daemon(
        cluster.keeper,
        "haproxy",
        [program("haproxy"), "-db", "-f", str(config)],
        log=cluster.directory / "haproxy.log",
        ready=lambda _: answers(url),
    )
    daemon.start()
    return daemon, url


def answers(url: str) -> bool:
    """Say whether a gateway answers through it."""
    try:
        return httpx.get(f"{url}/status/readiness").status_code == 200
    except httpx.TransportError:
        return False
