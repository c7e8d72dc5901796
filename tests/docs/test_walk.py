"""Installing and the first steps, word for word: the commands of the two pages, in order, on a copy of the source."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("install.md", "first-steps.md")
BLOCK = re.compile(r'^```sh(?: title="(.*?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of a page, and the terminal that they are typed into; the first one has no title."""

    page: str
    terminal: str
    commands: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for terminal, commands in BLOCK.findall((ROOT / "docs" / page).read_text()):
            yield Block(page, terminal, commands)


class Terminals:
    """Shells in the same directory. The first one's commands are waited for, the others run until the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {
            name: value
            for name, value in os.environ.items()
            # As a new terminal has it: nothing of the tests' own environment.
            if name in ("HOME", "LANG", "TERM", "TMPDIR") or name.lower().endswith("_proxy") or name.startswith("PIP_")
        } | {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._others: list[tuple[subprocess.Popen[bytes], Path]] = []
        python = Path(sys.base_prefix, "bin", "python3")
        # The interpreter that runs the tests, whichever is the system's own.
        self._environment["PATH"] = f"{python.parent}:{self._environment['PATH']}"

    def begin(self, block: Block) -> None:
        """Type into another terminal."""
        log = self._directory / f"{block.terminal}.log"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                # Ctrl-C works in a terminal, even if whoever runs the tests has it ignored.
                ["env", "--default-signal=INT", "bash", "-c", block.commands],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._others.append((shell, log))

    def type(self, commands: str, timeout: float) -> str:
        """Type into the first terminal, which remembers its variables, and return what it shows."""
        state = self._directory / ".terminal"
        script = f"set -e -o pipefail\n{f'. {state}' if state.exists() else ''}\n{commands}\n"
        script += f"{{ declare -p | grep -v '^declare -[a-z]*r' ; declare -f ; }} > {state}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Return what the other terminals have shown."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for _, log in self._others)

    def close(self) -> list[int]:
        """Press Ctrl-C in the others, the last one first, and return their exit statuses."""
        statuses = []
        for shell, _ in reversed(self._others):
            os.killpg(shell.pid, signal.SIGINT)
            try:
                statuses.append(shell.wait(300))
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGTERM)
                statuses.append(shell.wait(300))
        return statuses


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source as it stands here, in which nothing is installed."""
    directory = tmp_path_factory.mktemp("walk") / "hpcgate"
    ignored = (ROOT / ".gitignore").read_text().split()
    leave = shutil.ignore_patterns(".git", *(pattern.strip("/") for pattern in ignored))
    shutil.copytree(ROOT, directory, ignore=leave)
    return directory


@pytest.mark.timeout(1800)
def test_who_follows_the_pages_word_for_word_has_a_gateway_and_a_job(source: Path) -> None:
    terminals = Terminals(source)
    shown = ""
    try:
        for block in blocks():
            if block.terminal:
                terminals.begin(block)
            else:
                shown += terminals.type(block.commands, timeout=900)
    finally:
        statuses = terminals.close()
    assert "✓" in shown
    assert "✗" not in shown
    # The service account is nobody's who uses the gateway.
    assert re.search(r"✓ demo: health-\w+ logs in", shown)
    assert re.search(r"✓ demo: alice-\w+ logs in", shown)
    assert '"name":"demo"' in shown.replace(" ", "")
    assert "Hello from " in shown
    assert "COMPLETED" in shown
    assert statuses == [0, 0], terminals.logs()
    for secret in ("client_secret", "service.client_secret", "user_ca"):
        assert (source / "site" / secret).stat().st_mode & 0o777 == 0o600
        for _, log in terminals._others:
            assert (source / "site" / secret).read_text().strip() not in log.read_text()


def test_the_pages_have_commands() -> None:
    found = list(blocks())
    assert {block.page for block in found} == set(PAGES)
    assert [block.terminal for block in found if block.terminal] == ["second terminal", "third terminal"]
