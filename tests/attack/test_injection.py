"""Every string of the corpus through every string parameter of every endpoint: nothing on the login node is touched.

All of it is more than a hundred thousand requests, so they are dealt into shares: one in each run of the tests, where
every string meets every kind of parameter and every parameter meets strings of every kind, and all by `make test-deep`.
"""

import asyncio
import copy
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from hpcgate.config import Settings
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.server.app import create_app
from tests.routes import at
from tests.transfers import asked
from tests.transfers.shells import SHELLS, Sh, own

from .corpus import corpus

AT_ONCE = 16
SHARES = 12
"""Into how many parts the requests are dealt; of a parameter's strings, each part has every twelfth."""
SHARES_OF_JOBS = 4
"""Into how many parts the scripts are dealt; each script has as many strings at once."""


def each(shares: int) -> list[Any]:
    """Return the numbers of the shares; all but the first are for `make test-deep`."""
    return [
        pytest.param(number, id=f"{number + 1} of {shares}", marks=[pytest.mark.deep] if number else [])
        for number in range(shares)
    ]


DEPTH = 4
"""Directories of the test's own above what is attacked, which a `..` or two removes."""
HELD = "#!/bin/sh\n#SBATCH --hold\ntrue\n"
GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """One string parameter of one endpoint, with all else right."""

    method: str
    route: str
    where: str
    """path, query, header or body."""
    name: tuple[str, ...]
    """Of a body: the keys that lead to it."""

    @property
    def submits(self) -> bool:
        """Whether a request costs the scheduler a job."""
        return self.method in ("POST", "DELETE") and ("/transfer/" in self.route or self.route.endswith("/jobs"))


Round = tuple[Target, str, list[str]]
"""A parameter, the system, and the strings that are tried."""

BODIES: Mapping[str, dict[str, Any]] = {
    "POST /compute/{system_name}/jobs": {
        "job": {
            "name": "x", "account": "demo", "reservation": "none", "workingDirectory": "{home}",
            "standardInput": "/dev/null", "standardOutput": "/dev/null", "standardError": "/dev/null",
            "constraints": "none", "partition": "normal", "env": {"X": "y"}, "script": HELD,
        }
    },
    "PUT /compute/{system_name}/jobs/{job_id}/attach": {"command": "true"},
    "POST /compute/{system_name}/jobs/bulk": {"jobs": []},
    "POST /compute/{system_name}/jobs/cancel": {"name": "none", "state": "NONE", "account": "none"},
    "POST /compute/{system_name}/jobs/{job_id}/signal": {"signal": "USR1"},
    "PATCH /compute/{system_name}/jobs/{job_id}": {
        "partition": "normal", "name": "x", "comment": "y",
        "dependencies": [{"type": "afterok", "jobIds": ["1"]}],
    },
    "PUT /filesystem/{system_name}/ops/chmod": {"sourcePath": "{file}", "mode": "644"},
    "PUT /filesystem/{system_name}/ops/chown": {"sourcePath": "{file}", "owner": "{user}", "group": "{user}"},
    "POST /filesystem/{system_name}/ops/compress": {
        "sourcePath": "{file}", "targetPath": "{home}/injected.tar", "matchPattern": "*", "compression": "none",
    },
    "POST /filesystem/{system_name}/ops/extract": {
        "sourcePath": "{file}", "targetPath": "{home}", "compression": "none",
    },
    "POST /filesystem/{system_name}/ops/mkdir": {"sourcePath": "{home}/injected", "parent": False},
    "POST /filesystem/{system_name}/ops/symlink": {"sourcePath": "{file}", "linkPath": "{home}/injected-link"},
    "POST /filesystem/{system_name}/transfer/mv": {
        "sourcePath": "{home}/none", "targetPath": "{home}/none-either", "account": "demo",
    },
    "POST /filesystem/{system_name}/transfer/cp": {
        "sourcePath": "{home}/none", "targetPath": "{home}/none-either", "account": "demo", "dereference": False,
    },
    "POST /filesystem/{system_name}/transfer/compress": {
        "sourcePath": "{file}", "targetPath": "{home}/none.tar", "matchPattern": "*", "compression": "none",
        "account": "demo",
    },
    "POST /filesystem/{system_name}/transfer/extract": {
        "sourcePath": "{file}", "targetPath": "{home}/none", "compression": "none", "account": "demo",
    },
    "POST /filesystem/{system_name}/transfer/upload": {
        "sourcePath": "{home}", "account": "demo",
        "transferDirectives": {"transferMethod": "s3", "fileSize": 1, "fileName": "x"},
    },
    "POST /filesystem/{system_name}/transfer/download": {
        "sourcePath": "{file}", "account": "demo", "transferDirectives": {"transferMethod": "s3"},
    },
}  # fmt: skip
"""A right body for each endpoint with a JSON body. `script` is code by its nature: what is no script is refused."""

PATHS = {
    "path", "sourcePath", "targetPath", "linkPath", "workingDirectory", "standardInput", "standardOutput",
    "standardError", "scriptPath", "executable", "preLaunch", "postLaunch",
}  # fmt: skip
"""Parameters that are tried with the string below a directory of the user's too, where it is a right path."""
NO_STRINGS = {
    "job", "transferDirectives", "env", "dereference", "parent", "fileSize", "timeLimit", "priority", "dependencies",
    "hold", "requeue",
    "jobs", "ids",
}  # fmt: skip
FIELDS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "executable": lambda text: {"script": None, "hold": True, "executable": text},
    "arguments": lambda text: {"script": None, "hold": True, "executable": "true", "arguments": [text, "x"]},
    "launcher": lambda text: {"script": None, "hold": True, "executable": "true", "launcher": text},
    "preLaunch": lambda text: {"script": None, "hold": True, "executable": "true", "preLaunch": text},
    "postLaunch": lambda text: {"script": None, "hold": True, "executable": "true", "postLaunch": text},
    "resources": lambda text: {"resources": {"memory": text}},
    "duration": lambda text: {"duration": text},
    "queueName": lambda text: {"partition": None, "queueName": text},
    "qos": lambda text: {"qos": text},
    "array": lambda text: {"array": text},
    "dependencies": lambda text: {"dependencies": [{"type": "afterok", "jobIds": [text]}]},
    "begin": lambda text: {"begin": text},
    "mail": lambda text: {"mail": {"events": ["end"], "address": text}},
    "extra": lambda text: {"extra": {"slurm": {"comment": text, "wckey": text}}},
    "option": lambda text: {"extra": {"slurm": {text: "x"}}},
}
"""What a job in fields has, where the string is not a value of the body's own."""
EXTRA = {
    "POST /compute/{system_name}/jobs": [
        ("job", "scriptPath"), ("job", "env", "X"), ("job", "env", "{name}"), ("job", "environment"),
        *(("job", name) for name in FIELDS),
    ]
}  # fmt: skip


def targets() -> Iterator[Target]:
    """Yield every string parameter that the OpenAPI document has."""
    document = create_app(Settings.model_validate(GENERAL)).openapi()
    for route, methods in document["paths"].items():
        for method, operation in methods.items():
            key = f"{method.upper()} {route}"
            for parameter in operation.get("parameters", []):
                # Numbers and switches too: what arrives is text.
                yield Target(method.upper(), route, parameter["in"], (parameter["name"],))
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                for name in _strings(BODIES[key]):
                    yield Target(method.upper(), route, "body", name)
                for name in EXTRA.get(key, []):
                    yield Target(method.upper(), route, "body", name)


def _strings(body: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in body.items():
        if isinstance(value, dict):
            if name != "env":
                yield from ((name, *rest) for rest in _strings(value))
        elif isinstance(value, str):
            yield (name,)


def test_every_string_of_every_body_is_tried() -> None:
    """So that a new field is attacked too."""
    document = create_app(Settings.model_validate(GENERAL)).openapi()
    schemas = document["components"]["schemas"]
    tried = {target.name[-1] for target in targets() if target.where == "body"}
    for route, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert f"{method.upper()} {route}" in BODIES
            assert set(schemas[name]["properties"]) <= tried | NO_STRINGS
    assert set(schemas["JobDescriptionModel"]["properties"]) <= tried | NO_STRINGS


class Attack:
    """Sends requests that are right but for one string."""

    def __init__(self, url: str, token: str, values: Mapping[str, str]) -> None:
        self._url = url
        self._token = token
        self._values = values
        self._file = Path(values["file"])
        self._owner = os.stat(values["home"])
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        if isinstance(value, str) and value != HELD:
            for name, text in self._values.items():
                value = value.replace(f"{{{name}}}", text)
        return value

    def _restore(self) -> None:
        """Put back what earlier strings may have removed, or made unreadable, as they may."""
        with suppress(FileNotFoundError):  # another request removes it at this moment
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            for place in (self._file, *self._file.parents[:DEPTH]):
                os.chown(place, self._owner.st_uid, self._owner.st_gid)
                os.chmod(place, 0o755)

    def request(self, target: Target, system: str, text: str) -> tuple[str, dict[str, Any]] | None:
        """Return a URL and what else aiohttp takes; None where HTTP itself cannot carry the string."""
        path = {"system_name": system, "job_id": "999999999", "upload_id": "0" * 32}
        query = {"path": f"{self._values['home']}/none"} if target.where != "query" else {}
        headers = {"Authorization": f"Bearer {self._token}", "Tus-Resumable": "1.0.0", "Upload-Length": "1"}
        body = copy.deepcopy(self._filled(BODIES.get(f"{target.method} {target.route}")))
        if target.where == "path":
            path[target.name[0]] = text
        elif target.where == "query":
            query = {"path": self._values["file"], target.name[0]: text}
            if target.method == "DELETE" and target.name != ("path",):
                query["path"] = f"{self._values['home']}/none"
        elif target.where == "header":
            query = {"path": self._values["file"]}
            if not text or any(ord(letter) < 32 or ord(letter) > 255 for letter in text) or text != text.strip():
                return None
            headers[target.name[0]] = text
        elif body is not None:
            place = body
            for name in target.name[:-1]:
                place = place[name]
            if target.name[-1] == "{name}":
                place[text] = "value"
            elif target.name[0] == "job" and target.name[-1] in FIELDS:
                place |= FIELDS[target.name[-1]](text)
            else:
                place[target.name[-1]] = text
            if target.name[-1] == "scriptPath":
                del place["script"]
        route = at(target.route, **{name: _segment(value) for name, value in path.items()})
        pairs = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        sent: dict[str, Any] = {"headers": headers}
        if body is not None:
            sent["json"] = body
        elif target.route.endswith("/upload"):
            form = aiohttp.FormData()
            form.add_field("file", b"content", filename="injected")
            sent["data"] = form
        elif target.method in ("PUT", "PATCH"):
            sent["data"] = b"x"
            headers["Content-Type"] = (
                "application/offset+octet-stream" if target.method == "PATCH" else "application/x-tar"
            )
        return f"{self._url}{route}?{pairs}", sent

    def texts(self, target: Target, texts: list[str]) -> list[str]:
        """Return what is tried for a parameter."""
        if target.name[-1] not in PATHS:
            return texts
        return [*texts, *(f"{self._values['home']}/{text}" for text in texts)]

    def rounds(self, chosen: list[Target], texts: list[str], system: str, share: int) -> list[Round]:
        """Return what is tried in one share: of each parameter other strings than of the one before it."""
        return [
            (target, system, self.texts(target, texts)[(number + share) % SHARES :: SHARES])
            for number, target in enumerate(chosen)
        ]

    async def send(self, http: aiohttp.ClientSession, target: Target, system: str, text: str) -> None:
        """Send one and judge the answer."""
        made = self.request(target, system, text)
        if made is None:
            return
        url, sent = made
        self._restore()
        async with http.request(target.method, URL(url, encoded=True), allow_redirects=False, **sent) as answer:
            content = await answer.content.read(1 << 20)
        self.statuses[answer.status] += 1
        if answer.status >= 500 and answer.status != 501:
            self.wrong.append(f"{target} {system} {text!r}: {answer.status} {content[:300]!r}")


def _segment(value: str) -> str:
    # A client that means a dot segment must hide it from its own URL library.
    return quote(value, safe="").replace(".", "%2E") if value.strip(".") == "" else quote(value, safe="")


async def _attack(attack: Attack, rounds: list[Round]) -> None:
    work = ((target, system, text) for target, system, texts in rounds for text in texts)
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as http:

        async def worker() -> None:
            for target, system, text in work:
                await attack.send(http, target, system, text)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def _running(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[:2] == [b"sleep", marker.encode()]:
                    found.append(entry.name)
    return found


class Ground:
    """What the strings aim at, and what is there of it afterwards."""

    def __init__(self, cluster: Cluster) -> None:
        self.directory = cluster.scratch / f"canary-{next(_numbers)}"
        self.directory.mkdir()
        self.directory.chmod(0o1777)
        self.canary = self.directory / "canary"
        self.canary.write_text("untouched\n")
        self.before = os.stat(self.canary)
        self.file = self.directory / "injected"
        self.marker = f"98765.{os.getpid()}"

    def corpus(self) -> list[str]:
        """Return the strings that aim here."""
        return corpus(self.canary, self.file, self.marker)

    def check(self) -> None:
        """Fail if anything here was touched."""
        after = os.stat(self.canary)
        assert self.canary.read_text() == "untouched\n"
        for name in ("st_ino", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_uid"):
            assert getattr(after, name) == getattr(self.before, name), name
        assert sorted(path.name for path in self.directory.iterdir()) == ["canary"]
        assert _running(self.marker) == []


_numbers = itertools.count()


@pytest.fixture
def ground(cluster: Cluster) -> Ground:
    return Ground(cluster)


@pytest.fixture
def attack(cluster: Cluster, attacked: Gateway, token: str, here: Path) -> Iterator[Attack]:
    jail = here / f"attacked-{next(_numbers)}"
    home = jail / "b" / "c" / "d"
    values = {"home": str(home), "file": str(home / "file"), "user": cluster.user("alice").name}
    cluster.as_user("alice", ["mkdir", "-p", home])
    yield Attack(attacked.url, token, values)
    cluster.as_user("alice", ["scancel", "--me"])
    shutil.rmtree(jail)


def test_the_ground_notices(ground: Ground, cluster: Cluster) -> None:
    """What the strings would do does show."""
    cluster.as_user("alice", ["sh", "-c", f"echo $(touch {ground.file}) > /dev/null"])
    with pytest.raises(AssertionError):
        ground.check()


def test_the_corpus_is_large(ground: Ground) -> None:
    assert len(ground.corpus()) >= 200


def test_the_shares_are_the_whole(attack: Attack, ground: Ground) -> None:
    """Nothing is left out of all of them, and each of them has every string for every kind of parameter."""
    texts, chosen = ground.corpus(), list(targets())
    shares = [attack.rounds(chosen, texts, "demo", share) for share in range(SHARES)]
    for target, *parts in zip(chosen, *shares, strict=True):
        tried = [text for _, _, part in parts for text in part]
        assert sorted(tried) == sorted(attack.texts(target, texts))
    for share in shares:
        for where in ("path", "query", "header", "body"):
            assert {text for target, _, part in share for text in part if target.where == where} >= set(texts)


@pytest.mark.parametrize("share", each(SHARES))
@pytest.mark.parametrize("system", ["demo", "commands"])
async def test_what_runs_on_the_login_node(system: str, share: int, attack: Attack, ground: Ground) -> None:
    """All but what submits jobs."""
    texts = ground.corpus()
    chosen = [target for target in targets() if not target.submits]
    if system == "commands":
        chosen = [target for target in chosen if "/filesystem/" in target.route]
    # What one system does not try in this share, the other may.
    share += system == "commands"
    await _attack(attack, attack.rounds(chosen, texts, system, share))
    assert attack.wrong == []
    ground.check()
    assert attack.statuses[200] > 1000 / SHARES


@pytest.mark.parametrize("share", each(SHARES))
async def test_what_submits_jobs_to_slurm(share: int, attack: Attack, ground: Ground) -> None:
    """The jobs are held: it is sbatch's command line that is attacked."""
    texts = ground.corpus()
    chosen = [target for target in targets() if target.submits]
    await _attack(attack, attack.rounds(chosen, texts, "demo", share))
    assert attack.wrong == []
    ground.check()
    assert attack.statuses[201] > 1000 / SHARES


@pytest.mark.parametrize("share", each(SHARES_OF_JOBS))
def test_what_runs_in_transfer_jobs(share: int, ground: Ground) -> None:
    """The scripts, as a job runs them; of each all strings at once, each another one's neighbour."""
    texts = [text for text in ground.corpus() if "\0" not in text]
    with tempfile.TemporaryDirectory(prefix="hpcgate-attack-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        place = Path(name) / "work"
        place.mkdir()
        (place / "file").write_text("content\n")
        own(place)
        for number in range(share, len(texts), SHARES_OF_JOBS):
            sh = Sh(SHELLS[number // SHARES_OF_JOBS % len(SHELLS)], place)
            # In each share a string is one of these.
            text, source, target, pattern = (texts[(number + step) % len(texts)] for step in range(SHARES_OF_JOBS))
            source, target = f"{place}/{source}", f"{place}/a/b/{target}"
            for script in (
                asked.mv(source, target),
                asked.cp(source, target),
                asked.compress(f"{place}/file", target, pattern=pattern),
                asked.compress(source, f"{place}/x", pattern=text),
                asked.extract(source, target),
                asked.rm(f"{place}/a/b/{text}"),
            ):
                sh.run(script)
    ground.check()
