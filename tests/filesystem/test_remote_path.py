"""A path of a request is made into its bytes once, admitted once, and acted on as it is."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from pydantic import BaseModel, Field, ValidationError

from hpcgate.api.access import Access
from hpcgate.api.routes.operations import _endpoint
from hpcgate.auth import Principal
from hpcgate.config import Cluster
from hpcgate.errors import BadRequest
from hpcgate.filesystem.base import Path, SourcePath
from hpcgate.filesystem.ls import Ls, LsParameters
from hpcgate.filesystem.stat import Stat, StatParameters
from hpcgate.gateway.system import System
from hpcgate.ssh.files.remote_path import RemotePath, encode_path, remote_path
from hpcgate.ssh.pool import Pool


class Model(BaseModel):
    """A request with two paths."""

    path: Path
    source: SourcePath = Field(default_factory=lambda: RemotePath(b"/"))


NAMES = {
    "plain": b"/a",
    "not UTF-8": b"/a/\xff\xfe",
    "UTF-8": "/\u00fc/\U0001f600".encode(),
    "not normal": b"/a//b/./c/",
    "the longest": b"/" + b"x" * 4094,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_text_and_bytes_of_a_path_are_the_same_path(name: bytes) -> None:
    text = os.fsdecode(name)
    assert Model(path=text).path == encode_path(text) == remote_path(name) == name
    assert type(Model(path=text).path) is RemotePath
    assert Model(path=text).model_dump()["path"] == text


WRONG = {
    "empty": "",
    "relative": "a",
    "NUL": "/a\0b",
    "too long": "/" + "x" * 4095,
    "too long in bytes": "/" + "\u20ac" * 1400,
    "a surrogate of nothing": "/\ud800",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_what_no_path_can_be_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Model(path=text)
    assert caught.value.errors()[0]["msg"].startswith("path ")
    with pytest.raises(BadRequest):
        encode_path(text)


def test_a_path_is_text_in_the_document_of_the_api() -> None:
    assert Model.model_json_schema()["properties"]["path"]["type"] == "string"


class Session:
    """Takes down which path is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def files(self) -> "Session":
        return self

    async def stat(self, path: bytes, **options: Any) -> Any:
        self.asked.append(path)
        raise BadRequest("enough")

    async def listing(self, path: bytes, **options: Any) -> Any:
        self.asked.append(path)
        raise BadRequest("enough")


def a_system() -> System:
    cluster = Cluster.model_validate(
        {
            "name": "demo",
            "ssh": {"host": "127.0.0.1"},
            "scheduler": {"type": "slurm", "version": "22.05.8"},
            "file_systems": [{"path": "/scratch", "data_type": "scratch"}],
            "restrict_paths": True,
        }
    )
    return System.from_settings(cluster, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("operation", "parameters"), [(Ls, LsParameters), (Stat, StatParameters)])
async def test_a_path_is_converted_once_and_admitted_once(
    operation: Any, parameters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    admitted: list[Any] = []

    async def perform(pool: Pool, principal: Principal, work: Callable[[Any], Awaitable[Any]], *, retry: bool) -> Any:
        return await work(session)

    admit = System.admit

    def counted(system: System, path: bytes) -> None:
        admitted.append(path)
        admit(system, path)

    monkeypatch.setattr(System, "admit", counted)
    monkeypatch.setattr(Pool, "perform", perform)
    system = a_system()
    verb = operation(parameters.model_validate({"path": "/scratch/\udcff"}), system.limits)
    access = Access(Principal("alice", "token"), system)
    await access.operate(verb)
    with pytest.raises(BadRequest, match="enough"):
        await access.perform(verb)
    # It is the very same object all the way: nobody has made another of it.
    (acted_on,) = session.asked
    (seen,) = admitted
    assert acted_on is seen is verb.parameters.path
    outside = operation(parameters.model_validate({"path": "/etc"}), system.limits)
    with pytest.raises(BadRequest, match="'/etc' is not in a file system of demo"):
        await access.operate(outside)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_path_is_admitted_in_whatever_form_its_listing_is_wanted(accept: str) -> None:
    """Lines are sent as they come: nothing of what has the login node list them looks at the path again."""
    access = Access(Principal("alice", "token"), a_system())
    scope = {
        "type": "http",
        "method": "GET",
        "headers": [(b"accept", accept.encode())],
        "query_string": b"path=/etc",
        "state": {"access": access},
        "app": SimpleNamespace(state=SimpleNamespace(gateway=SimpleNamespace(settings=None))),
    }
    with pytest.raises(BadRequest, match="'/etc' is not in a file system of demo"):
        await _endpoint(Ls)(Request(scope), "demo")


_ELSEWHERE = """
import sys
from types import SimpleNamespace
from pydantic import TypeAdapter
from hpcgate.errors import TooLarge
from hpcgate.filesystem import beneath, confined_files
from hpcgate.filesystem.base import Path
from hpcgate.filesystem.content import refuse_larger
from hpcgate.telemetry.journal import readable

assert sys.getfilesystemencoding() != "utf-8"
text, path = "/\\xfc", b"/\\xc3\\xbc"
adapter = TypeAdapter(Path)
assert adapter.validate_python(text) == path
assert adapter.dump_python(adapter.validate_python(text)) == text
assert readable(path) == text
assert beneath.bytes_of(text) == path
entry = confined_files._entry(text, 0, 0, 0, 0, 0, text, "")
assert (entry.name, entry.link_target) == (path, path)
try:
    refuse_larger(path, 2, SimpleNamespace(max_ops_file_size=1))
except TooLarge as error:
    assert error.message.startswith(text + ":")
"""


def test_the_locale_of_the_gateway_changes_no_path() -> None:
    """Paths are the login node's, in UTF-8, whatever the process of the gateway was started with."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], env=os.environ | locale, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
