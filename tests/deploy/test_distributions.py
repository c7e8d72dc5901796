"""The wheel and the sdist: what is in them, and that the wheel works by itself."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import hpcgate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", directory], cwd=ROOT, check=True, capture_output=True
    )
    return directory


@pytest.fixture(scope="module")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone; its dependencies are those of this one, so that nothing is fetched."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin" / "python"
    (wheel,) = distributions.glob("*.whl")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    (packages,) = (directory / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory / "bin"


def run(program: Path, *arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_outside_of_the_source(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import hpcgate; print(hpcgate.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    assert hpcgate.__version__ in run(installed / "hpcgate", "version", cwd=tmp_path)
    document = json.loads(run(installed / "hpcgate", "openapi", cwd=tmp_path))
    assert "/filesystem/{system_name}/ops/stat" in document["paths"]
    points = "from hpcgate.config import plugins; print(sorted(plugins('hpcgate.schedulers')))"
    assert run(installed / "python", "-c", points, cwd=tmp_path).strip() == "['pbs', 'slurm']"


def test_the_wheel_holds_the_package_alone(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = packed.read(metadata).decode()
    assert {name.partition("/")[0] for name in names} == {"hpcgate", metadata.partition("/")[0]}
    assert "hpcgate/py.typed" in names
    assert f"Version: {hpcgate.__version__}" in said
    assert "License-Expression: BSD-3-Clause" in said


def test_the_sdist_holds_what_is_needed_and_nothing_private(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    for needed in ("pyproject.toml", "README.md", "LICENSE", "src/hpcgate/cli/commands.py", "requirements.lock"):
        assert needed in names
    private = [name for name in names if name.startswith((".venv", ".git/")) or name.endswith((".key", ".pem", ".log"))]
    assert private == []
