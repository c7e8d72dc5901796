"""The operator's pages: sshd makes of its block what they say, and FirecREST's file loads as it is."""

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

from hpcgate.config import load
from hpcgate.demo.keys import Key
from hpcgate.demo.packages import ensure_installed, program

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, kind: str) -> Iterator[str]:
    text = next(DOCS.rglob(page)).read_text()
    for indent, block in re.findall(rf"^( *)```{kind}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
        assert not indent or block.startswith(indent)
        yield textwrap.dedent(block)


def test_a_firecrest_file_loads_as_it_is(tmp_path: Path) -> None:
    (text,) = blocks("migration.md", "yaml")
    (tmp_path / "secret").write_text("a secret")
    file = tmp_path / "firecrest.yaml"
    file.write_text(re.sub(r"secret_file:[^\s\"]+", f"secret_file:{tmp_path}/secret", text))
    settings = load(file)
    (cluster,) = settings.clusters
    assert cluster.probing.interval_check == 120
    assert cluster.data_operation.datatransfer_jobs_directives[0] == "#SBATCH --account={account}"
    assert settings.auth.authentication.public_certs[0].endswith("/certs")


def test_sshd_takes_the_block_and_it_holds_for_the_gateway_alone(tmp_path: Path) -> None:
    ensure_installed({"sshd": "openssh-server"}, lambda _: None)
    (block,) = blocks("sshd.md", "sshd_config")
    host_key = Key.make("host").write(tmp_path / "host_key")
    file = tmp_path / "sshd_config"
    file.write_text(f"HostKey {host_key}\n{block}")
    if os.geteuid() == 0:
        # It looks for its directory even where it only tests.
        Path("/run/sshd").mkdir(exist_ok=True)
    subprocess.run([program("sshd"), "-t", "-f", file], check=True)

    def effective(address: str) -> dict[str, str]:
        who = f"user=alice,host=somewhere,addr={address}"
        done = subprocess.run(
            [program("sshd"), "-T", "-f", file, "-C", who], check=True, capture_output=True, text=True
        )
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    wanted = {
        name.lower(): value
        for name, value in (line.split(None, 1) for line in block.splitlines()[1:])
        if name != "DenyGroups"
    }
    inside, outside = effective("192.0.2.11"), effective("192.0.2.12")
    assert {name: inside[name] for name in wanted} == wanted
    assert outside["trustedusercakeys"] == "none"
    assert outside["maxauthtries"] == "6"
    assert outside["maxsessions"] == "10"
