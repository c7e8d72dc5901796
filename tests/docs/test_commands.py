"""Commands and Python on the pages, run as they stand on a real cluster but for names of places."""

import itertools
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import ensure_installed
from tests.cluster.transfer_clients import ACCOUNT
from tests.docs import recipes
from tests.docs.test_walk import PAGES as WALKED
from tests.transfers.object_store import ObjectStore
from tests.transfers.servers import free_port

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
KINDS = {"sh": "sh", "console": "sh", "bash": "sh", "": "sh", "python": "python"}

ELSEWHERE = {
    "make demo": "CI and every developer run it: make test is what runs this test",
    "hpcgate [--help]": "a synopsis; tests/cli/test_docs.py holds it against the program",
    "hpcgate check FILE": "a synopsis; tests/cli/test_docs.py",
    "hpcgate maintenance set SYSTEM": "a synopsis; tests/cli/test_docs.py",
    "hpcgate maintenance clear SYSTEM": "a synopsis; tests/cli/test_docs.py",
    "#!/bin/sh\n# /etc/slurm/hpcgate.header": "tests/cluster/test_notifications.py runs it",
    "Match Address": "settings of sshd; tests/cluster/test_recommended_sshd.py has the whole block",
    "@cert-authority": "a line of known_hosts; tests/ssh/test_host_keys.py has its like",
    "pip install ./example-scheduler": "tests/cluster/test_example_scheduler.py",
    "class BackgroundSettings": "a part of the example; tests/cluster/test_example_scheduler.py looks for it there",
    "async def work": "a part of the code; tests/cluster/test_example_scheduler.py",
    "def parse_list": "a part of the code; tests/cluster/test_example_scheduler.py",
    "if not _ID.fullmatch": "a part of the code; tests/cluster/test_example_scheduler.py",
    "python3 -m venv /opt": "the same commands in another place are run by test_walk.py",
    "install -m 644": "needs systemd as the first process; tests/deploy/test_systemd.py looks at the files",
    "podman build": "needs a container engine; tests/deploy/test_container.py lints the file",
    "kubectl create": "needs Kubernetes; tests/deploy/test_helm.py renders and lints by Helm's own library",
    "haproxy -c": "tests/deploy/test_proxies.py starts all three",
    "hpcgate check /etc/hpcgate/config.yaml && systemctl": "needs systemd; tests/faults/test_reload.py sends SIGHUP",
    "AuthAltTypes": "settings of Slurm; tests/cluster/test_slurm_rest.py runs a Slurm with them",
    "# slurm.conf": "settings of Slurm; tests/cluster/test_slurm_rest.py",
    "SLURM_JWT=daemon slurmrestd -a": "of a newer Slurm; tests/cluster/test_slurm_rest.py starts Debian's",
    "sshd -t": "would look at this machine's own sshd; test_operations.py does it with a file",
    "cat /etc/ssh": "shows the host keys of whatever machine it is typed on",
}
"""How a block begins that is not run here, and why, or where it is."""


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    kind: str
    text: str
    prints: str = ""
    """What the page says that it prints."""

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:50]}"


def blocks() -> Iterator[Block]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        page = str(path.relative_to(ROOT))
        if path.name in WALKED:
            continue
        written = recipes.beside_the_recipes() if path == recipes.PAGE else path.read_text()
        found = [(kind, title, textwrap.dedent(text)) for _, kind, title, text in BLOCK.findall(written)]
        for (kind, _, text), (_, title, shown) in itertools.pairwise([*found, ("", "", "")]):
            if kind in KINDS:
                yield Block(page, KINDS[kind], text, shown if f'"{recipes.PRINTS}"' in title else "")


def elsewhere(block: Block) -> bool:
    return any(block.text.startswith(beginning) for beginning in ELSEWHERE)


HERE = [block for block in blocks() if not elsewhere(block)]


def test_what_is_said_to_be_elsewhere_is_on_a_page() -> None:
    for beginning in ELSEWHERE:
        assert any(block.text.startswith(beginning) for block in blocks()), beginning
    for where in re.findall(r"tests/[\w/]+\.py", " ".join(ELSEWHERE.values())):
        assert (ROOT / where).exists(), where


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def site(cluster: Cluster, store: ObjectStore) -> Iterator[Gateway]:
    """A gateway that knows the systems of the pages, and moves data by S3."""
    notices = cluster.directory / "notices"
    notices.mkdir()
    transfer: dict[str, Any] = {"data_operation": {"data_transfer": store.settings(poll_interval=0.5)}}
    # Three systems on one login node, and users who log in meanwhile: more at once than sshd takes by default.
    sshd = cluster.start_sshd(max_startups="100:30:300")
    config = cluster.write_gateway_config(
        cluster.directory / "docs.yaml",
        clusters=[cluster.cluster_settings(name, sshd=sshd, **transfer) for name in ("demo", "alps", "daint")],
        state_directory=str(notices),
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Path:
    """What the pages call /scratch/alice, with what is there on the pages."""
    ensure_installed({"aria2c": "aria2"}, lambda _: None)
    alice = cluster.user("alice")
    place = cluster.scratch / "alice"
    cluster.as_user(alice, ["sh", "-c", f"mkdir {place} {place}/run"])
    cluster.as_user(alice, ["sh", "-c", f"seq 100 > {place}/run/numbers"])
    return place


@pytest.fixture(scope="module")
def desk(site: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which commands are typed, with the configuration by all the names that the pages give it."""
    directory = tmp_path_factory.mktemp("desk")
    for name in ("config.yaml", "hpcgate.yaml", "gateway.yaml", "firecrest.yaml"):
        (directory / name).write_bytes(site.configuration.read_bytes())
    key, certificate = directory / "privkey.pem", directory / "fullchain.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return directory


def typed(block: Block, cluster: Cluster, desk: Path, home: Path) -> str:
    """Return a block with the places of this cluster."""
    text = re.sub(r"^\$ ", "", block.text, flags=re.MULTILINE)
    for shown, real in (
        ("/scratch/alice", home),
        ("/etc/hpcgate/tls", desk),
        ("/etc/slurm", desk),
        ("https://idp.example.org/realms/hpc/protocol/openid-connect/certs", cluster.idp.jwks_url),
        ('account="demo"', f'account="{ACCOUNT}"'),
        ("--port 8443", f"--port {free_port()}"),
        ("--port 8000", f"--port {free_port()}"),
    ):
        text = text.replace(shown, str(real))
    return text


@pytest.mark.parametrize("block", HERE, ids=str)
def test_it_works(block: Block, cluster: Cluster, site: Gateway, desk: Path, home: Path, tmp_path: Path) -> None:
    """Each command on the pages works as it stands there."""
    alice = cluster.user("alice")
    facts = {"URL": site.url, "TOKEN": cluster.token(alice), "TOKEN_URL": cluster.idp.token_url,
             "CLIENT_ID": alice.client_id, "CLIENT_SECRET": alice.client_secret}  # fmt: skip
    environment = os.environ | facts | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "YAML_CONFIG_FILE": str(desk / "config.yaml"),
        "FIRECREST_URL": site.url, "AUTH_TOKEN_URL": cluster.idp.token_url, "FIRECREST_SYSTEM": "demo",
        "FIRECREST_CLIENT_ID": alice.client_id, "FIRECREST_CLIENT_SECRET": alice.client_secret,
    }  # fmt: skip
    text = typed(block, cluster, desk, home)
    # Whatever another block has made of it.
    made = f"head -c 300000 /dev/urandom > {home}/data.h5; printf '1\\n2\\n3\\n' > {home}/steps"
    cluster.as_user(alice, ["sh", "-c", made])
    if block.kind == "python":
        (desk / "data.h5").write_bytes(os.urandom(1000))
        names = "".join(f"{name.lower()} = {value!r}\n" for name, value in facts.items())
        argv = [sys.executable, "-c", names + text]
    elif "hpcgate serve" in text:
        assert_it_serves(text, desk, environment)
        return
    else:
        if " -T data.h5" in text:
            (desk / "data.h5").unlink(missing_ok=True)
        if "tar -cz run" in text:
            (desk / "run").mkdir(exist_ok=True)
        # What is to be resumed must have been broken off.
        text = re.sub(r"^(curl .* -C - )", r"truncate -s 1000 data.h5\n\1", text, flags=re.MULTILINE)
        argv = ["bash", "-e", "-o", "pipefail", "-c", text.replace("curl -H", "curl -sS --fail-with-body -H")]
    done = subprocess.run(argv, cwd=desk, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    # The user guide shows whatever is printed.
    if block.prints or block.page.startswith("docs/users/"):
        assert recipes.matches(block.prints, done.stdout), f"{block.prints}\n--- is not ---\n{done.stdout}"


def assert_it_serves(text: str, desk: Path, environment: dict[str, str]) -> None:
    """Run what comes before `serve`, then serve, until it says that it is alive."""
    lines = text.replace("\\\n", " ").splitlines()
    port = free_port()
    for line in lines:
        command = line.partition("#")[0].strip()
        if " serve" not in command:
            subprocess.run(["bash", "-e", "-c", command], cwd=desk, env=environment, check=True, timeout=300)
            continue
        if "--port" not in command:
            command += f" --port {port}"
        found = int(re.findall(r"--port (\d+)", command)[0])
        scheme = "https" if "--tls-cert" in command else "http"
        with subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=desk,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                deadline = time.monotonic() + 120
                while True:
                    try:
                        answer = httpx.get(f"{scheme}://localhost:{found}/status/liveness/", verify=False)
                        break
                    except httpx.TransportError:
                        assert process.poll() is None
                        assert time.monotonic() < deadline
                        time.sleep(0.1)
                assert answer.status_code == 200
            finally:
                process.terminate()
                process.communicate(timeout=600)


def test_the_configuration_of_the_readme_is_whole() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert set(yaml.safe_load(text)) == {"auth", "ssh_credentials", "clusters"}
