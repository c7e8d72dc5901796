"""A submission with a key happens once, wherever its script is killed and however many make it."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadAnswer,
    Conflict,
    GatewayError,
    KeyReused,
    NoSpace,
    PermissionDenied,
    RateLimited,
    SchedulerUnavailable,
    SubmissionRefused,
    UnderWay,
)
from hpcgate.schedulers import once as once_module
from hpcgate.schedulers import receipt_scripts, receipts
from hpcgate.schedulers.bulk import Bulk, Commands
from hpcgate.schedulers.once import Doubt, Fate, Submissions, Submitted
from hpcgate.schedulers.receipts import Once, Receipts
from hpcgate.schedulers.submitting import Printed
from tests.schedulers.local_session import LocalPool
from tests.schedulers.perl_steps import NO_PERL, stepping_perl
from tests.sites.shells import shell_program
from tests.ssh.stepping import Shims

ALICE = Principal("alice", token="")
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
DIRECTORY = ".local/state/hpcgate/submissions"
WHERE = Receipts(f"~/{DIRECTORY}", 86400, 1000)
KEY = Once.of(WHERE, "alice", "demo", "a key", "digest")

# A scheduler whose queue is a file. Its steps are tools, too, so that it can be killed between them.
SBATCH = """\
#!/bin/dash
date >/dev/null
case $(cat) in refused*) echo "invalid partition" >&2; exit 1 ;; esac
if [ -n "$GATE" ]; then echo >"$GATE.here"; cat "$GATE" >/dev/null; fi
echo "$1" >>"$QUEUE"
date >/dev/null
n=0
while read -r mark && n=$((n + 1)); do if [ "$mark" = "$1" ]; then break; fi; done <"$QUEUE"
wc -l </dev/null >/dev/null
echo "$n"
date >/dev/null
"""
KILL = """\
if [ "$n" -eq "${AT:-0}" ]; then
  read -r line </proc/$$/stat
  set -f; g() { echo "$3"; }; group=$(g ${line##*) }); set +f
  case $WHOM in main) kill -9 "$MAIN" ;; group) kill -9 -- "-$group" ;; one) kill -9 $$ ;; esac
fi
"""


class Scheduler:
    """What tells of the queue, as `hpcgate.schedulers.once.Backend` says.

    Attributes:
        down: Whether it answers nothing.
    """

    def __init__(self, queue: Path) -> None:
        self.queue = queue
        self.down = False

    @property
    def marks(self) -> list[str]:
        return self.queue.read_text().split() if self.queue.exists() else []

    async def prepared(self, principal: Principal, job: str, mark: str) -> tuple[Sequence[str], bytes]:
        return ["sbatch", mark], job.encode()

    async def prepared_among_many(
        self, principal: Principal, job: str, mark: str, scripts: object
    ) -> tuple[Sequence[str], bytes]:
        return await self.prepared(principal, job, mark)

    async def judged(self, principal: Principal, mark: str, printed: Printed) -> str | GatewayError | Doubt:
        words = printed.text.strip()
        if words.isdigit() and printed.exit_status in (0, None):
            return words
        if "invalid" in words and printed.exit_status == 1:
            return SubmissionRefused(words)
        return Doubt(words)

    def remarks(self, mark: str, text: str) -> tuple[str, ...]:
        return ()

    async def marked(self, principal: Principal, mark: str, began: float) -> str | None:
        if self.down:
            raise SchedulerUnavailable("down")
        return str(self.marks.index(mark) + 1) if mark in self.marks else None


class Site:
    """A user's home on a login node, and submissions there."""

    def __init__(self, directory: Path, shell: Sequence[str], *, perl: bool = True) -> None:
        shell_program(shell[0])
        self.home = directory / "home"
        self.home.mkdir()
        self.receipts = self.home / DIRECTORY
        (directory / "tmp").mkdir()
        # What the script is run by is a step of nobody's.
        self.shims = Shims(
            directory,
            KILL,
            sbatch=SBATCH,
            sh=f'#!/bin/dash\nexec {" ".join(shell)} "$@"\n',
            perl=stepping_perl(directory) if perl else NO_PERL,
        )
        self.shims.begin()
        env = {"HOME": str(self.home), "TMPDIR": str(directory / "tmp"), "QUEUE": str(directory / "queue")}
        self.pool = LocalPool(shell, {**self.shims.environment(), **env, "LC_ALL": "C.UTF-8"})
        self.scheduler = Scheduler(directory / "queue")
        self.submissions: Submissions[str] = Submissions(cast("Any", self.pool), self.scheduler, 60, {})

    async def submit(self, job: str = "job", key: Once = KEY) -> Submitted:
        return await self.submissions.submit(ALICE, job, key)

    async def insist(self) -> Submitted:
        """Submit until there is an answer, as a client does."""
        while True:
            try:
                return await self.submit()
            except (UnderWay, SchedulerUnavailable):
                await asyncio.sleep(0.01)

    async def submit_many(self, keys: Sequence[Once]) -> list[Submitted | GatewayError]:
        commands = Commands(cast("Any", self.pool), 60, {}, 2)
        bulk: Bulk[str] = Bulk(commands, cast("Any", self.scheduler), self.submissions, cast("Any", None))
        return await bulk.submit(ALICE, [("job", key) for key in keys])

    async def insist_on_many(self, keys: Sequence[Once]) -> list[str]:
        """Submit them all again until there is a job of each, as a client does."""
        while True:
            found = await self.submit_many(keys)
            if all(isinstance(one, Submitted) for one in found):
                return [one.job_id for one in found if isinstance(one, Submitted)]
            assert all(isinstance(one, Submitted | UnderWay | SchedulerUnavailable) for one in found), found
            await asyncio.sleep(0.01)

    async def find(self, key: Once = KEY) -> Fate:
        return await self.submissions.find(ALICE, key)

    def receipt(self) -> Path:
        (found,) = (path for path in self.receipts.iterdir() if path.is_dir())
        return found

    def forget(self, *names: str) -> None:
        for name in names:
            (self.receipt() / name).unlink()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once_module, "PAUSE", 0)


@pytest.fixture(params=[*SHELLS, "without perl"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, SHELLS.get(request.param, ["dash"]), perl=request.param in SHELLS)


async def test_the_same_key_is_the_same_job(site: Site) -> None:
    assert await site.find() == Fate("not_submitted")
    assert await site.submit() == Submitted("1")
    assert await site.submit() == Submitted("1", replayed=True)
    assert len(site.scheduler.marks) == 1
    found = await site.find()
    assert (found.state, found.job_id) == ("submitted", "1")
    assert oct(site.receipts.stat().st_mode)[-3:] == "700"
    other = Once.of(WHERE, "alice", "demo", "another", "digest")
    assert await site.submit(key=other) == Submitted("2")
    with pytest.raises(KeyReused):
        await site.submit(key=Once(WHERE, KEY.name, "other digest"))


async def test_many_at_once_make_one_job(site: Site) -> None:
    answers = await asyncio.gather(*(site.insist() for _ in range(8)))
    assert {answer.job_id for answer in answers} == {"1"}
    assert [answer.replayed for answer in answers].count(False) <= 1
    assert len(site.scheduler.marks) == 1


async def test_a_refusal_frees_the_key(site: Site) -> None:
    for _ in range(2):
        with pytest.raises(SubmissionRefused, match="invalid partition"):
            await site.submit("refused")
        assert (await site.find()).state == "not_submitted"
    assert await site.submit("job", Once(WHERE, KEY.name, "mended")) == Submitted("1")
    with pytest.raises(KeyReused):
        await site.submit()


async def test_what_is_in_doubt_is_looked_up(site: Site) -> None:
    await site.submit()
    site.forget("1.out", "1.end")
    site.scheduler.down = True
    with pytest.raises(SchedulerUnavailable, match="cannot be told"):
        await site.submit()
    assert (await site.find()).state == "unknown"
    site.scheduler.down = False
    assert await site.submit() == Submitted("1", replayed=True)
    site.scheduler.queue.write_text("")  # it has been forgotten since
    assert await site.submit() == Submitted("1", replayed=True)
    site.forget("1.id")
    assert (await site.find()).state == "not_submitted"
    assert await site.submit() == Submitted("1")
    assert len(site.scheduler.marks) == 1


async def test_it_goes_on_when_who_waits_for_it_is_gone(site: Site, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    site.pool.env["GATE"] = str(gate)
    request = asyncio.create_task(site.submit())
    while not (tmp_path / "gate.here").exists():
        await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert (await site.find()).state == "under_way"
    with pytest.raises(UnderWay):
        await site.submit()
    gate.write_text("on\n")
    assert (await site.insist()).job_id == "1"
    assert len(site.scheduler.marks) == 1


@pytest.mark.parametrize("many", [False, True], ids=["alone", "among many"])
async def test_who_exports_job_control_is_waited_for_all_the_same(tmp_path: Path, many: bool) -> None:
    """Where sh is bash, it takes the option over; setsid(1) forks for a leader of a group, and is not waited for."""
    site = Site(tmp_path, SHELLS["bash"])
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    site.pool.env.update(SHELLOPTS="monitor", GATE=str(gate))
    request: asyncio.Task[Any] = asyncio.create_task(site.submit_many([KEY]) if many else site.submit())
    while not (tmp_path / "gate.here").exists():
        await asyncio.sleep(0.01)
    state = (await site.find()).state
    gate.write_text("on\n")
    assert state == "under_way"
    assert await request == ([Submitted("1")] if many else Submitted("1"))
    assert len(site.scheduler.marks) == 1


async def test_an_old_key_is_a_new_one(site: Site) -> None:
    await site.submit()
    brief = Receipts(WHERE.directory, -1, WHERE.most)
    assert await site.submit(key=Once(brief, KEY.name, "other")) == Submitted("2")


async def test_another_machine_may_be_at_it(site: Site) -> None:
    await site.submit()
    site.forget("1.out", "1.end")
    attempt = site.receipt() / "1"
    words = attempt.read_text().split()
    words[4] = "elsewhere/boot/1"
    attempt.write_text(" ".join(words) + "\n")
    with pytest.raises(UnderWay):
        await site.submit()
    words[3] = str(int(words[3]) - receipt_scripts.LEASE)
    attempt.write_text(" ".join(words) + "\n")
    assert await site.submit() == Submitted("1", replayed=True)


@pytest.mark.parametrize("tokens", ["", "1 other", "2 other"])
async def test_who_has_seen_something_else_makes_no_attempt(tmp_path: Path, tokens: str) -> None:
    site = Site(tmp_path, ["dash"])
    await site.submit()
    argv = receipts.claim(KEY, "head", "mine", "mark", tokens, ["sbatch", "mark"])
    done = await site.pool.run(argv)
    assert receipts.parse(done.stdout.decode(), "head").token != "mine"
    assert len(site.scheduler.marks) == 1


async def test_a_directory_that_others_could_have_made(site: Site, tmp_path: Path) -> None:
    site.receipts.parent.mkdir(parents=True)
    site.receipts.symlink_to(tmp_path)
    with pytest.raises(PermissionDenied, match="is a link"):
        await site.submit()
    site.receipts.unlink()
    site.receipts.mkdir(mode=0o777)
    site.receipts.chmod(0o777)
    assert await site.submit() == Submitted("1")
    assert oct(site.receipts.stat().st_mode)[-3:] == "700"
    if os.geteuid() == 0:
        os.chown(site.receipts, 12345, 12345)
        with pytest.raises(PermissionDenied, match="somebody else"):
            await site.submit()
    assert len(site.scheduler.marks) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
@pytest.mark.parametrize("key", [KEY, Once.of(WHERE, "alice", "demo", "another")], ids=["its own", "another"])
async def test_a_receipt_that_somebody_else_has_made_is_not_used(site: Site, key: Once) -> None:
    """Whoever made it where others could write may have it open, and go on changing what is in it."""
    site.receipts.mkdir(parents=True)
    site.receipts.chmod(0o777)
    foreign = site.receipts / KEY.name
    foreign.mkdir()
    (foreign / "7").write_text("theirs\n")
    (foreign / "memo.x").write_text("theirs\n")
    old = 10 * WHERE.lifetime
    os.utime(foreign, (old, old))
    os.chown(foreign, 12345, 12345)
    before = sorted(os.listdir(foreign))
    if key is KEY:
        with pytest.raises(PermissionDenied, match="somebody else"):
            await site.submit(key=key)
        with pytest.raises(PermissionDenied, match="somebody else"):
            await site.find(key)
    else:
        assert await site.submit(key=key) == Submitted("1")
    assert sorted(os.listdir(foreign)) == before


async def test_a_directory_that_holds_other_things_is_left_as_it_is(site: Site) -> None:
    site.receipts.mkdir(parents=True)
    (site.receipts / "thesis").touch()
    site.receipts.chmod(0o755)
    with pytest.raises(PermissionDenied, match="holds other things"):
        await site.submit()
    assert oct(site.receipts.stat().st_mode)[-3:] == "755"
    assert site.scheduler.marks == []


def planted(site: Site, name: str, target: Path) -> None:
    """Put a link into a receipt that nobody has made yet, or in its place."""
    site.receipts.mkdir(parents=True, mode=0o700)
    link = site.receipts / KEY.name / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)


@pytest.mark.parametrize("name", ["", "1", "1.out", "1.end", "1.id", "1.memo"])
async def test_a_link_in_a_receipt_leads_nowhere(site: Site, name: str, tmp_path: Path) -> None:
    """Whoever may write there and not elsewhere, as by a rule about paths, must not get further by it."""
    outside = tmp_path / "outside"
    words = "4" if name == "1" else "secret words"
    if name:
        outside.write_text(words + "\n")
    else:
        outside.mkdir()
    planted(site, name, outside)
    said = ""
    for _ in range(3):
        try:
            await site.submit()
        except GatewayError as error:
            said += error.message
        said += (await site.find()).memo if name else ""
    assert "secret" not in said
    if name:
        assert outside.read_text() == words + "\n"
    else:
        assert list(outside.iterdir()) == []
    assert len(site.scheduler.marks) <= 1


async def test_what_a_planted_receipt_points_to_is_not_shown(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret words\n")
    for name in ("out", "end", "id", "memo"):
        (tmp_path / name).mkdir()
        await site.submit(key=(key := Once.of(WHERE, "alice", "demo", name, "digest")))
        file = site.receipts / key.name / f"1.{name}"
        file.unlink(missing_ok=True)
        file.symlink_to(outside)
        done = await site.pool.run(receipts.look(key, "head"))
        assert b"secret" not in done.stdout
        assert receipts.parse(done.stdout.decode(), "head").number == 1


@pytest.mark.parametrize("of", ["swept", "attempt"])
async def test_numbers_in_receipts_are_numbers(site: Site, of: str) -> None:
    """bash evaluates what it reckons with, commands in it, too."""
    await site.submit()
    site.forget("1.end")
    made = site.home / "made"
    words = f"_[$(echo>{made})0]"
    if of == "swept":
        (site.receipts / "swept").write_text(f"{words} 0\n")
    else:
        line = (site.receipt() / "1").read_text().split()
        (site.receipt() / "1").write_text(" ".join([*line[:3], words, "elsewhere", *line[5:]]) + "\n")
    for key in (KEY, Once.of(WHERE, "alice", "demo", "another")):
        with contextlib.suppress(GatewayError):
            await site.submit(key=key)
    assert not made.exists()


@pytest.mark.parametrize(
    ("tool", "words", "error"),
    [
        ("ln", "No space left on device", NoSpace),
        ("ln", "Disk quota exceeded", NoSpace),
        ("ln", "Operation not permitted", PermissionDenied),
        ("mkdir", "Read-only file system", PermissionDenied),
        ("mkdir", "No space left on device", NoSpace),
        ("mkdir", "", PermissionDenied),
    ],
)
async def test_without_a_receipt_nothing_is_submitted(
    tmp_path: Path, tool: str, words: str, error: type[GatewayError]
) -> None:
    site = Site(tmp_path, ["dash"])
    broken = tmp_path / "shims" / tool
    broken.unlink()
    said = f"echo '{tool}: {words}' >&2" if words else ""
    broken.write_text(f"#!/bin/sh\n{said}\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(error, match=words or "nobody says why"):
        await site.submit()
    assert (await site.find()).state == "not_submitted"
    assert site.scheduler.marks == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("", BadAnswer),
        ("full", RateLimited),
        ("full\n" + "x" * 10_000, RateLimited),
        ("failed", PermissionDenied),
        ("held", BadAnswer),
        ("held\n" * 9, BadAnswer),
        ("heard\n1\n2\nt m d 3\n-\n\n\n", BadAnswer),
        (f"held\n{'1' * 5000}\n2\nt m d 3\n-\n\n\n", BadAnswer),
        ("held\n1\n2\nt m d x\n-\n\n\n", BadAnswer),
        ("held\n1\n2\nt m d 3\nx\n\n\n", BadAnswer),
        # What no clock tells, and no float holds.
        (f"ended\n1\n2\nt m d {'9' * 400}\n0\n\n\n", BadAnswer),
        (f"ended\n1\n2\nt m d -{'9' * 400}\n0\n\n\n", BadAnswer),
        (f"ended\n1\n2\nt m d 3\n{'9' * 400}\n\n\n", BadAnswer),
        ("\ud800 none", BadAnswer),
    ],
    ids=range(14),
)
def test_what_a_login_node_says_instead_is_an_error_of_ours(said: str, error: type[GatewayError]) -> None:
    with pytest.raises(error) as caught:
        receipts.parse(f"head {said}", "head")
    assert len(caught.value.message) < 1000


async def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    site = Site(tmp_path, ["dash"])
    site.pool.env["HOME"] = "/proc/nowhere"
    with pytest.raises(PermissionDenied):
        await site.submit()
    assert site.scheduler.marks == []


async def test_old_receipts_are_swept_and_their_number_is_bounded(site: Site) -> None:
    for number in range(3):
        await site.submit(key=Once.of(WHERE, "alice", "demo", f"key {number}", "digest"))
    first = site.receipts / Once.of(WHERE, "alice", "demo", "key 0").name
    long_ago = time.time() - 86400 - 2 * 3600
    os.utime(first, (long_ago, long_ago))
    (site.receipts / "swept").unlink()
    await site.submit(key=Once.of(WHERE, "alice", "demo", "key 3", "digest"))
    assert not first.exists()
    assert len([path for path in site.receipts.iterdir() if path.is_dir()]) == 3
    (site.receipts / "swept").unlink()
    few = Receipts(WHERE.directory, WHERE.lifetime, 3)
    with pytest.raises(RateLimited):
        await site.submit(key=Once.of(few, "alice", "demo", "key 4", "digest"))
    assert len(site.scheduler.marks) == 4


async def test_only_receipts_are_swept(site: Site) -> None:
    await site.submit()
    long_ago = time.time() - 86400 - 2 * 3600
    theirs = [site.receipts / "deep" / KEY.name, site.receipts / ("x" * 32), site.receipts / "notes.memo.txt"]
    for directory in theirs[:2]:
        directory.mkdir(parents=True)
        (directory / "1").touch()
    theirs[2].touch()
    for path in theirs:
        os.utime(path, (long_ago, long_ago))
    (site.receipts / "swept").unlink()
    await site.submit(key=Once.of(WHERE, "alice", "demo", "another"))
    assert all(path.exists() for path in (*theirs, theirs[0] / "1", theirs[1] / "1"))


async def test_who_asks_again_is_answered_though_there_are_as_many_as_may_be(site: Site) -> None:
    one = Once(Receipts(WHERE.directory, WHERE.lifetime, 1), KEY.name, KEY.digest)
    assert await site.submit(key=one) == Submitted("1")
    (site.receipts / "swept").unlink()
    assert await site.submit(key=one) == Submitted("1", replayed=True)
    with pytest.raises(RateLimited):
        await site.submit(key=Once.of(one.receipts, "alice", "demo", "another"))


async def test_a_receipt_that_is_being_swept_is_nobody_s(site: Site) -> None:
    await site.submit()
    (site.receipt() / "2").write_text("swept token\n")
    with pytest.raises(UnderWay):
        await site.submit()
    # Whoever was to remove it was killed: the next one does.
    long_ago = time.time() - 86400 - 2 * 3600
    os.utime(site.receipt(), (long_ago, long_ago))
    (site.receipts / "swept").unlink()
    assert await site.submit() == Submitted("2")


async def test_what_the_answer_needs_besides_is_kept(site: Site) -> None:
    key = Once(WHERE, KEY.name, KEY.digest, "a memo of " + "much " * 10_000)
    assert await site.submit(key=key) == Submitted("1", memo=key.memo)
    again = await site.submit(key=Once(WHERE, KEY.name, KEY.digest, "another"))
    assert again == Submitted("1", replayed=True, memo=key.memo)
    assert (await site.find()).memo == key.memo


async def test_no_answer_is_taken_for_one(tmp_path: Path) -> None:
    site = Site(tmp_path, ["dash"])

    async def claims(principal: Principal, mark: str, printed: Printed) -> Doubt:
        return Doubt("submitted, says a wrapper", claims=True)

    site.scheduler.judged = claims  # type: ignore[method-assign]
    await site.submit()
    site.scheduler.queue.write_text("")
    site.forget("1.id")
    with pytest.raises(Conflict, match="cannot be told"):
        await site.submit()
    assert site.scheduler.marks == []


@pytest.mark.parametrize(
    ("shell", "whom"), [("dash", "group"), ("dash", "main"), ("busybox", "group"), ("bash", "main")]
)
async def test_killed_before_any_step_and_sent_again_it_is_one_job(tmp_path: Path, shell: str, whom: str) -> None:
    site = Site(tmp_path, SHELLS[shell])
    site.pool.env["WHOM"] = whom
    await site.submit()
    steps = site.shims.steps()
    assert steps > 15
    for at in range(1, steps + 1):
        shutil.rmtree(site.receipts)
        site.scheduler.queue.unlink()
        site.shims.begin()
        site.pool.env["AT"] = str(at)
        with contextlib.suppress(GatewayError):
            await site.submit()
        site.pool.env["AT"] = "0"
        assert (await site.insist()).job_id == "1", at
        assert len(site.scheduler.marks) == 1, at


# Many at a time.

KEYS = [Once.of(WHERE, "alice", "demo", f"key {number}", "digest") for number in range(3)]


async def test_each_of_many_is_one_job(site: Site) -> None:
    """Some are sent again with new ones and with one that was sent alone, and a refused one is free."""
    assert await site.submit(key=KEYS[1]) == Submitted("1")
    first = await site.submit_many(KEYS)
    assert first[1] == Submitted("1", replayed=True)
    ids = {one.job_id for one in first if isinstance(one, Submitted)}
    assert ids == {"1", "2", "3"}
    other = Once.of(WHERE, "alice", "demo", "other")
    again = await site.submit_many([*KEYS, other, Once(WHERE, KEYS[0].name, "other digest")])
    assert again[:3] == [Submitted(cast("Submitted", one).job_id, replayed=True) for one in first]
    assert again[3] == Submitted("4")
    assert isinstance(again[4], KeyReused)
    assert await site.submit(key=KEYS[2]) == again[2]
    assert oct(site.receipts.stat().st_mode)[-3:] == "700"
    assert not list(site.receipts.rglob("*.new.*"))
    assert len(site.scheduler.marks) == 4


async def test_without_perl_one_process_makes_a_receipt_of_many(tmp_path: Path) -> None:
    """That is link(1); the others are the scheduler's."""
    site = Site(tmp_path, ["dash"], perl=False)
    few = [Once.of(WHERE, "alice", "demo", f"one of few {number}") for number in range(4)]
    more = [Once.of(WHERE, "alice", "demo", f"one of more {number}") for number in range(14)]
    steps = []
    await site.submit()  # sweeps, which is not done again so soon
    site.scheduler.down = True  # nothing is in doubt
    for keys in (few, more, more):
        site.shims.begin()
        assert {type(one) for one in await site.submit_many(keys)} == {Submitted}
        steps.append(site.shims.steps())
    # What sbatch itself calls here, and ln.
    assert steps[1] - steps[0] == 10 * (5 + 1)
    assert steps[2] < steps[0]


async def test_with_perl_no_process_makes_a_receipt_of_many(tmp_path: Path) -> None:
    """Only the scheduler's command is run, and what users have perl do is for that."""
    site = Site(tmp_path, ["dash"])
    (site.home / "Loud.pm").write_text("BEGIN { open my $file, '>', \"$ENV{HOME}/loud\" } 1;\n")
    site.pool.env |= {"PERL5OPT": "-MLoud", "PERL5LIB": str(site.home)}
    told = SBATCH.replace("date >/dev/null", 'echo "$PERL5OPT $PERL5LIB" >>"$HOME/seen"', 1)
    for name, text in {"sbatch": told, "ln": "#!/bin/false\n", "setsid": "#!/bin/false\n"}.items():
        (tmp_path / "real" / name).write_text(text)
        (tmp_path / "real" / name).chmod(0o755)
    assert set(await site.submit_many(KEYS)) == {Submitted(str(number)) for number in (1, 2, 3)}
    assert (site.home / "seen").read_text() == f"-MLoud {site.home}\n" * 3
    assert not (site.home / "loud").exists()


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda site: (site.receipts.parent.mkdir(parents=True), site.receipts.symlink_to("/tmp")), PermissionDenied),
        (lambda site: site.pool.env.update(HOME="/proc/nowhere"), PermissionDenied),
        (lambda site: planted(site, "1.out", site.home / "elsewhere"), PermissionDenied),
        (lambda site: planted(site, "", site.home), PermissionDenied),
    ],
    ids=["a directory that is a link", "no home", "an output that is there", "a receipt that is a link"],
)
async def test_of_many_without_a_receipt_none_is_submitted(tmp_path: Path, break_it: Any, error: type) -> None:
    site = Site(tmp_path, ["dash"])
    break_it(site)
    (found,) = await site.submit_many([KEY])
    assert isinstance(found, error), found
    assert site.scheduler.marks == []


async def test_no_more_receipts_are_made_at_once_than_there_may_be(tmp_path: Path) -> None:
    site = Site(tmp_path, ["dash"])
    few = Receipts(WHERE.directory, WHERE.lifetime, 2)
    found = await site.submit_many([Once(few, key.name, key.digest) for key in KEYS])
    assert [type(one) for one in found] == [Submitted, Submitted, RateLimited]
    assert len(site.scheduler.marks) == 2


async def begun_anew(site: Site) -> None:
    """Forget all that was submitted."""
    shutil.rmtree(site.receipts, ignore_errors=True)
    site.scheduler.queue.unlink(missing_ok=True)
    site.shims.begin()


@pytest.mark.parametrize(
    ("shell", "perl", "whom"),
    [
        ("dash", False, "group"),
        ("busybox", False, "main"),
        ("dash", True, "group"),
        ("dash", True, "main"),
        ("dash", True, "one"),
    ],
)
async def test_many_killed_before_any_step_and_sent_again_are_one_job_each(
    tmp_path: Path, shell: str, perl: bool, whom: str
) -> None:
    site = Site(tmp_path, SHELLS[shell], perl=perl)
    site.pool.env["WHOM"] = whom
    # Two at a time have others begin behind them, or not. Three are for the plainest shell, whose steps are the fewest:
    # what busybox does of its own, and what perl does, shows with two.
    keys = KEYS if shell == "dash" and not perl else KEYS[:2]
    await site.submit_many(keys)
    steps = site.shims.steps()
    assert steps > 15
    for at in range(1, steps + 1):
        await begun_anew(site)
        site.pool.env["AT"] = str(at)
        with contextlib.suppress(GatewayError):
            await site.submit_many(keys)
        site.pool.env["AT"] = "0"
        ids = await site.insist_on_many(keys)
        assert sorted(ids) == ["1", "2", "3"][: len(keys)], at
        assert len(site.scheduler.marks) == len(keys), at
