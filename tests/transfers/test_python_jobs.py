"""Where a job finds its Python."""

import functools
import http.server
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcgate.transfers.base import Script
from hpcgate.transfers.python_jobs import ENVIRONMENT, PythonSettings
from tests.transfers.shells import Sh

BODY = ENVIRONMENT + "\"$python\" -c 'import hpcgate_probe; print(hpcgate_probe.__file__)' || exit\n"


def make_wheel(directory: Path) -> None:
    """Write the wheel of a package with one module."""
    directory.mkdir(parents=True)
    info = "hpcgate_probe-1.0.dist-info"
    with zipfile.ZipFile(directory / "hpcgate_probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("hpcgate_probe.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hpcgate-probe\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index with one package."""
    make_wheel(tmp_path / "simple" / "hpcgate-probe")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()
        thread.join()


def test_package_is_installed_for_the_job(workspace: Path, index: str) -> None:
    (workspace / "tmp").mkdir()
    (workspace / "work").mkdir()
    for module in ("ensurepip", "json", "pip", "venv"):
        # Others may write where jobs stand.
        (workspace / "work" / f"{module}.py").write_text(f"open({str(workspace / 'caught')!r}, 'w')")
    sh = Sh("dash", workspace / "work", ordinary=False)
    settings = PythonSettings.model_validate({"service_type": "x", "python": sys.executable, "pypi_index_url": index})
    script = Script("x", settings.environment("hpcgate-probe"), BODY)
    plain: dict[str, Any] = {"PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(workspace / "tmp")}
    done = sh.run(script, timeout=600, **plain)
    assert done.status == 0, done.errors
    assert done.output.startswith(str(workspace / "tmp"))
    assert os.listdir(workspace / "tmp") == []
    assert not (workspace / "caught").exists()


def test_python_that_has_it_is_used_as_it_is(workspace: Path) -> None:
    (workspace / "hpcgate_probe.py").write_text("")
    (workspace / "work").mkdir()
    sh = Sh("dash", workspace / "work", ordinary=False)
    settings = PythonSettings.model_validate({"service_type": "x", "python": sys.executable, "install": False})
    done = sh.run(Script("x", settings.environment("hpcgate-probe"), BODY), PYTHONPATH=str(workspace))
    assert done.output == f"{workspace}/hpcgate_probe.py\n"
    assert sh.run(Script("x", {**settings.environment(""), "python": "/no/python"}, BODY)).status == 127


def test_ps_shows_no_password_of_an_index(workspace: Path, index: str) -> None:
    (workspace / "work").mkdir()
    sh = Sh("dash", workspace / "work", ordinary=False)
    settings = PythonSettings.model_validate(
        {
            "service_type": "x",
            "python": sys.executable,
            "pypi_index_url": index.replace("http://", "http://reader:s3cr3t@"),
        }
    )
    # A Python that tells how it is called, as ps would.
    told = workspace / "told"
    telling = f'#!/bin/sh\necho "$*" >>{told}\nexec "${{0%/*}}/python" "$@"\n'
    (workspace / "telling").write_text(telling)
    (workspace / "telling").chmod(0o755)
    own_python = "python=$environment/bin/python"
    body = BODY.replace(own_python, f"cp {workspace}/telling $environment/bin && python=$environment/bin/telling")
    assert body != BODY
    plain: dict[str, Any] = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:1/"}
    done = sh.run(Script("x", settings.environment("hpcgate-probe"), body), timeout=600, **plain)
    assert done.status == 0, done.errors
    assert "-m pip install" in told.read_text()
    assert "s3cr3t" not in told.read_text() + done.output + done.errors


def test_no_index_is_no_option() -> None:
    settings = PythonSettings.model_validate({"service_type": "x"})
    assert settings.environment("y") == {"python": "python3", "install": "y", "index": ""}
