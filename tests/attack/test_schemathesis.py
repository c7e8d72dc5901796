"""Requests made from the OpenAPI document, right ones and wrong ones: nothing undocumented, and no server error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcgate.demo.cluster import Cluster, Gateway

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
HOOKS = {"SCHEMATHESIS_HOOKS": "tests.attack.media_types", "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize(
    ("system", "examples"),
    [
        ("demo", 12),
        # The same checks of the same requests, before other ways to reach files, or none.
        ("commands", 3),
        (None, 3),
        *(pytest.param(system, 50, marks=pytest.mark.deep) for system in ("demo", "commands", None)),
    ],
)
def test_whole_openapi(
    system: str | None, examples: int, attacked: Gateway, cluster: Cluster, token: str, here: Path, tmp_path: Path
) -> None:
    """No request made from the document is answered with what the document does not say.

    Besides the examples, of which so many are made of each operation, each constraint is met and broken once.
    """
    config = tmp_path / "schemathesis.toml"
    lines = ["[parameters]", f'path = ["{here}", "{here}/.bashrc", "{here}/none"]']
    if system is not None:
        lines.append(f'system_name = "{system}"')
    config.write_text("\n".join(lines) + "\n")
    program = Path(sys.executable).with_name("schemathesis")
    argv = [str(program), "--config-file", str(config), "run", f"{attacked.url}/openapi.json", "--seed", "1"]
    argv += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
    argv += ["--workers", "1", "--request-timeout", "300", "--no-shrink", "--continue-on-failure", "--warnings", "off"]
    argv += ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=1150, env=os.environ | HOOKS
    )
    cluster.as_user("alice", ["scancel", "--me"])
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
