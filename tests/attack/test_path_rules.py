"""A rule with paths under attack: requests by each kind of way out, and while directories and links are swapped."""

import gzip
import io
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import wait_until
from tests.path_requests import CHUNK, TUS, Request, assert_denied, b64, requests
from tests.people import Person

SYSTEMS = ("demo", "commands")
SECRET = b"nobody may read this"
ONLY = "name-of-the-outside"
OPERATIONS = ["fs:read", "fs:write", "compute:submit", "compute:read", "transfer"]
SWAPPER = Path(__file__).with_name("swapper.py")
MAX_SECONDS = 900
"""Seconds after which a swapper ends by itself."""


@pytest.fixture(scope="module")
def fenced(cluster: Cluster, alice: Person) -> Iterator[Gateway]:
    """A gateway that holds its users to a directory in their homes."""
    rule = {"name": "box", "operations": OPERATIONS, "paths": [f"{cluster.homes}/{{username}}/rules/box"]}
    transfer: dict[str, Any] = {"data_operation": {"data_transfer": {"service_type": "wormhole"}}}
    config = cluster.write_gateway_config(
        cluster.directory / "fenced-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", **transfer),
            cluster.cluster_settings("commands", ssh={"files": "commands"}, **transfer),
        ],
        auth={"policy": {"rules": [rule]}},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def held(fenced: Gateway, cluster: Cluster) -> Iterator[httpx.Client]:
    """The first user, held to the box."""
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=fenced.url, headers=headers, timeout=300) as client:
        yield client


@pytest.fixture
def box(alice: Person) -> Iterator[Path]:
    """The directory that the rule allows, beside one that it does not allow."""
    top = alice.user.home / "rules"
    box = top / "box"
    script = """\
mkdir -p box/sub box/still aside outside/dir box2 && cd outside || exit
for f in secret file dir/file ../box2/secret; do printf %s "$1" > "$f"; done
touch "$2" && tar -czf good.tar.gz secret && cd ../box || exit
echo inside > good && tar -czf good.tar.gz good && cp good good.tar.gz still
ln -s "$PWD/../outside" absolute && ln -s ../outside relative && ln -s relative twice
ln -s "$PWD/../outside/new" dangling && ln -s "$PWD/../outside/secret" leaf-link
ln -s / root && ln -s "/proc/self/root$PWD/../outside" proc && ln -s ../box/../outside around
ln -s sub/../../outside dots && ln -s loop loop
n=0; last=../outside; while [ $n -lt 45 ]; do ln -s "$last" "chain$n"; last=chain$n; n=$((n+1)); done
"""
    alice.run("mkdir", str(top))
    alice.run("sh", "-c", f'cd "$3" && {script}', "sh", SECRET.decode(), ONLY, str(top))
    yield box
    shutil.rmtree(top)


def fingerprint(top: Path) -> dict[str, tuple[object, ...]]:
    """Return all there is to know of a tree that a write would change."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (top, *top.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else None
        seen[str(path)] = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_mtime_ns, content)
    return seen


def tells(data: bytes) -> bool:
    """Tell whether some bytes, unpacked if need be, hold what only the outside has."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return SECRET in data or ONLY.encode() in data


def assert_nothing_taken(box: Path) -> None:
    """No file of a directory is one of the outside beside it, or holds what is there."""
    outside = {(path.lstat().st_dev, path.lstat().st_ino) for path in (box.parent / "outside").rglob("*")}
    for path in box.rglob("*"):
        info = path.lstat()
        assert (info.st_dev, info.st_ino) not in outside, path
        if stat.S_ISREG(info.st_mode):
            assert not tells(path.read_bytes()), path


ESCAPES = (
    "outside/secret",
    "box/missing/../../outside/secret",
    "box/relative/secret",
    "box2/secret",
    "box/../outside/secret",
    "box/./sub/../../outside/secret",
    "box//sub///..//../outside//secret",
    "box/absolute/secret",
    "box/twice/secret",
    "box/around/secret",
    "box/dots/secret",
    "box/relative/missing/deep",
    "box/sub/../leaf-link",
    "box/dangling/x",
    "box/absolute/../../.bashrc",
    "box/chain20/secret",
    "box/root/etc/hostname",
    "box/proc/secret",
)
WHOLE = 2
"""So many ways out are tried by every request, on both systems; of the others each by every sixth, in turn."""


@pytest.mark.parametrize("number", range(len(ESCAPES)), ids=ESCAPES)
def test_no_way_out(held: httpx.Client, box: Path, number: int) -> None:
    """No path that leads out of the directory of a rule is served."""
    before = fingerprint(box.parent / "outside")
    for system in SYSTEMS if number < WHOLE else SYSTEMS[number % 2 :][:1]:
        all_of_them = list(requests(system, str(box), f"{box.parent}/{ESCAPES[number]}"))
        for method, url, arguments in all_of_them if number < WHOLE else all_of_them[number % 6 :: 6]:
            assert_denied(held.request(method, url, **arguments), "box")
    assert fingerprint(box.parent / "outside") == before
    assert_nothing_taken(box)


def test_the_root_of_a_rule_stays(held: httpx.Client, box: Path) -> None:
    asks: list[Request] = [
        ("DELETE", "/filesystem/demo/ops/rm", {"params": {"path": str(box)}}),
        ("DELETE", "/filesystem/demo/ops/rm", {"params": {"path": f"{box}/sub/.."}}),
        ("PUT", "/filesystem/demo/files/content", {"params": {"path": str(box)}, "content": b"evil"}),
    ]
    before = fingerprint(box)
    for method, url, arguments in asks:
        answer = held.request(method, url, **arguments)
        assert 400 <= answer.status_code < 500, answer.text
    assert fingerprint(box) == before


def test_links_without_end_tell_nothing(held: httpx.Client, box: Path) -> None:
    for offset, name in enumerate(("loop/secret", "loop", "chain44/secret")):
        for method, url, arguments in list(requests("demo", str(box), f"{box}/{name}"))[offset::3]:
            answer = held.request(method, url, **arguments)
            # What is about the link itself, or about a new one to it, succeeds.
            itself = any(
                word in url for word in ("/ops/stat", "/ops/ls", "/ops/file", "/symlink", "/compress", "/archive")
            )
            assert answer.status_code < 500, (method, url, answer.text)
            assert itself or answer.status_code >= 400, (method, url, answer.text)
            assert not tells(answer.content)


Member = tuple[str, bytes, str]
"""The name of a member of an archive, its type, and where it leads."""
FILE, LINK, HARD, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE

ARCHIVES: dict[str, list[Member]] = {
    "dots in a name": [("../outside/new", FILE, "")],
    "dots within a name": [("sub/../../outside/new", FILE, "")],
    "an absolute name": [("{outside}/new", FILE, "")],
    "a link that leads out": [("a", LINK, "../../outside")],
    "an absolute link": [("a", LINK, "{outside}")],
    "a link to the root": [("a", LINK, "/")],
    "a link to what leads out": [("a", LINK, "../relative/secret")],
    "a link to nothing that is out": [("a", LINK, "../../outside/new")],
    "a link to a process": [("a", LINK, "/proc/self/root")],
    "a link that leads out behind another": [("a", LINK, "."), ("a/b", LINK, "../../outside")],
    "a link that leads out behind a directory": [("d/e", DIRECTORY, ""), ("a", LINK, "d/e/../../../../outside")],
    "a link, and dots behind it": [
        ("d/e/f", DIRECTORY, ""),
        ("a", LINK, "d/e/f"),
        ("b", LINK, "a/../../../../../outside"),
    ],
    "a file behind a link": [("a", LINK, "../sub"), ("a/../../../outside/new", FILE, "")],
    "a file behind a link that was there": [("../relative/new", FILE, "")],
    "a file behind a link that was there, inside": [("out/new", FILE, "")],
    "a directory behind a link that was there": [("out/dir/new", DIRECTORY, "")],
    "a hard link": [("a", HARD, "../../outside/secret")],
    "an absolute hard link": [("a", HARD, "{outside}/secret")],
    "a hard link behind a link": [("a", HARD, "out/secret")],
    "a hard link to a link": [("a", HARD, "out"), ("a/new", FILE, "")],
    "a device": [("a", tarfile.CHRTYPE, "")],
    "a FIFO": [("a", tarfile.FIFOTYPE, "")],
    "a long name": [("x" * 120 + "/../../../outside/new", FILE, "")],
    "a link that becomes a directory": [("a", LINK, "../../outside"), ("a", DIRECTORY, ""), ("a/new", FILE, "")],
}


def archive(members: list[Member], outside: Path, form: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name.replace("{outside}", str(outside)))
            member.type, member.linkname, member.mode = kind, link.replace("{outside}", str(outside)), 0o755
            member.size = 4 if kind == FILE else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    return made.getvalue()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_no_archive_leads_out(held: httpx.Client, box: Path, alice: Person, kind: str) -> None:
    before = fingerprint(box.parent / "outside")
    alice.run("ln", "-s", "../../outside", f"{box}/still/out")
    links = {path for path in box.rglob("*") if path.is_symlink()}
    for system, form in zip(SYSTEMS, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT), strict=True):
        content = archive(ARCHIVES[kind], box.parent / "outside", form)
        (box / "evil.tar").write_bytes(content)
        body = {"path": f"{box}/evil.tar", "targetPath": f"{box}/still", "compression": "none"}
        answers = [
            held.post(f"/filesystem/{system}/ops/extract", json=body),
            held.put(f"/filesystem/{system}/files/archive", params={"path": f"{box}/still"}, content=content),
            held.put(f"/filesystem/{system}/files/archive", params={"path": f"{box}/fresh"}, content=content),
        ]
        for answer in answers:
            assert answer.status_code < 500, answer.text
            assert not tells(answer.content)
        assert fingerprint(box.parent / "outside") == before
        assert_nothing_taken(box)
        made = [path for path in box.rglob("*") if path.is_symlink() and path not in links]
        assert not [path for path in made if not path.resolve().is_relative_to(box)]


@pytest.fixture
def ready(box: Path, alice: Person) -> Path:
    """The box with `way`, a directory, and `leaf`, a file, for either of which a link that leads out lies aside."""
    script = """\
mkdir -p way/dir && cp still/* way && echo inside | tee leaf way/file way/dir/file way/secret
ln -s "$PWD/../outside" ../aside/way && ln -s "$PWD/../outside/secret" ../aside/leaf
"""
    alice.run("sh", "-c", f'cd "$1" && {script}', "sh", str(box))
    return box


@contextmanager
def swapping(box: Path) -> Iterator[None]:
    """Exchange `way` and `leaf` with their links, again and again."""
    pairs = [str(path) for name in ("way", "leaf") for path in (box / name, box.parent / "aside" / name)]
    # Not as the user: the tests' own Python may lie where only they can enter. A swap is a swap.
    swapper = subprocess.Popen([sys.executable, str(SWAPPER), str(MAX_SECONDS), *pairs])
    try:
        assert wait_until(lambda: (box / "way").is_symlink())
        yield
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.wait()


def _matters(request: Request) -> bool:
    """Tell whether the gateway itself does it; what jobs do is tried below."""
    return "/transfer/" not in request[1] and "/jobs" not in request[1]


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_operation_is_led_out_by_a_swap(held: httpx.Client, ready: Path, system: str) -> None:
    outside = ready.parent / "outside"
    before = fingerprint(outside)
    tried = [
        request
        for path in (ready / "way" / "secret", ready / "way", ready / "leaf")
        for request in requests(system, str(ready), str(path))
        if _matters(request)
    ]

    def ask(request: Request) -> tuple[Request, httpx.Response]:
        method, url, arguments = request
        return request, held.request(method, url, **arguments)

    statuses = set()

    def both_sides_were_met() -> bool:
        look = held.get(f"/filesystem/{system}/ops/stat", params={"path": f"{ready}/way/secret"})
        statuses.add(look.status_code)
        return {200, 403} <= statuses

    # What is removed is not swapped any more.
    tried.sort(key=lambda request: request[0] == "DELETE")
    with swapping(ready), ThreadPoolExecutor(4) as pool:
        assert wait_until(both_sides_were_met)
        answers = list(pool.map(ask, tried))
    for request, answer in answers:
        assert answer.status_code < 500, (request, answer.text)
        assert not tells(answer.content), (request, answer.content)
    assert fingerprint(outside) == before
    assert_nothing_taken(ready)
    assert_nothing_taken(ready.parent / "aside")


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_upload_is_led_out_by_a_swap(held: httpx.Client, ready: Path, alice: Person, system: str) -> None:
    way, outside = ready / "way", ready.parent / "outside"
    begin = {**TUS, "Upload-Length": "8", "Upload-Metadata": f"filename {b64('new')}"}
    uploads = f"/filesystem/{system}/files/uploads"
    started = held.post(uploads, params={"path": str(way)}, headers=begin)
    assert started.status_code == 201, started.text
    # The same upload lies outside, too: whoever is led there finds all that is needed.
    alice.run("sh", "-c", 'cp -rp "$1"/.hpcgate-upload-* "$2"', "sh", str(way), str(outside))
    before = fingerprint(outside)
    url = started.headers["location"]
    asks: list[Callable[[], httpx.Response]] = [
        lambda: held.post(uploads, params={"path": str(way)}, headers=begin),
        lambda: held.head(url, headers=TUS),
        lambda: held.patch(url, headers={**TUS, **CHUNK, "Upload-Offset": "0"}, content=b"evil"),
        lambda: held.patch(url, headers={**TUS, **CHUNK, "Upload-Offset": "4"}, content=b"evil"),
        lambda: held.delete(url, headers=TUS),
    ]
    with swapping(ready):
        for ask in asks * 3:
            answer = ask()
            assert answer.status_code < 500, answer.text
    assert fingerprint(outside) == before


def submit(held: httpx.Client, box: Path, *directives: str, **changes: Any) -> httpx.Response:
    script = "\n".join(["#!/bin/sh", *(line.replace("{box}", str(box)) for line in directives), "echo $0", ""])
    job = {"workingDirectory": str(box / "sub"), "script": script, **changes}
    return held.post("/compute/demo/jobs", json={"job": job})


JOBS: dict[str, dict[str, Any]] = {
    "output": {"directives": ["#SBATCH --output={box}/../outside/new"]},
    "error": {"directives": ["#SBATCH -e{box}/relative/new"]},
    "input": {"directives": ["#SBATCH -i ../relative/secret"]},
    "directory": {"directives": ["#SBATCH -D {box}/../outside"]},
    "part": {"directives": ["#SBATCH -n1", "#SBATCH hetjob", "#SBATCH -n1 -o ../../outside/new"]},
    "abbreviation": {"directives": ["#SBATCH --outp ../../outside/new"]},
    "letters": {"directives": ["#SBATCH -Ho ../../outside/new"]},
    "quotes": {"directives": ["#SBATCH \"--output\"='../../outside/new'"]},
    "other scheduler": {"directives": ["#PBS -o ../../outside/new"]},
    "blank": {"directives": ["#SBATCH -J a\x0b-o ../../outside/new"]},
    "late": {"directives": [":", "#SBATCH -o ../../outside/new"]},
    "link": {"directives": ["#SBATCH -o {box}/leaf-link"]},
    "nothing yet": {"directives": ["#SBATCH -o {box}/dangling"]},
    "loop": {"directives": ["#SBATCH -o {box}/loop/x"]},
    "nodes": {"directives": ["#SBATCH --nodelist={box}/../outside/secret"]},
    "nodes behind a blank": {"directives": ["#SBATCH --exclude ../../outside/secret"]},
    "variable": {"directives": [], "env": {"SBATCH_OUTPUT": "/tmp/new"}},
    "library": {"directives": [], "env": ["GCONV_PATH=/tmp"]},
    "plug-in": {"directives": [], "env": ["_SLURM_SPANK_OPTION_site_mounts=/tmp"]},
    "staging": {"directives": ["#DW stage_out type=file source={box}/good destination={box}/../outside/new"]},
    "name": {"directives": ["#SBATCH -o %x"], "name": "../../outside/new"},
}


@pytest.mark.parametrize("kind", JOBS)
def test_no_job_names_what_lies_outside(held: httpx.Client, box: Path, alice: Person, kind: str) -> None:
    before = fingerprint(box.parent / "outside")
    changes = dict(JOBS[kind])
    directives = changes.pop("directives")
    assert_denied(submit(held, box, *directives, **changes), "box")
    if directives:
        lines = "\n".join(["#!/bin/sh", *(line.replace("{box}", str(box)) for line in directives), ""])
        alice.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", lines, f"{box}/job.sh")
        at_path = submit(held, box, script=None, scriptPath=f"{box}/job.sh", **changes)
        assert_denied(at_path, "box")
    assert fingerprint(box.parent / "outside") == before


def test_a_script_at_a_path_runs_as_it_was_checked(held: httpx.Client, box: Path, alice: Person) -> None:
    """Its directives count, and what a link leads to outside is not read."""
    alice.run("sh", "-c", 'printf "#!/bin/sh\\n#SBATCH -o out-%%j\\necho done\\n" >"$1"', "sh", f"{box}/job.sh")
    answer = submit(held, box, script=None, scriptPath=f"{box}/job.sh")
    assert answer.status_code == 201, answer.text
    output = box / "sub" / f"out-{answer.json()['jobId']}"
    assert wait_until(lambda: output.exists() and output.read_text() == "done\n", 120)
    job = held.get(f"/compute/demo/jobs/{answer.json()['jobId']}").json()["jobs"][0]
    assert job["name"] == "job.sh"
    assert_denied(submit(held, box, script=None, scriptPath=f"{box}/leaf-link"), "box")


def test_no_transfer_job_is_led_out_by_a_swap(held: httpx.Client, ready: Path) -> None:
    outside = ready.parent / "outside"
    before = fingerprint(outside)
    asked = [
        ("cp", {"path": f"{ready}/good", "targetPath": f"{ready}/way/new"}),
        ("cp", {"path": f"{ready}/way", "targetPath": f"{ready}/copied", "dereference": True}),
        ("cp", {"path": f"{ready}/leaf", "targetPath": f"{ready}/leaf-copied"}),
        ("compress", {"path": f"{ready}/way", "targetPath": f"{ready}/packed.tar.gz"}),
        ("compress", {"path": f"{ready}/still", "targetPath": f"{ready}/way/packed.tar.gz"}),
        ("extract", {"path": f"{ready}/good.tar.gz", "targetPath": f"{ready}/way"}),
        ("mv", {"path": f"{ready}/way/dir", "targetPath": f"{ready}/moved"}),
    ]
    jobs = []

    def accepted(name: str, body: dict[str, Any]) -> bool:
        """At submission each path is looked at, too: it has to be the directory just then."""
        answer = held.post(f"/filesystem/demo/transfer/{name}", json={**body, "account": "demo"})
        assert answer.status_code in (201, 403), answer.text
        if answer.status_code == 201:
            jobs.append(answer.json()["transferJob"]["jobId"])
        return answer.status_code == 201

    def ended() -> bool:
        found = [held.get(f"/compute/demo/jobs/{job}").json()["jobs"][0]["status"]["state"] for job in jobs]
        return not {"PENDING", "RUNNING", "COMPLETING"} & set(found)

    with swapping(ready):
        for name, body in asked:
            assert wait_until(lambda name=name, body=body: accepted(name, body))  # type: ignore[misc]
        assert wait_until(ended, 180)
    assert fingerprint(outside) == before
    assert_nothing_taken(ready)
    assert_nothing_taken(ready.parent / "aside")
