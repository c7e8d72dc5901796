"""Bounds that nothing else would miss: of each, as much as it allows is taken, and one more is not."""

import io
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from hpcgate.api import sockets
from hpcgate.api.idempotency import MAX_KEY, checked
from hpcgate.auth import Principal, TokenVerifier, client_credentials, keys
from hpcgate.config import OidcSettings, names
from hpcgate.credentials import certificates, keygen_service, local_ca
from hpcgate.errors import BadAnswer, BadRequest, CredentialRefused, Forbidden, GatewayError, JobNotFound, TooLarge
from hpcgate.filesystem import beneath_program, confined_files, ls, packing
from hpcgate.filesystem.tus import headers, store, uploads
from hpcgate.filesystem.tus.state import State
from hpcgate.health import maintenance
from hpcgate.http import envelope
from hpcgate.schedulers import directives, reading
from hpcgate.schedulers.pbs import documents, qsub
from hpcgate.schedulers.slurm import job_ids, sbatch, scancel
from hpcgate.server import exchange
from hpcgate.ssh.commands import quoting
from hpcgate.ssh.files import footing, login_node
from hpcgate.transfers.store import Store
from tests.auth.idp import b64_int

ALICE = Principal("alice", "")


def test_backslashes_are_mended_in_lines_of_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expression that finds what is to be mended goes through a whole line."""
    monkeypatch.setattr(documents, "_MAX_LINE", 1000)
    monkeypatch.setattr(documents, "_LEAST_CHECKED", 0)

    def read(size: int) -> None:
        line = f'            "Resource_List":"{"x" * size}\\q"'
        text = f'{{\n    "Jobs": {{\n        "1.s": {{\n{line}\n        }}\n    }}\n}}\n'
        documents.items(text, "Jobs")

    mended: list[str] = []
    mend = documents._with_backslashes

    def watched(match: re.Match[str]) -> str:
        mended.append(match[0])
        return mend(match)

    monkeypatch.setattr(documents, "_with_backslashes", watched)
    read(900)
    assert mended
    mended.clear()
    read(1000)
    assert mended == []


def test_so_many_documents_of_pbs_may_be_none() -> None:
    documents.items("{x\n" * documents._MAX_BROKEN, "Jobs")
    with pytest.raises(ValueError, match="too many documents"):
        documents.items("{x\n" * (documents._MAX_BROKEN + 1), "Jobs")


async def test_a_listing_without_an_end_of_line_is_ended() -> None:
    """What lies in the place of python3 may say anything, for ever."""
    taken = 0

    class Process:
        async def output(self) -> AsyncIterator[bytes]:
            nonlocal taken
            while taken < 4 * confined_files.MAX_PART:
                taken += 65536
                yield b"x" * 65536

    @asynccontextmanager
    async def process(*_: object, **__: object) -> AsyncIterator[Process]:
        yield Process()

    lent: Any = SimpleNamespace(process=process, grant=None)
    files = confined_files.ConfinedFiles(lent, login_node.NodeView(helper=False), cast("Any", None))
    with pytest.raises(BadAnswer, match="more than it was asked"):
        async for _ in files.scan(b"/"):
            pass
    assert taken <= confined_files.MAX_PART + 65536


def test_links_on_a_way_are_followed_so_often(tmp_path: Path) -> None:
    """As often as Linux does (path_resolution(7)); a circle would be followed for ever."""
    root = tmp_path.resolve()
    most = beneath_program.MAX_LINKS
    (root / "file").touch()
    for number in range(most + 1):
        (root / f"{number}").symlink_to("file" if number == 0 else f"{number - 1}")
    program: Any = beneath_program
    box = program.Box([bytes(root)])
    place = box.locate(bytes(root / str(most - 1)))
    assert place.name == b"file"
    with pytest.raises(OSError, match="Too many levels"):
        box.locate(bytes(root / str(most)))


@pytest.mark.parametrize("size", [0, 1])
async def test_the_state_of_an_upload_has_so_many_bytes(size: int) -> None:
    """Who may write in the directory of an upload, the user's other programs, may put anything there."""
    state = State(name="file", length=5, metadata="", partial=False).model_dump_json().encode()
    kept = b" " * (store.MAX_STATE - len(state) + size) + state

    async def read(path: bytes, *, size: int) -> bytes:
        return kept[:size]

    place: Any = SimpleNamespace(has_path=False, inside=b"./", streams=SimpleNamespace(read=read))
    loading = store.UploadStore(cast("Any", None), cast("Any", None), b"/").load(place)
    if size:
        with pytest.raises(BadRequest, match="damaged"):
            await loading
    else:
        assert (await loading).length == 5


REMEMBERED: dict[str, tuple[Callable[[], Any], int]] = {
    "buckets": (lambda: Store("http://127.0.0.1:9", cast("Any", None))._checked, 10_000),
    "directories": (lambda: footing.Footings()._known, 256),
    "views of a login node": (lambda: login_node.LoginNode()._views, 10_000),
    "findings": (lambda: reading.Findings(dict)._users, 10_000),
}


@pytest.mark.parametrize("what", REMEMBERED)
def test_so_many_are_remembered(what: str) -> None:
    make, most = REMEMBERED[what]
    kept = make()
    for number in range(most + 1):
        kept.keep(str(number), number)
    assert len(kept) == most


async def test_a_user_name_has_so_many_characters() -> None:
    verifier = TokenVerifier(
        OidcSettings.model_validate({"token_url": "http://127.0.0.1:9", "username_pattern": ".*"}),
        cast("Any", None),
        1000,
    )
    assert verifier.local("a" * 256) == "a" * 256
    with pytest.raises(Forbidden):
        verifier.local("a" * 257)


def _keys(count: int, bits: int = 2048) -> bytes:
    numbers = [(1 << (bits - 1)) + 2 * number + 1 for number in range(count)]
    listed = ",".join(f'{{"kty":"RSA","kid":"{n}","n":"{b64_int(one)}","e":"AQAB"}}' for n, one in enumerate(numbers))
    return f'{{"keys":[{listed}]}}'.encode()


def test_so_many_keys_are_taken_and_none_that_takes_long_to_verify_with() -> None:
    assert len(keys.parse_keys(_keys(keys.MAX_KEYS + 1), None)) == 256
    assert keys.parse_keys(_keys(1, 16384), None)
    with pytest.raises(keys.NoKeys):
        keys.parse_keys(_keys(1, 16385), None)


@pytest.mark.parametrize(("said", "seconds"), [(315_360_000, 315_360_000.0), (315_360_001, None), ("1e300", None)])
def test_a_token_is_not_believed_to_last_for_longer_than_this(said: object, seconds: float | None) -> None:
    assert client_credentials._seconds(said) == seconds


def test_metadata_of_an_upload_has_so_many_characters() -> None:
    assert headers.parse_metadata("a" * 16384)
    with pytest.raises(BadRequest, match="more than 16384"):
        headers.parse_metadata("a" * 16385)


async def test_a_file_is_made_of_so_many_uploads() -> None:
    """Before anything is asked of the login node."""
    parts: Any = [(None, "")] * 1001
    with pytest.raises(BadRequest, match="1000 uploads"):
        await uploads.Uploads.join(cast("Any", object()), b"name", "", parts)


def test_a_request_id_of_a_client_has_so_many_characters() -> None:
    assert envelope.accepted_id(b"a" * 128) == "a" * 128
    assert envelope.accepted_id(b"a" * 129) is None


def test_an_idempotency_key_has_so_many_characters() -> None:
    assert checked("a" * MAX_KEY)
    with pytest.raises(BadRequest):
        checked("a" * 256)


def test_the_reason_of_a_close_fits_into_its_frame() -> None:
    """RFC 6455, section 5.5: 125 bytes with the code; no character is cut in two."""
    connection = HTTPConnection({"type": "websocket", "headers": [], "subprotocols": []})
    _, reason = sockets._problem(connection, BadRequest("\u20ac" * 100))
    assert len(reason.encode()) == 123
    assert set(reason) == {"\u20ac"}


@pytest.mark.parametrize(
    "shown",
    [
        {"headers": [(b"authorization", b"Bearer " + b"s3cret" * 40)]},
        {"headers": [(b"x-api-key", b"s3cret" * 40)]},
        {"headers": [], "subprotocols": ["hpcgate", "hpcgate.bearer." + "s3cret" * 40]},
    ],
    ids=["token", "key", "protocol"],
)
def test_a_token_is_masked_before_the_reason_of_a_close_is_cut(shown: dict[str, Any]) -> None:
    connection = HTTPConnection({"type": "websocket", **shown})
    _, reason = sockets._problem(connection, BadRequest("it said " + "s3cret" * 40))
    assert "s3cret" not in reason


def test_names_of_headers_are_remembered_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_PLAIN", set[bytes]())
    for number in range(1000):
        assert exchange._are_plain({b"x-%d" % number})
    assert len(exchange._PLAIN) == 256


async def test_a_certificate_has_so_many_principals() -> None:
    """sshd takes no more (SSHKEY_CERT_MAX_PRINCIPALS)."""
    settings: Any = SimpleNamespace(principals_claim="names", principals=())
    named = local_ca.LocalCa._principals
    ca: Any = SimpleNamespace(_settings=settings)
    assert len(named(ca, Principal("alice", "", {"names": ["a"] * 256}))) == 256
    with pytest.raises(CredentialRefused, match="more than 256"):
        named(ca, Principal("alice", "", {"names": ["a"] * 257}))
    assert local_ca._plain("a" * 1000) == "a" * 128


def test_a_private_key_of_a_service_has_so_many_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a longer one is looked at."""
    monkeypatch.setattr(asyncssh, "import_private_key", lambda _: pytest.fail("it is looked at"))
    service: Any = SimpleNamespace(service="SSHService")
    with pytest.raises(CredentialRefused):
        keygen_service.KeygenService._read(service, "x" * 8193, "", ALICE)


def test_a_certificate_has_so_many_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_parsed", lambda _: pytest.fail("it is looked at"))
    with pytest.raises(CredentialRefused):
        certificates.user_certificate("x" * 65537, cast("Any", None), "what")


def test_a_directive_has_so_many_characters() -> None:
    known = directives.Directives("PBS", "N")
    assert list(directives._options_of("#PBS -N " + "x" * 992, known))
    with pytest.raises(directives.Unchecked):
        list(directives._options_of("#PBS -N " + "x" * 993, known))


async def test_a_zip_archive_has_so_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_IN_ZIP", 3)

    async def tar(members: int) -> AsyncIterator[bytes]:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for number in range(members):
                archive.addfile(tarfile.TarInfo(str(number)))
        yield made.getvalue()

    async def zipped(members: int) -> int:
        return sum([len(block) async for block in packing._zipped(cast("Any", tar(members)))])

    assert await zipped(3) > 0
    with pytest.raises(TooLarge, match="3 members"):
        await zipped(4)


def test_a_page_of_a_listing_has_so_many_entries() -> None:
    assert ls.LsParameters.model_validate({"path": "/", "limit": 10_000})
    with pytest.raises(ValidationError):
        ls.LsParameters.model_validate({"path": "/", "limit": 10_001})


def test_a_map_of_names_has_so_many_bytes(tmp_path: Path) -> None:
    file = tmp_path / "names"
    with file.open("wb") as writing:
        writing.truncate(names.MAX_FILE + 1)
    with pytest.raises(ValueError, match=r"larger|more than|large"):
        names._good(str(file))


async def test_maintenance_notices_are_read_so_far(tmp_path: Path) -> None:
    notices = maintenance.Notices(tmp_path)
    file = notices.path("demo")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b'{"windows":[]' + b" " * (64 * 1024 - 14) + b"}")
    assert notices.read("demo") == ()
    file.write_bytes(b'{"windows":[]' + b" " * (64 * 1024 - 13) + b"}")
    with pytest.raises(OSError, match="more than 65536 bytes"):
        notices.read("demo")


def test_an_id_that_a_tool_prints_has_so_many_characters() -> None:
    assert qsub.parse("x 1.s" + "a" * 295) is not None
    assert qsub.parse("x 1.s" + "a" * 298) is None


def test_an_id_that_a_client_asks_for_has_so_many_characters() -> None:
    tasks = ",".join(["1"] * 2046)
    assert job_ids.JobId.parse(f"1_[{tasks}]")
    with pytest.raises(JobNotFound):
        job_ids.JobId.parse(f"1_[{tasks},1]")


def test_so_many_tasks_are_cancelled_one_by_one() -> None:
    assert scancel.command(job_ids.JobId("1", (range(0, 20_000, 2),)))
    with pytest.raises(GatewayError, match="More than 10000"):
        scancel.command(job_ids.JobId("1", (range(0, 20_002, 2),)))


def test_so_many_remarks_of_sbatch_are_told() -> None:
    words = "\n".join(f"sbatch: {number} {'x' * 2000}" for number in range(30))
    told = sbatch.Said(began=True, program=True, since=None, words=words, jobs=()).remarks
    assert len(told) == 20
    assert {len(one) for one in told} == {1003}


def test_a_process_id_has_so_many_digits() -> None:
    """What a command's own output says after the word is not looked through for a number without an end."""
    assert quoting.opening(b":w:123:\n", "w") == (8, 123)
    assert quoting.opening(b":w:" + b"1" * 5000 + b":\n", "w") is None


async def test_names_that_are_said_by_the_way_are_cut() -> None:
    view = login_node.NodeView(helper=False)
    view.hear(1, "a" * 1000, 1, "b" * 1000)
    assert (len(view.users[1]), len(view.groups[1])) == (256, 256)


async def test_so_many_names_are_asked_for_at_once() -> None:
    asked: list[int] = []

    async def run(argv: list[str], **_: object) -> Any:
        asked.append(len(argv) - 5)
        return SimpleNamespace(stdout=b"\0\0")

    view = login_node.NodeView(helper=False)
    await view.resolve(cast("Any", SimpleNamespace(run=run)), range(4001), ())
    assert asked == [2000, 2000, 1]
