"""A user who plants links, directories and other people's files under the names that another user's requests write."""

import base64
import io
import itertools
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}
SYSTEMS = ("demo", "commands", "confined")
CONTENT = b"0123456789"


@pytest.fixture(scope="module")
def planted(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway with a system for each way to reach files; on the last a rule has paths."""
    rules = [
        {"name": "box", "systems": ["confined"], "paths": [str(cluster.scratch)]},
        {"name": "free", "systems": ["demo", "commands"]},
    ]
    everything = ["fs:read", "fs:write", "transfer", "status:read"]
    config = cluster.write_gateway_config(
        cluster.directory / "planted-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo"),
            cluster.cluster_settings("commands", ssh={"files": "commands"}),
            cluster.cluster_settings("confined"),
        ],
        auth={"policy": {"rules": [{**rule, "operations": everything} for rule in rules]}},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(planted: Gateway, cluster: Cluster) -> Iterator[httpx.Client]:
    """The victim's client."""
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=planted.url, headers=headers, timeout=300) as client:
        yield client


@dataclass(frozen=True)
class Scene:
    """A directory that both users write in, and files of the first that nobody else should touch.

    Attributes:
        shared: The directory.
        precious: Directories of the victim's, one in her home and one below the scratch directory.
        bob: Runs a shell script as the attacker.
    """

    shared: Path
    precious: tuple[Path, ...]
    bob: Callable[..., str]

    def state(self) -> dict[str, Any]:
        """Return all that must stay as it is."""
        found: dict[str, Any] = {}
        for top in self.precious:
            for path in (top, *top.rglob("*")):
                info = path.lstat()
                found[str(path)] = (info.st_mode, info.st_uid, path.read_bytes() if path.is_file() else None)
        return found


KINDS = {"sticky": (0o1777, "root"), "open": (0o777, "root"), "group": (0o2770, "root"), "attackers": (0o777, "bob")}
"""Mode and owner of a shared directory. In the first the attacker can rename nothing of the victim's."""
_numbers = itertools.count()


@contextmanager
def scene(cluster: Cluster, kind: str) -> Iterator[Scene]:
    alice, bob = cluster.user("alice"), cluster.user("bob")
    mode, holder = KINDS[kind]
    base = cluster.scratch / f"planted-{next(_numbers)}"
    shared = base / "shared"
    shared.mkdir(parents=True)
    base.chmod(0o755)
    (common,) = set(alice.identity.groups) & set(bob.identity.groups)
    os.chown(shared, bob.uid if holder == "bob" else 0, common)
    shared.chmod(mode)
    precious = (alice.home / base.name, base / "precious")
    for directory in precious:
        prepare(directory, alice)

    def as_bob(script: str, *words: str | Path) -> str:
        return cluster.as_user(bob, ["sh", "-c", script, "sh", *map(str, words)]).stdout

    yield Scene(shared, precious, as_bob)
    for path in (*precious, base):
        shutil.rmtree(path)


def prepare(directory: Path, owner: User) -> None:
    """Make a directory with what an attacker would like to have overwritten, under all names that might be."""
    directory.mkdir()
    for name in ("key", ".hpcgate-content", ".hpcgate-state", ".hpcgate-lock", "new", ".hpcgate-new", "file"):
        (directory / name).write_bytes(b"precious " + name.encode())
        (directory / name).chmod(0o600)
        os.chown(directory / name, owner.uid, owner.gid)
    os.chown(directory, owner.uid, owner.gid)
    directory.chmod(0o700)


# What the attacker does, as shell: $1 the shared directory, $2 the name of the upload's own, $3 a directory of the
# victim's. What he may not do is let pass.
PLANTS = {
    "links beside": 'for e in .lock .json ""; do ln -sfT "$3/key" "$1/$2$e"; done',
    "a link for the directory": 'mv -T "$1/$2" "$1/away$$"; ln -sT "$3" "$1/$2"',
    "a directory of links": """\
        mv -T "$1/$2" "$1/away$$"; mkdir -m 777 "$1/$2"
        for n in content state lock; do ln -s "$3/key" "$1/$2/.hpcgate-$n"; done""",
    "links in the directory": 'for n in content state lock; do ln -sf "$3/key" "$1/$2/.hpcgate-$n"; done',
    "a directory with a state": """\
        mv -T "$1/$2" "$1/away$$"; mkdir -m 777 "$1/$2"
        printf %s "$4" >"$1/$2/.hpcgate-state"; ln -s "$3/key" "$1/$2/.hpcgate-content" """,
    "another directory of hers": 'mv -T "$1/$2" "$1/away$$"; mv -T "$1/hers" "$1/$2"',
    "a link for the file": 'ln -sfT "$3/key" "$1/file"',
    "a hard link for the file": 'ln -fT "$3/key" "$1/file"',
}
NAME = base64.b64encode(b"file").decode()
STATE = f'{{"name":"{NAME}","length":10,"metadata":"","partial":false}}'


class Attack:
    """Plants something at each moment of the victim's uploads."""

    def __init__(self, scene: Scene, http: httpx.Client, system: str, plant: str) -> None:
        self.scene = scene
        self.http = http
        self.base = f"/filesystem/{system}/files/uploads"
        self.plant = PLANTS[plant]

    def begin(self, **headers: str) -> str:
        """Begin an upload and return its location."""
        alice = self.scene.precious[0].owner()
        for path in (self.scene.shared / "hers", self.scene.shared / "file"):
            if path.exists():
                continue
            if path.name == "hers":
                path.mkdir(mode=0o700)
                (path / "key").write_bytes(b"hers")
                shutil.chown(path / "key", alice)
                shutil.chown(path, alice)
        named = base64.b64encode(b"file").decode()
        given = {**TUS, "Upload-Length": str(len(CONTENT)), "Upload-Metadata": f"filename {named}", **headers}
        made = self.http.post(self.base, params={"path": str(self.scene.shared)}, headers=given)
        assert made.status_code in (201, 403), made.text
        return str(made.headers.get("location", f"{self.base}/{'0' * 32}?path={self.scene.shared}"))

    def strike(self, location: str) -> None:
        """Let the attacker do it, for each directory of the victim's."""
        upload = location.rpartition("?")[0].rpartition("/")[2]
        for precious in self.scene.precious:
            name = f".hpcgate-upload-{upload}"
            self.scene.bob(f"({self.plant}) 2>&1; true", self.scene.shared, name, precious, STATE)

    def patch(self, location: str, offset: int, content: Any) -> httpx.Response:
        """Write on."""
        headers = {**CHUNK, "Upload-Offset": str(offset), "Upload-Checksum": ""}
        del headers["Upload-Checksum"]
        return self.http.patch(location, content=content, headers=headers)

    # The moments

    def before_all(self) -> Iterator[httpx.Response]:
        """Right after the upload was begun."""
        location = self.begin()
        self.strike(location)
        yield self.http.head(location, headers=TUS)
        yield self.patch(location, 0, CONTENT)
        yield self.http.head(location, headers=TUS)

    def while_it_comes(self) -> Iterator[httpx.Response]:
        """In the middle of a chunk."""
        location = self.begin()

        def chunk() -> Iterator[bytes]:
            yield CONTENT[:5]
            self.strike(location)
            yield CONTENT[5:]

        yield self.patch(location, 0, chunk())
        yield self.http.head(location, headers=TUS)

    def between_chunks(self) -> Iterator[httpx.Response]:
        """Between two chunks, and before it is given up."""
        location = self.begin()
        yield self.patch(location, 0, CONTENT[:5])
        self.strike(location)
        yield self.patch(location, 5, CONTENT[5:])
        self.strike(location)
        yield self.http.delete(location, headers=TUS)

    def before_it_is_given_up(self) -> Iterator[httpx.Response]:
        """Before an upload is terminated, and swept up behind the next one."""
        location = self.begin()
        self.strike(location)
        yield self.http.delete(location, headers=TUS)
        for path in self.scene.shared.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (0, 0))
        self.begin()

    def before_parts_are_joined(self) -> Iterator[httpx.Response]:
        """When parts have come and before they become a file."""
        location = self.begin(**{"Upload-Concat": "partial"})
        yield self.patch(location, 0, CONTENT)
        self.strike(location)
        named = base64.b64encode(b"file").decode()
        joined = {**TUS, "Upload-Concat": f"final;{location}", "Upload-Metadata": f"filename {named}"}
        yield self.http.post(self.base, params={"path": str(self.scene.shared)}, headers=joined)


MOMENTS = [
    Attack.before_all,
    Attack.while_it_comes,
    Attack.between_chunks,
    Attack.before_it_is_given_up,
    Attack.before_parts_are_joined,
]


FOLLOWED = [
    ("attackers", "a link for the file", moment)
    for moment in (Attack.before_it_is_given_up, Attack.before_parts_are_joined)
]
"""There an upload is begun behind a link that belongs to whom the directory belongs to, which counts."""


def share(system: str, kind: str) -> list[tuple[str, Callable[[Attack], Iterator[httpx.Response]]]]:
    """Return the plants and moments that are tried: a share in which each plant and each moment comes about.

    With HPCGATE_ALL_ATTACKS in the environment, all are.
    """
    every = 1 if "HPCGATE_ALL_ATTACKS" in os.environ else (4 if kind == "attackers" else 20)
    if every > 1 and system == "confined":  # Its operations are a process of Python each.
        every *= 2
    shift = SYSTEMS.index(system) + list(KINDS).index(kind)
    chosen: list[tuple[str, Callable[[Attack], Iterator[httpx.Response]]]] = [
        (plant, moment) for moment in MOMENTS for plant in PLANTS if (kind, plant, moment) not in FOLLOWED
    ]
    return chosen[shift % every :: every]


def attempt(
    cluster: Cluster,
    http: httpx.Client,
    system: str,
    kind: str,
    plant: str,
    moment: Callable[[Attack], Iterator[httpx.Response]],
) -> None:
    with scene(cluster, kind) as here:
        told = (system, kind, plant, moment.__name__)
        before = here.state()
        for answer in moment(Attack(here, http, system, plant)):
            assert answer.status_code < 500, (told, answer.status_code, answer.text)
        assert here.state() == before, told
        for path in here.shared.rglob("key"):
            assert path.read_bytes() in (b"hers", b"precious key"), (told, path)
        # Nothing that only the victim could read has become readable under another name.
        for path in here.shared.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                assert b"precious" not in path.read_bytes(), (told, path)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_uploads_touch_nothing_that_links_lead_to(cluster: Cluster, http: httpx.Client, system: str, kind: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(attempt, cluster, http, system, kind, *cell) for cell in share(system, kind)]
        for each in running:
            each.result()


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_upload_that_an_earlier_version_began_is_begun_anew_and_swept_in_time(
    cluster: Cluster, http: httpx.Client, system: str
) -> None:
    with scene(cluster, "sticky") as here:
        alice = cluster.user("alice")
        old = f".hpcgate-upload-{'1' * 32}"
        files = [here.shared / f"{old}{suffix}" for suffix in ("", ".json", ".lock")]
        for path in files:
            path.write_bytes(b"{}")
            os.chown(path, alice.uid, alice.gid)
        attack = Attack(here, http, system, "links beside")
        location = f"{attack.base}/{'1' * 32}?path={here.shared}"
        for answer in (http.head(location, headers=TUS), attack.patch(location, 0, b"x")):
            assert answer.status_code == 410
        attack.begin()
        assert all(path.exists() for path in files)
        for path in files:
            os.utime(path, (0, 0))
        attack.begin()
        assert not any(path.exists() for path in files)
        assert len([*here.shared.glob(".hpcgate-upload-*")]) == 2


def _file(http: httpx.Client, system: str, shared: Path) -> httpx.Response:
    return http.put(f"/filesystem/{system}/files/content", params={"path": f"{shared}/file"}, content=CONTENT)


def _simple(http: httpx.Client, system: str, shared: Path) -> httpx.Response:
    form = {"file": ("file", CONTENT)}
    return http.post(f"/filesystem/{system}/ops/upload", params={"path": str(shared)}, files=form)


def _compress(http: httpx.Client, system: str, shared: Path) -> httpx.Response:
    asked = {"sourcePath": f"{shared}/hers", "targetPath": f"{shared}/file", "compression": "none"}
    return http.post(f"/filesystem/{system}/ops/compress", json=asked)


def _archive(http: httpx.Client, system: str, shared: Path) -> httpx.Response:
    return http.put(f"/filesystem/{system}/files/archive", params={"path": str(shared)}, content=_archived("file"))


WRITES = [_file, _simple, _compress, _archive]
TARGETS = {
    "a link": 'ln -sT "$2/key" "$1/file"',
    "a hard link": 'ln -T "$1/hers/key" "$1/file"',
    "a FIFO": 'mkfifo -m 666 "$1/file"',
    "a directory": 'mkdir -m 777 "$1/file"; ln -s "$2/key" "$1/file/file"',
}
# What lies in the way where files are changed otherwise: links of the attacker's to a file and to a directory, and in a
# directory of the victim's that others may write, too. $1 the shared directory, $2 a directory of the victim's.
LINKS = """\
ln -s "$2/key" "$1/link"; ln -s "$2" "$1/down"
ln -s "$2/key" "$1/tree/file"; ln -s "$2" "$1/tree/d"
"""


def _archived(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(CONTENT), 0o666
            tar.addfile(member, io.BytesIO(CONTENT))
    return made.getvalue()


def _extract(target: str, archive: str) -> dict[str, str]:
    return {"sourcePath": f"{{hers}}/{archive}", "targetPath": target, "compression": "none"}


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "ops/chmod", {"json": {"sourcePath": "{shared}/link", "mode": "666"}}),
    ("PUT", "ops/chmod", {"json": {"sourcePath": "{shared}/link", "mode": "a+rw"}}),
    ("PUT", "ops/chmod", {"json": {"sourcePath": "{shared}/down", "mode": "a+rwx"}}),
    ("PUT", "ops/chmod", {"json": {"sourcePath": "{shared}/down/key", "mode": "a+rw"}}),
    ("PUT", "ops/chmod", {"json": {"sourcePath": "{shared}/down/key", "mode": "0666"}}),
    ("PUT", "ops/chown", {"json": {"sourcePath": "{shared}/link", "owner": "", "group": "{group}"}}),
    ("PUT", "ops/chown", {"json": {"sourcePath": "{shared}/down/key", "owner": "", "group": "{group}"}}),
    ("DELETE", "ops/rm", {"params": {"path": "{shared}/down/key"}}),
    ("DELETE", "ops/rm", {"params": {"path": "{shared}/down/"}}),
    ("POST", "ops/mkdir", {"json": {"path": "{shared}/down/made"}}),
    ("POST", "ops/mkdir", {"json": {"path": "{shared}/down/made/deep", "parent": True}}),
    ("POST", "ops/symlink", {"json": {"path": "{shared}/hers", "linkPath": "{shared}/down/made"}}),
    ("POST", "ops/extract", {"json": _extract("{shared}/tree", "file.tar")}),
    ("POST", "ops/extract", {"json": _extract("{shared}/tree", "d.tar")}),
    ("POST", "ops/extract", {"json": _extract("{shared}/down", "file.tar")}),
    ("POST", "ops/compress", {"json": {"sourcePath": "{shared}/hers", "targetPath": "{shared}/link"}}),
    ("POST", "ops/compress", {"json": {"sourcePath": "{shared}/hers", "targetPath": "{shared}/down/made"}}),
    ("PUT", "files/archive", {"params": {"path": "{shared}/tree"}, "content": _archived("d/key", "d/made")}),
    ("PUT", "files/archive", {"params": {"path": "{shared}/tree"}, "content": _archived("file")}),
    ("PUT", "files/archive", {"params": {"path": "{shared}/down"}, "content": _archived("key")}),
    ("PUT", "files/archive", {"params": {"path": "{shared}/down/made"}, "content": _archived("key")}),
    ("PUT", "files/content", {"params": {"path": "{shared}/down/key"}, "content": CONTENT}),
    ("POST", "ops/upload", {"params": {"path": "{shared}/down"}, "files": {"file": ("key", CONTENT)}}),
]
"""Requests that change something, by way of a link that somebody else has put there."""


def filled(value: Any, words: dict[str, str]) -> Any:
    """Fill in the paths of a request."""
    if isinstance(value, dict):
        return {name: filled(inner, words) for name, inner in value.items()}
    return value.format(**words) if isinstance(value, str) else value


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_change_follows_a_planted_link(cluster: Cluster, http: httpx.Client, system: str) -> None:
    alice = cluster.user("alice")
    led: list[object] = []
    kinds = itertools.cycle(("sticky", "open", "group"))
    for number, ((method, url, arguments), kind) in enumerate(zip(CHANGES, kinds, strict=False)):
        with scene(cluster, kind) as here:
            hers = here.shared / "hers"
            for path, mode in ((here.shared / "tree", 0o777), (hers, 0o700)):
                path.mkdir()
                path.chmod(mode)
            (hers / "file.tar").write_bytes(_archived("file"))
            (hers / "d.tar").write_bytes(_archived("d/key", "d/made"))
            for path in (here.shared / "tree", hers, *hers.iterdir()):
                shutil.chown(path, alice.uid, alice.gid)
            here.bob(LINKS, here.shared, here.precious[number % 2])
            before = here.state()
            words = {"shared": str(here.shared), "hers": str(hers), "group": str(here.shared.stat().st_gid)}
            answer = http.request(method, f"/filesystem/{system}/{url}", **filled(arguments, words))
            assert answer.status_code < 500, (url, arguments, answer.text)
            if here.state() != before:
                led.append((kind, url, arguments))
    assert led == []


# Takes away what a request makes for itself while it does, and puts something else there; for some seconds at most.
SWAP = """\
cd "$1" && until [ -e done ] || [ "${n:=0}" -gt 2000 ]; do
  n=$((n + 1))
  for f in .hpcgate-*; do
    if [ -e "$f" ] && [ ! -O "$f" ] && mv -T "$f" "away$n"; then
      case $((n % 3)) in 0) ln -s "$2" "$f" ;; 1) ln -s "$2/key" "$f" ;; *) mkfifo -m 666 "$f" ;; esac
    fi
  done 2>/dev/null
done
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_write_touches_what_is_planted_in_its_way(cluster: Cluster, http: httpx.Client, system: str) -> None:
    kinds = itertools.cycle(KINDS)
    for write in WRITES:
        for plant, script in TARGETS.items():
            kind = next(kinds)
            with scene(cluster, kind) as here:
                told = (write.__name__, plant, kind)
                (here.shared / "hers").mkdir()
                (here.shared / "hers" / "key").write_bytes(b"hers")
                here.bob(f"({script}) 2>&1; true", here.shared, here.precious[0])
                before = here.state()
                answer = write(http, system, here.shared)
                assert answer.status_code < 500, (told, answer.text)
                assert here.state() == before, told
                assert (here.shared / "hers" / "key").read_bytes() == b"hers", told
        next(kinds)


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_write_is_led_elsewhere_by_swaps(cluster: Cluster, http: httpx.Client, system: str) -> None:
    for write in WRITES:
        with scene(cluster, "open") as here, ThreadPoolExecutor(1) as pool:
            (here.shared / "hers").mkdir()
            before = here.state()
            swapping = pool.submit(here.bob, SWAP, here.shared, here.precious[1])
            try:
                for _ in range(3):
                    assert write(http, system, here.shared).status_code < 500, write.__name__
            finally:
                (here.shared / "done").touch()
            swapping.result()
            assert here.state() == before, write.__name__
