"""Tar archives in pieces of any size, against tarfile and tar; what may be unpacked; and zip archives made of them."""

import contextlib
import gzip
import io
import tarfile
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import BadRequest, TooLarge
from hpcgate.filesystem import beneath_program
from hpcgate.filesystem.packing import _zipped
from hpcgate.filesystem.tar_stream import END, Member, TarReader
from hpcgate.filesystem.unpacking import Gatekeeper, _checked

LONG = "long/" * 40 + "näme" * 30
TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
}


def archive(*members: tuple[str, str, bytes | str], format: int = tarfile.GNU_FORMAT) -> bytes:
    """Make an archive of (kind, name, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
        for kind, name, content in members:
            info = tarfile.TarInfo(name)
            info.type = TYPES[kind]
            info.mtime = 1_600_000_000
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(content: bytes, step: int = 10_000) -> list[tuple[Member, bytes]]:
    reader = TarReader()
    found: list[tuple[Member, bytes]] = []
    for start in range(0, len(content), step):
        for event in reader.feed(content[start : start + step]):
            if isinstance(event, Member):
                found.append((event, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + event)
    assert reader.whole
    return found


def test_a_member_s_name_has_a_bound() -> None:
    """It is kept in memory until it is whole."""
    with pytest.raises(BadRequest, match="a name that is too long"):
        read(archive(("file", "n" * (1024 * 1024 + 1), b"")))
    ((member, _),) = read(archive(("file", "n" * 100_000, b"")))
    assert len(member.name) == 100_000


SOME = (
    ("directory", "dir", b""),
    ("file", "dir/empty", b""),
    ("file", "dir/file", b"x" * 5000),
    ("file", "dir/block", b"y" * 512),
    ("symlink", "dir/link", "file"),
    ("hardlink", "dir/hard", "dir/file"),
    ("file", LONG, b"content"),
    ("symlink", "to-long", LONG),
    ("file", "b\udcff\n'$(id)", b"z"),
)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 512, 513, 100_000])
def test_reads_what_tarfile_writes(format: int, step: int) -> None:
    found = read(archive(*SOME, format=format), step)
    got = [
        (one.kind, one.name.decode("utf-8", "surrogateescape"), one.link.decode() if one.link else content)
        for one, content in found
    ]
    assert got == list(SOME)
    assert all(one.mtime == 1_600_000_000 for one, _ in found)


def test_writes_what_tarfile_reads() -> None:
    out = b""
    for member, content in read(archive(*SOME)):
        out += member.header() + content + member.padding
    with tarfile.open(fileobj=io.BytesIO(out + END), encoding="utf-8", errors="surrogateescape") as tar:
        assert [(info.name, info.linkname) for info in tar] == [
            (name, content if isinstance(content, str) else "") for _, name, content in SOME
        ]


def pax_record(key: str, value: str) -> bytes:
    info = tarfile.TarInfo("file")
    info.pax_headers = {key: value}
    return info.tobuf(tarfile.PAX_FORMAT) + END


def damaged() -> dict[str, bytes]:
    good = archive(("file", "file", b"x" * 1000))
    pax = archive(("file", LONG, b""), format=tarfile.PAX_FORMAT)
    sparse = bytearray(good)
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse[:512])
    records = tarfile.TarInfo.create_pax_header  # noqa: F841 (what makes such headers)
    everywhere = tarfile.TarInfo.create_pax_global_header({"path": "/etc/passwd"})
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    return {
        "noise": b"x" * 2000,
        "checksum": good[:10] + b"y" + good[11:],
        "sparse": bytes(sparse),
        "pax sparse": tarfile.TarInfo.create_pax_global_header({"GNU.sparse.name": "/etc/passwd"}) + good,
        "global path": everywhere + good,
        "huge name": huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 2_000_000,
        "record": pax.replace(b" path=", b" path-"),
        "pax size": pax_record("size", "9" * 40),
        "pax time": pax_record("mtime", "1e30"),
        "pax time before": pax_record("mtime", "-1e30"),
        "record length": pax[:512] + b"99999 path=x\n" + pax[525:],
    }


@pytest.mark.parametrize(
    "kind",
    [
        "noise",
        "checksum",
        "sparse",
        "pax sparse",
        "global path",
        "huge name",
        "record length",
        "pax size",
        "pax time",
        "pax time before",
    ],
)
def test_damaged_archives(kind: str) -> None:
    """A damaged archive is 400."""
    with pytest.raises(BadRequest):
        read(damaged()[kind])


@pytest.mark.parametrize(
    "type_", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
@pytest.mark.parametrize("over", [False, True])
def test_a_header_that_is_unpacked_on_the_login_node_has_a_bound(type_: bytes, over: bool) -> None:
    size = 1024 * 1024 + over
    head = tarfile.TarInfo("x")
    head.type, head.size = type_, size
    record = b"%d comment=" % size
    content = record + b"x" * (size - len(record) - 1) + b"\n"
    made = io.BytesIO(head.tobuf() + content + bytes(-size % 512) + tarfile.TarInfo("a").tobuf() + bytes(1024))
    try:
        with beneath_program.opened(fileobj=made) as opened:  # type: ignore[no-untyped-call]
            assert len(list(opened)) == 1
            assert not over
    except beneath_program.Failed as error:
        assert over, error  # noqa: PT017 (it is the program's own end)


@given(st.binary(max_size=3000), st.integers(0, 3000), st.integers(1, 700))
def test_any_bytes_are_survived(noise: bytes, at: int, step: int) -> None:
    good = archive(*SOME[:4], format=tarfile.PAX_FORMAT)
    reader = TarReader()
    content = good[:at] + noise + good[at + len(noise) :]
    try:
        for start in range(0, len(content), step):
            list(reader.feed(content[start : start + step]))
    except BadRequest:
        return
    assert len(reader._buffer) < 2_000_000


# What may be unpacked


def check(*members: tuple[str, str, bytes | str]) -> list[bytes]:
    keeper = Gatekeeper()
    checked = [keeper.check(member) for member, _ in read(archive(*members))]
    return [member.name for member in checked if member is not None]


def test_harmless_members() -> None:
    """Members that stay inside are let through as they are."""
    assert check(
        ("directory", "./", b""),
        ("directory", "./a/", b""),
        ("file", "./a//./b", b"x"),
        ("symlink", "a/up", ".."),
        ("symlink", "a/c/d/far", "../../../a/b"),
        ("symlink", "in", "./a/b"),
        ("symlink", "dangling", "nowhere/yet"),
        ("hardlink", "hard", "./a/b"),
        ("file", "..a", b""),
        ("file", "a..", b""),
        ("file", "a/...", b""),
        ("symlink", "dots", "..."),
    ) == [b"a", b"a/b", b"a/up", b"a/c/d/far", b"in", b"dangling", b"hard", b"..a", b"a..", b"a/...", b"dots"]


@pytest.mark.parametrize(
    "members",
    [
        [("file", "/etc/passwd", b"")],
        [("file", "../x", b"")],
        [("file", "a/../../x", b"")],
        [("file", "a/..", b"")],
        [("directory", "..", b"")],
        [("symlink", "l", "/etc")],
        [("symlink", "l", "..")],
        [("symlink", "a/l", "../..")],
        [("symlink", "a/l", "b/../../..")],
        [("symlink", "a/l", "b/..")],
        [("symlink", "l", "")],
        [("symlink", "l", "a"), ("file", "l/x", b"")],
        [("symlink", "l", "a"), ("directory", "l/x", b"")],
        [("symlink", "l", "a"), ("directory", "l", b"")],
        [("directory", "a/b", b""), ("symlink", "a", "c")],
        [("file", "a/b", b""), ("symlink", "a", "c")],
        [("symlink", "d/l", ".."), ("hardlink", "l", "d/l")],
        [("symlink", "l", "a"), ("hardlink", "h", "l/x")],
        [("hardlink", "h", "/etc/passwd")],
        [("hardlink", "h", "../x")],
        [("fifo", "f", b"")],
        [("device", "f", b"")],
    ],
)
def test_members_that_would_escape(members: list[tuple[str, str, bytes | str]]) -> None:
    with pytest.raises(BadRequest):
        check(*members)


def test_modes_are_tamed() -> None:
    """Members lose setuid and setgid, and directories stay usable."""
    keeper = Gatekeeper()
    for member, mode in ((Member(b"f", "file", mode=0o6755), 0o755), (Member(b"d", "directory", mode=0), 0o700)):
        checked = keeper.check(member)
        assert checked is not None
        assert checked.mode == mode


class Loop(Exception):
    """Links that lead round in circles, which harms nobody."""


names = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), min_size=1, max_size=5).map("/".join)


@given(st.lists(st.tuples(st.sampled_from(["file", "directory", "symlink", "hardlink"]), names, names), max_size=8))
def test_nothing_that_is_let_through_escapes(asked: list[tuple[str, str, str]]) -> None:
    """Play the unpacking on a small model of a file system that knows symbolic links."""
    keeper = Gatekeeper()
    links: dict[tuple[str, ...], str] = {}

    def resolve(parts: list[str], depth: int = 0) -> tuple[str, ...]:
        if depth > 50:
            raise Loop
        real: list[str] = []
        for index, part in enumerate(parts):
            if part in ("", "."):
                continue
            if part == "..":
                assert real, "above the top"
                real.pop()
            elif (*real, part) in links:
                target = links[(*real, part)]
                return resolve([*real, *target.split("/"), *parts[index + 1 :]], depth + 1)
            else:
                real.append(part)
        return tuple(real)

    for kind, name, target in asked:
        member = Member(name.encode(), kind, link=target.encode())  # type: ignore[arg-type]
        try:
            checked = keeper.check(member)
        except BadRequest:
            continue
        if checked is None:
            continue
        parts = checked.name.decode().split("/")
        place = (*resolve(parts[:-1]), parts[-1])
        assert place == tuple(parts), "behind a link"
        if kind == "symlink":
            links[place] = checked.link.decode()
        elif kind == "hardlink":
            with contextlib.suppress(Loop):
                assert resolve(checked.link.decode().split("/")) not in links
    for place in list(links):
        with contextlib.suppress(Loop):
            resolve(list(place))


# Whole streams


async def pieces(content: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), step):
        yield content[start : start + step]


async def checked(content: bytes, step: int = 1000, limit: int | None = None) -> bytes:
    return b"".join([block async for block in _checked(pieces(content, step), limit)])


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("how", ["plain", "gzip", "two gzips"])
async def test_checked_streams(how: str, step: int) -> None:
    """An archive is checked however it is packed and cut."""
    good = archive(*SOME)
    packed = {
        "plain": good,
        "gzip": gzip.compress(good),
        "two gzips": gzip.compress(good[:2000]) + gzip.compress(good[2000:]) + bytes(100),
    }[how]
    out = await checked(packed, step)
    assert [member.name for member, _ in read(out + END)] == [member.name for member, _ in read(good)]
    assert [content for _, content in read(out + END)] == [content for _, content in read(good)]


@pytest.mark.parametrize("cut", [0, 1, 100, 600, 6000])
async def test_streams_that_end_early(cut: int) -> None:
    good = archive(*SOME)
    for broken in (good[:cut], gzip.compress(good)[:-20], gzip.compress(good[:7000])):
        with pytest.raises(BadRequest):
            await checked(broken)


async def test_streams_that_are_damaged_or_too_large() -> None:
    packed = bytearray(gzip.compress(archive(("file", "x", bytes(100_000)))))
    with pytest.raises(TooLarge):
        await checked(bytes(packed), limit=99_999)
    assert await checked(bytes(packed), limit=100_000)
    packed[30:40] = b"0123456789"
    with pytest.raises(BadRequest):
        await checked(bytes(packed))


async def test_zip() -> None:
    """A tar stream becomes a zip archive with the same members."""

    async def tar() -> AsyncGenerator[bytes, None]:
        async for piece in pieces(archive(*SOME[:5], ("fifo", "fifo", b""), *SOME[6:]), 700):
            yield piece

    out = b"".join([block async for block in _zipped(tar())])
    with zipfile.ZipFile(io.BytesIO(out)) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == [
            "dir/",
            "dir/empty",
            "dir/file",
            "dir/block",
            "dir/link",
            LONG,
            "to-long",
            "b\\xff\n'$(id)",
        ]
        assert packed.read("dir/file") == b"x" * 5000
        assert packed.read(LONG) == b"content"
        assert packed.read("dir/link") == b"file"
        assert packed.getinfo("dir/link").external_attr >> 28 == 0o12
        assert packed.getinfo("dir/file").date_time[:3] == (2020, 9, 13)


async def test_zip_of_an_archive_that_ends_early() -> None:
    async def tar() -> AsyncGenerator[bytes, None]:
        yield archive(*SOME)[:3000]

    from hpcgate.errors import CommandFailed

    with pytest.raises(CommandFailed):
        async for _ in _zipped(tar()):
            pass
