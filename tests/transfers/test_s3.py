"""S3: names, parts, signatures, and both jobs against a real server."""

import asyncio
import hashlib
import math
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore import handlers
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, SubmissionRefused, Unavailable
from hpcgate.ssh.files.remote_path import encode_path
from hpcgate.transfers import s3
from hpcgate.transfers.base import JobLogs, Script, TransferContext, TransferJob
from hpcgate.transfers.presigning import Signer
from hpcgate.transfers.s3 import ObjectUpload, S3Transfer, Urls, bucket_name, object_key, part_count
from hpcgate.transfers.s3_jobs import VERIFY
from hpcgate.transfers.s3_settings import GIB, MIB, S3Settings
from hpcgate.transfers.store import Store
from tests.transfers import asked
from tests.transfers.object_store import SECRET_KEY, ObjectStore
from tests.transfers.shells import Sh, assert_group_kept, either, own

ALICE = Principal("alice", "token")
PART = 5 * MIB
SIZES = [("dash", 0), ("bash", 1), ("dash", PART), ("bash", PART + 1), ("dash", 3 * PART)]


def test_part_count() -> None:
    """A file is cut into as many parts as its size needs, within the limits of S3."""
    assert [part_count(size, PART) for size in (0, 1, PART, PART + 1)] == [1, 1, 1, 2]
    assert part_count(10_000 * PART, PART) == 10_000
    assert part_count(5 * 1024 * GIB, 2 * GIB) == 2560
    for size, part in ((10_000 * PART + 1, PART), (5 * 1024 * GIB + 1, 5 * GIB)):
        with pytest.raises(BadRequest, match="too large"):
            part_count(size, part)


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_bucket_names(one: str, other: str) -> None:
    """Each user has a bucket of their own with a valid name."""
    name = bucket_name(one)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name)
    assert (bucket_name(one) == bucket_name(other)) == (one == other)
    assert bucket_name(one, "tenant") == f"tenant:{name}"


def test_buckets_of_users_that_look_alike() -> None:
    users = ["bob", "Bob", "bob_", "_bob", "bob-", "bob.", "b.o.b", "x" * 64, "x" * 65]
    assert len({bucket_name(user) for user in users}) == len(users)


def test_object_key() -> None:
    """A key ends with the file's name, and no two transfers share one."""
    assert object_key(encode_path("/a/b c'é.txt")).endswith("/b c'é.txt")
    assert object_key(encode_path("/a/x\ny")).endswith("/x_y")
    assert object_key(encode_path("/a/x")) != object_key(encode_path("/a/x"))


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "https://s3.example.org", "https://h:443/", "http://[::1]:80"]
)
@pytest.mark.parametrize("bucket", ["bucket", "tenant:bucket"])
@pytest.mark.parametrize("key", ["k", "u/a b'+é~%2F&?#"])
async def test_signatures_are_those_of_botocore(endpoint: str, bucket: str, key: str) -> None:
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="eu-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=config,
    ) as client:
        client.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
        for operation, method, own_query, parameters in (
            ("get_object", "GET", {}, {}),
            ("head_object", "HEAD", {}, {}),
            ("upload_part", "PUT", {"partNumber": "7", "uploadId": "i/d+"}, {"PartNumber": 7, "UploadId": "i/d+"}),
            ("complete_multipart_upload", "POST", {"uploadId": "id"}, {"UploadId": "id"}),
            ("abort_multipart_upload", "DELETE", {"uploadId": "id"}, {"UploadId": "id"}),
        ):
            url = await client.generate_presigned_url(operation, {"Bucket": bucket, "Key": key, **parameters}, 600)
            theirs = parse_qs(urlsplit(url).query)
            at = datetime.strptime(theirs["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            mine = Signer("AK", "SK", "eu-1", 600).presign(method, endpoint, bucket, key, at, own_query)
            assert parse_qs(urlsplit(mine).query) == theirs
            assert urlsplit(mine).path == urlsplit(url).path


def test_ten_thousand_urls_are_quick_and_compact() -> None:
    urls = Urls(Signer("AK", "SK", "r", 60), ObjectUpload("b", "k", "id", datetime.now(UTC)), "http://127.0.0.1")
    stem, signatures = urls.parts(10_000)
    assert len(signatures) == 10_000
    assert len(" ".join(signatures)) < MIB
    url = f"{stem}&partNumber=10000&X-Amz-Signature={signatures[-1]}"
    assert parse_qs(urlsplit(url).query) == parse_qs(urlsplit(urls.part(10_000)).query)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture
def store(server: ObjectStore) -> ObjectStore:
    """A server without an object, whatever another test has left."""
    for name in server.objects():
        (server.directory / name).unlink()
    return server


class Jobs:
    """Keeps the scripts that a method would run."""

    def __init__(self, error: Exception | None = None) -> None:
        self.scripts: list[Script] = []
        self.error = error

    async def __call__(self, principal: Principal, script: Script, account: str | None) -> TransferJob:
        self.scripts.append(script)
        if self.error is not None:
            raise self.error
        return TransferJob("1", "demo", "/w", JobLogs("/w/o", "/w/e"))


@pytest.fixture
def method(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes the method with a job runner; the login node is this machine."""

    async def size(_: object, __: object, path: str) -> int:
        return os.stat(path).st_size

    async def fine(*_: object) -> None:
        return None

    monkeypatch.setattr(s3, "size_of_source", size)
    monkeypatch.setattr(s3, "check_target", fine)

    def make(jobs: Jobs, **settings: Any) -> S3Transfer:
        multipart = {"max_part_size": PART, **settings.pop("multipart", {})}
        document = store.settings(multipart=multipart, poll_interval=0.2, wait_timeout=120, **settings)
        around = TransferContext("demo", None, jobs)  # type: ignore[arg-type]
        return S3Transfer(S3Settings.model_validate(document), around)

    return make  # type: ignore[return-value]


def send(directives: Any, content: bytes) -> None:
    """Do as a client of the contract does."""
    size, tags = directives.fields["max_part_size"], []
    assert len(directives.fields["parts_upload_urls"]) == max(1, math.ceil(len(content) / size))
    for number, url in enumerate(directives.fields["parts_upload_urls"]):
        answer = httpx.put(url, content=content[number * size : (number + 1) * size])
        assert answer.status_code == 200, answer.text
        tags.append(f"<Part><PartNumber>{number + 1}</PartNumber><ETag>{answer.headers['etag']}</ETag></Part>")
    body = f"<CompleteMultipartUpload>{''.join(tags)}</CompleteMultipartUpload>"
    assert httpx.post(directives.fields["complete_upload_url"], content=body).status_code == 200


@pytest.mark.parametrize(("sh", "size"), SIZES, indirect=["sh"])
async def test_upload(sh: Sh, store: ObjectStore, method: Any, size: int) -> None:
    """A job fetches the object, and the file replaces the old one."""
    jobs = Jobs()
    transfer = method(jobs)
    target = sh.directory / 'it\'s $(x) "y".bin'
    target.write_text("old")
    target.chmod(0o640)
    own(sh.directory)
    content = os.urandom(size)
    try:
        started = await transfer.upload(ALICE, asked.upload(str(target), file_size=size))
    finally:
        await transfer.close()
    assert started.directives.fields["parts_upload_urls"][0].startswith("http://localhost:")
    assert SECRET_KEY not in repr(started) + jobs.scripts[0].body
    timer = threading.Timer(0.5, send, (started.directives, content))
    timer.start()
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    timer.join()
    assert (done.status, done.errors) == (0, "")
    assert "File was successfully" in done.output
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o640
    assert sh.left_over() == []
    assert store.objects() == []


@pytest.mark.parametrize("member", [True, False])
async def test_what_replaces_a_file_is_for_the_same_group(workspace: Path, method: Any, member: bool) -> None:
    (workspace / "work").mkdir()
    sh = Sh("dash", workspace / "work", ordinary=False)
    jobs = Jobs()
    transfer = method(jobs)
    target = sh.directory / "target"
    target.write_text("old")
    if os.geteuid() == 0:
        os.chown(target, -1, 54322)
    target.chmod(0o664)
    try:
        started = await transfer.upload(ALICE, asked.upload(str(target), file_size=3))
    finally:
        await transfer.close()
    send(started.directives, b"new")
    done = await asyncio.to_thread(sh.run, jobs.scripts[0], chown=member)
    assert (done.status, target.read_text()) == (0, "new"), done.errors
    assert_group_kept(target, member)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("sh", "size"), SIZES, indirect=["sh"])
async def test_download(sh: Sh, store: ObjectStore, method: Any, size: int, split: bool) -> None:
    """A job stores the file as an object, whole or in parts."""
    jobs = Jobs()
    transfer = method(jobs, multipart={"use_split": split, "parallel_runs": 2, "tmp_folder": "a tmp"})
    source = sh.directory / 'it\'s $(x) "y".bin'
    content = os.urandom(size)
    source.write_bytes(content)
    own(sh.directory)
    try:
        started = await transfer.download(ALICE, asked.download(str(source)))
    finally:
        await transfer.close()
    assert httpx.get(started.directives.fields["download_url"]).status_code == 404
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert (done.status, done.errors) == (0, "")
    assert "Multipart file upload successfully completed" in done.output
    assert httpx.get(started.directives.fields["download_url"]).content == content
    assert sh.left_over() == []
    [name] = store.objects()
    assert name.endswith(source.name)
    (store.directory / name).unlink()


@either
async def test_upload_that_never_comes(sh: Sh, store: ObjectStore, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        (sh.directory / "target").write_text("old")
        started = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
        script = jobs.scripts[0]
        script.values["wait"] = "1"
        done = await asyncio.to_thread(sh.run, script)
        assert done.status != 0
        assert "not uploaded within 1 seconds" in done.errors
        assert "successfully" not in done.output
        assert (sh.directory / "target").read_text() == "old"
        # The multipart is gone: nobody can send to it any more.
        assert httpx.put(started.directives.fields["parts_upload_urls"][0], content=b"x" * 10).status_code == 404
    finally:
        await transfer.close()


async def test_upload_that_is_complete_when_it_is_given_up(sh: Sh, store: ObjectStore, method: Any) -> None:
    """In the moment after the job's last look: there is nothing to abort any more, but an object."""
    jobs = Jobs()
    transfer = method(jobs)
    try:
        started = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
    finally:
        await transfer.close()
    script, marks = jobs.scripts[0], sh.directory / "marks"
    marks.mkdir()
    own(marks)
    last = 'fail "The file was not uploaded'
    waiting = f"touch {marks}/reached; until [ -e {marks}/complete ]; do sleep 0.1; done; {last}"
    values = {**script.values, "wait": "0"}
    job = asyncio.create_task(
        asyncio.to_thread(sh.run, replace(script, values=values, body=script.body.replace(last, waiting)))
    )
    while not (marks / "reached").exists():
        assert not job.done(), job.result()
        await asyncio.sleep(0.05)
    try:
        await asyncio.to_thread(send, started.directives, b"0123456789")
        assert len(store.objects()) == 1
    finally:
        (marks / "complete").touch()
        done = await job
    assert done.status == 1
    assert store.objects() == []
    assert os.listdir(sh.directory) == ["marks"]


async def test_upload_given_up_ends_the_job(sh: Sh, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
    finally:
        await transfer.close()
    values = jobs.scripts[0].values
    assert httpx.delete(values["abort_url"]).status_code == 204
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert done.status != 0
    assert "given up" in done.errors


async def test_upload_of_another_size(sh: Sh, store: ObjectStore, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        started = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
    finally:
        await transfer.close()
    send(started.directives, b"123456789")
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert done.status != 0
    assert "has 9 bytes, not 10" in done.errors
    assert os.listdir(sh.directory) == []
    assert store.objects() == []


@pytest.fixture
def cancelled_late(workspace: Path) -> str:
    """A PATH by which a script gets the signal of a cancelled job when it clears up already.

    As happens where the scheduler signals one process after another: the script goes as its children have ended.
    """
    programs = workspace / "programs"
    programs.mkdir()
    program = programs / "rm"
    program.write_text('#!/bin/sh\nkill -TERM "$PPID"\nexec /bin/rm "$@"\n')
    program.chmod(0o755)
    programs.chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


@either
async def test_a_signal_while_an_upload_s_job_clears_up(
    sh: Sh, store: ObjectStore, method: Any, cancelled_late: str
) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        started = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
    finally:
        await transfer.close()
    send(started.directives, b"123456789")
    done = await asyncio.to_thread(sh.run, jobs.scripts[0], PATH=cancelled_late)
    assert "has 9 bytes, not 10" in done.errors
    assert os.listdir(sh.directory) == []
    assert store.objects() == []


@either
async def test_a_signal_while_a_download_s_job_clears_up(sh: Sh, method: Any, cancelled_late: str) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    source = sh.directory / "source"
    source.write_text("longer")
    own(sh.directory)
    try:
        await transfer.download(ALICE, asked.download(str(source)))
    finally:
        await transfer.close()
    source.write_text("short")
    done = await asyncio.to_thread(sh.run, jobs.scripts[0], PATH=cancelled_late)
    assert "has changed its size" in done.errors
    values = jobs.scripts[0].values
    part = f"{values['part_url']}&partNumber=1&X-Amz-Signature={values['signatures'].split()[0]}"
    assert httpx.put(part, content=b"x").status_code == 404


async def test_upload_to_a_full_disk(sh: Sh, small: Path, store: ObjectStore, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    (small / "target").write_text("old")
    own(small)
    try:
        started = await transfer.upload(ALICE, asked.upload(f"{small}/target", file_size=PART + 1))
    finally:
        await transfer.close()
    send(started.directives, os.urandom(PART + 1))
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert done.status != 0
    assert "No space left on device" in done.errors
    assert "successfully" not in done.output
    assert (small / "target").read_text() == "old"
    assert os.listdir(small) == ["target"]
    assert store.objects() == []


async def test_split_on_a_full_disk(sh: Sh, small: Path, store: ObjectStore, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs, multipart={"use_split": True, "tmp_folder": f"{small}/parts"})
    (sh.directory / "source").write_bytes(os.urandom(PART + 1))
    own(sh.directory)
    try:
        started = await transfer.download(ALICE, asked.download(f"{sh.directory}/source"))
    finally:
        await transfer.close()
    objects = store.objects()
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert done.status != 0
    assert "No space left on device" in done.errors
    assert "successfully" not in done.output
    assert os.listdir(small / "parts") == []
    assert store.objects() == objects
    assert httpx.get(started.directives.fields["download_url"]).status_code == 404
    values = jobs.scripts[0].values
    part = f"{values['part_url']}&partNumber=1&X-Amz-Signature={values['signatures'].split()[0]}"
    assert httpx.put(part, content=b"x").status_code == 404


async def test_urls_expire(sh: Sh, method: Any) -> None:
    """A job whose URLs have expired in the queue ends, and leaves the old file alone."""
    jobs = Jobs()
    transfer = method(jobs, ttl=1)
    for name in ("source", "target"):
        (sh.directory / name).write_text(name)
    own(sh.directory)
    try:
        up = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=1))
        down = await transfer.download(ALICE, asked.download(f"{sh.directory}/source"))
    finally:
        await transfer.close()
    await asyncio.sleep(2.1)  # URLs begin with a whole second
    for verb, url in (
        ("PUT", up.directives.fields["parts_upload_urls"][0]),
        ("GET", down.directives.fields["download_url"]),
    ):
        answer = httpx.request(verb, url)
        assert answer.status_code in (400, 403)
        assert "AccessDenied" in answer.text
    for script in jobs.scripts:
        quick = replace(
            script, values={**script.values, "wait": "1"}, body=script.body.replace('sleep "$pause"', "sleep 0.05")
        )
        done = await asyncio.to_thread(sh.run, quick)
        assert done.status != 0
        assert "successfully" not in done.output
    assert (sh.directory / "target").read_text() == "target"
    assert sorted(os.listdir(sh.directory)) == ["source", "target"]


async def test_upload_damaged_in_the_store(sh: Sh, store: ObjectStore, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        started = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=2 * PART))
    finally:
        await transfer.close()
    send(started.directives, bytes(2 * PART))
    script = jobs.scripts[0]
    # The tag of other content: as if a bit had turned between store and file.
    wrong = script.body.replace('verify "$(etag "$scratch/object")"', f"verify {'0' * 32}")
    broken = replace(script, body=wrong)
    done = await asyncio.to_thread(sh.run, broken)
    assert done.status != 0
    assert "checksum" in done.errors
    assert os.listdir(sh.directory) == []
    assert store.objects() == []


@pytest.mark.parametrize("parts", [1, 3])
def test_digest_of_parts(sh: Sh, parts: int) -> None:
    """The shell computes the tag of an object in parts as S3 does."""
    digests = [hashlib.md5(bytes([number])) for number in range(parts)]
    for number, digest in enumerate(digests):
        (sh.directory / f"md5.{number}").write_text(digest.hexdigest() + "\n")
    expected = hashlib.md5(b"".join(digest.digest() for digest in digests)).hexdigest()
    values = {"scratch": str(sh.directory), "parts": str(parts)}
    for tag, status in ((f"{expected}-{parts}", 0), (f"{expected[::-1]}-{parts}", 1), ("no md5", 0), ("", 0)):
        assert sh.run(Script("x", values, f"{VERIFY}\nverify '{tag}' /dev/null\n")).status == status


async def test_store_dies_during_the_job(sh: Sh, method: Any, store: ObjectStore) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    try:
        (sh.directory / "source").write_bytes(os.urandom(2 * PART))
        own(sh.directory)
        started = await transfer.download(ALICE, asked.download(f"{sh.directory}/source"))
        up = await transfer.upload(ALICE, asked.upload(f"{sh.directory}/target", file_size=10))
        send(up.directives, b"0123456789")
        shorter = [replace(script, body=script.body.replace('sleep "$pause"', "sleep 0.05")) for script in jobs.scripts]
        store.stop()
        try:
            done = await asyncio.to_thread(sh.run, shorter[0])
            assert done.status != 0
            assert "could not be sent" in done.errors
            shorter[1].values["wait"] = "1"
            done = await asyncio.to_thread(sh.run, shorter[1])
            assert done.status != 0
            assert os.listdir(sh.directory) == ["source"]
            with pytest.raises(Unavailable, match="does not answer") as caught:
                await transfer.download(ALICE, asked.download(f"{sh.directory}/source"))
            assert store.url not in str(caught.value)
            with pytest.raises(Unavailable):
                await transfer.ping()
        finally:
            store.start()
        await transfer.ping()
    finally:
        await transfer.close()
    assert httpx.get(started.directives.fields["download_url"]).status_code == 404


@either
async def test_part_is_tried_again(sh: Sh, method: Any, store: ObjectStore) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    (sh.directory / "source").write_bytes(os.urandom(PART + 1))
    own(sh.directory)
    try:
        started = await transfer.download(ALICE, asked.download(f"{sh.directory}/source"))
    finally:
        await transfer.close()
    script = jobs.scripts[0]
    # The first try of each part goes to where nobody listens.
    flaky = script.body.replace(
        "put() {",
        'put() {\n  if [ ! -e "$tried.$1" ]; then touch "$tried.$1"; part_url=http://127.0.0.1:1/?; '
        "else part_url=$right_url; fi",
    )
    script.values["right_url"] = script.values["part_url"]
    script.values["tried"] = f"{sh.directory}/tried"
    done = await asyncio.to_thread(sh.run, replace(script, body=flaky))
    assert done.status == 0, done.errors
    # Not by curl's words: two that fail at once may write theirs into each other.
    assert len(list(sh.directory.glob("tried.*"))) == 2
    assert len(httpx.get(started.directives.fields["download_url"]).content) == PART + 1


@pytest.mark.parametrize("change", ["truncate", "remove", "lock"])
async def test_source_changes(sh: Sh, method: Any, store: ObjectStore, change: str) -> None:
    """A source that changes during the job makes no object."""
    jobs = Jobs()
    transfer = method(jobs)
    source = sh.directory / "source"
    source.write_bytes(b"x" * 100)
    own(sh.directory)
    try:
        started = await transfer.download(ALICE, asked.download(str(source)))
    finally:
        await transfer.close()
    changes: dict[str, Callable[[], object]] = {
        "truncate": lambda: source.write_bytes(b"x"),
        "remove": source.unlink,
        "lock": lambda: source.chmod(0),
    }
    changes[change]()
    done = await asyncio.to_thread(sh.run, jobs.scripts[0])
    assert done.status != 0
    assert done.errors
    assert httpx.get(started.directives.fields["download_url"]).status_code == 404


async def test_source_changes_within_a_second(sh: Sh, method: Any) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    source = sh.directory / "source"
    source.write_bytes(b"x" * 100)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    own(sh.directory)
    try:
        started = await transfer.download(ALICE, asked.download(str(source)))
    finally:
        await transfer.close()
    script = jobs.scripts[0]
    change = 'printf y | dd of="$source" conv=notrunc status=none; touch -d @1000000000.25 "$source"'
    body = script.body.replace("all_parts ||", f"{change}\nall_parts ||")
    done = await asyncio.to_thread(sh.run, replace(script, body=body))
    assert done.status != 0
    assert "changed while it was read" in done.errors
    assert httpx.get(started.directives.fields["download_url"]).status_code == 404


@pytest.mark.parametrize("size", [None, 10_000 * PART + 1])
async def test_refused_sizes(method: Any, size: int | None) -> None:
    """A size that the method cannot take is 400, and no job is submitted."""
    jobs = Jobs()
    with pytest.raises(BadRequest, match=r"fileSize is required|too large"):
        await method(jobs).upload(ALICE, asked.upload("/x", file_size=size))
    assert jobs.scripts == []


async def test_refused_job_leaves_no_multipart(method: Any, store: ObjectStore) -> None:
    transfer = method(Jobs(SubmissionRefused("no")))
    opened: list[tuple[str, ...]] = []
    aborted: list[tuple[str, ...]] = []
    store_client = transfer._store
    real_open, real_abort = store_client.open_upload, store_client.abort_upload

    async def open_upload(bucket: str, key: str) -> str:
        upload = await real_open(bucket, key)
        opened.append((bucket, key, upload))
        return str(upload)

    async def abort_upload(*what: str) -> None:
        await real_abort(*what)
        aborted.append(what)

    store_client.open_upload, store_client.abort_upload = open_upload, abort_upload
    try:
        with pytest.raises(SubmissionRefused):
            await transfer.upload(ALICE, asked.upload("/x", file_size=1))
    finally:
        await transfer.close()
    assert len(opened) == 1
    assert aborted == opened


async def test_old_multiparts_are_swept(method: Any) -> None:
    jobs = Jobs()
    first = method(jobs, ttl=1)
    old = await first.upload(ALICE, asked.upload("/x", file_size=1))
    await first.close()
    await asyncio.sleep(1.2)
    second = method(jobs, ttl=1)
    await second.upload(ALICE, asked.upload("/x", file_size=1))
    answer = await second._store._call("list_multipart_uploads", Bucket=bucket_name("alice"))
    await second.close()
    mine = {parse_qs(urlsplit(url).query)["uploadId"][0] for url in old.directives.fields["parts_upload_urls"]}
    assert not mine & {upload["UploadId"] for upload in answer.get("Uploads", [])}


async def test_bucket_that_somebody_removed(method: Any, store: ObjectStore) -> None:
    jobs = Jobs()
    transfer = method(jobs)
    bob = Principal("bob", "token")
    try:
        await transfer.upload(bob, asked.upload("/x", file_size=1))
        shutil.rmtree(store.directory / bucket_name("bob"))
        await transfer.upload(bob, asked.upload("/x", file_size=1))
    finally:
        await transfer.close()
    assert (store.directory / bucket_name("bob")).is_dir()


async def test_tenant(store: ObjectStore) -> None:
    """Requests for a bucket name its tenant."""
    settings = S3Settings.model_validate(store.settings(tenant="institute"))
    asked: list[str] = []
    calls = Store(store.url, settings)

    async def note(request: Any, **_: Any) -> None:
        asked.append(urlsplit(request.url).path)

    (await calls._client()).meta.events.register("before-send.s3", note)
    try:
        # rclone has no tenants, and refuses the name.
        with pytest.raises(Unavailable):
            await calls.open_upload(bucket_name("alice", "institute"), "key")
    finally:
        await calls.close()
    assert asked[0] == f"/institute%3A{bucket_name('alice')}"


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_authority_of_the_sites_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    """Trusted by the machine is trusted here, as by all else that speaks HTTPS."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def buckets(_: web.Request) -> web.Response:
        return web.Response(text="<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")

    app = web.Application()
    app.router.add_get("/", buckets)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=tls)
    async with server:
        url = str(server.make_url("/"))
        unused = ObjectStore(tmp_path)
        calls = Store(url, S3Settings.model_validate(unused.settings(private_url=url)))
        try:
            if trusted:
                await calls.ping()
            else:
                with pytest.raises(Unavailable, match="shows no certificate that is trusted here"):
                    await calls.ping()
        finally:
            await calls.close()
