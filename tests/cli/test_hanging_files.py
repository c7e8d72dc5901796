"""Each file that a command reads or writes may hang: the command ends, and says which."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpcgate.cli.commands import app
from hpcgate.config import files
from tests.front import write_config


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file that hangs."""
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    # Who still waits for it is let go.
    os.close(os.open(path, os.O_RDWR))


SYSTEM = {
    "name": "demo",
    "ssh": {"host": "127.0.0.1", "known_hosts": "FIFO"},
    "scheduler": {"type": "slurm", "version": "24.11.0"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "secret_file": {"ssh_credentials": {"type": "LocalCA", "ca_key": "secret_file:FIFO"}},
    "username_map": {
        "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token", "username_map": "FIFO"}},
    },
    "known_hosts": {"clusters": [SYSTEM]},
}


def written(directory: Path, fifo: Path, settings: dict[str, Any]) -> str:
    path = write_config(directory, **settings)
    path.write_text(path.read_text().replace("FIFO", str(fifo)))
    return str(path)


def ended(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "words",
    [
        ("check", "FIFO"),
        ("check", "FIFO", "--connect"),
        ("openapi", "--config", "FIFO"),
        ("openapi", "--output", "FIFO"),
        ("token", "--show", "--token-file", "FIFO"),
        ("token", "--config", "FIFO", "--system", "demo"),
        ("maintenance", "list", "--config", "FIFO"),
    ],
)
def test_a_command_ends_though_its_file_hangs(words: tuple[str, ...], fifo: Path) -> None:
    status, said = ended(*(word.replace("FIFO", str(fifo)) for word in words))
    assert status == 1, said
    assert str(fifo) in said
    assert "nothing came within 0.1 s" in said


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_that_a_configuration_names_hangs(name: str, fifo: Path, tmp_path: Path) -> None:
    status, said = ended("check", written(tmp_path, fifo, SETTINGS[name]))
    assert status == 1, said
    assert str(fifo) in said
    assert "nothing came within 0.1 s" in said


def test_a_directory_of_systems_with_a_file_that_hangs(fifo: Path, tmp_path: Path) -> None:
    directory = tmp_path / "systems"
    directory.mkdir()
    os.link(fifo, directory / "one.yaml")
    status, said = ended("check", written(tmp_path, fifo, {"clusters": f"path:{directory}"}))
    assert status == 1, said
    assert "one.yaml" in said
    assert "nothing came within 0.1 s" in said


def test_a_notice_that_hangs(fifo: Path, tmp_path: Path) -> None:
    notices = tmp_path / "maintenance"
    notices.mkdir()
    os.link(fifo, notices / "demo.json")
    cluster = {**SYSTEM, "ssh": {"host": "127.0.0.1"}}
    config = written(tmp_path, fifo, {"state_directory": str(tmp_path), "clusters": [cluster]})
    status, said = ended("maintenance", "list", "--config", config)
    assert status == 1, said
    assert "nothing came within 0.1 s" in said
