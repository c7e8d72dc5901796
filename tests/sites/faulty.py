"""A file system that fails as those of sites do: a directory shown elsewhere by FUSE, with faults as a file says them.

    python tests/sites/faulty.py DIRECTORY MOUNTPOINT FAULTS

FAULTS is read anew for each call, JSON: the name of an error by that of a call, beside settings, `CALLS` and `SETTINGS`
of `tests.sites.test_file_systems`. As on NFS, what is written counts as stored once it is flushed, and a file that is
removed while somebody has it open stays under a name of its own (``.fuse_hidden...`` here, ``.nfs...`` there) until it
is closed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import Any

import mfusepy

OPTIONS = {"allow_other": True, "default_permissions": True, "attr_timeout": 0, "entry_timeout": 0, "use_ino": True}
TIMES = ("st_atime", "st_mtime", "st_ctime")


class Faulty(mfusepy.Operations):  # type: ignore[misc]
    """The calls, on the directory, unless there is a fault.

    Attributes:
        dirty: How long each file was that has been written to since it was flushed, by device and inode.
    """

    use_ns = True

    def __init__(self, directory: Path, faults: Path) -> None:
        self._top = os.fsencode(directory)
        self._faults = faults
        self._lock = RLock()
        self.dirty: dict[tuple[int, int], int] = {}

    def _path(self, path: str) -> bytes:
        return self._top + os.fsencode(path)

    def _settings(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._faults.read_text() or "{}")
        return told

    def _meet(self, call: str, path: str) -> None:
        settings = self._settings()
        if settings.get(call) and settings.get("only", "") in path:
            raise mfusepy.FuseOSError(getattr(errno, settings[call]))

    def _give(self, path: bytes) -> None:
        """Make the caller the owner of what it has made."""
        user, group, _ = mfusepy.fuse_get_context()
        above = os.lstat(os.path.dirname(path))
        os.lchown(path, user, above.st_gid if above.st_mode & stat.S_ISGID else group)

    # Names

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        self._meet("getattr", path)
        found = os.lstat(self._path(path)) if fh is None else os.fstat(fh)
        told = {
            name: getattr(found, name)
            for name in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_rdev")
        }
        seconds = 1_000_000_000 if self._settings().get("seconds") else 1
        return told | {name: getattr(found, f"{name}_ns") // seconds * seconds for name in TIMES}

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        self._meet("readdir", path)
        top = self._path(path)
        for name in (b".", b"..", *os.listdir(top)):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(top, name))
                yield os.fsdecode(name), {"st_ino": found.st_ino, "st_mode": found.st_mode}, 0

    def opendir(self, path: str) -> int:
        self._meet("opendir", path)
        return 0

    def readlink(self, path: str) -> str:
        self._meet("readlink", path)
        return os.fsdecode(os.readlink(self._path(path)))

    def mkdir(self, path: str, mode: int) -> None:
        self._meet("mkdir", path)
        os.mkdir(self._path(path), mode)
        os.chmod(self._path(path), mode)
        self._give(self._path(path))

    def rmdir(self, path: str) -> None:
        self._meet("rmdir", path)
        os.rmdir(self._path(path))

    def unlink(self, path: str) -> None:
        self._meet("unlink", path)
        os.unlink(self._path(path))

    def symlink(self, target: str, source: str) -> None:
        self._meet("symlink", target)
        os.symlink(os.fsencode(source), self._path(target))
        self._give(self._path(target))

    def link(self, target: str, source: str) -> None:
        self._meet("link", target)
        os.link(self._path(source), self._path(target), follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        # One that libfuse makes of a file that is open is not the caller's.
        if ".fuse_hidden" not in new:
            self._meet("rename", new)
        os.rename(self._path(old), self._path(new))

    def chmod(self, path: str, mode: int) -> None:
        self._meet("chmod", path)
        os.chmod(self._path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._meet("chown", path)
        os.lchown(self._path(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        self._meet("utimens", path)
        os.utime(self._path(path), ns=times or (time.time_ns(),) * 2, follow_symlinks=False)

    def statfs(self, path: str) -> dict[str, int]:
        self._meet("statfs", path)
        return {name: 0 for name in ("f_bavail", "f_bfree", "f_blocks", "f_ffree", "f_files")} | {"f_namemax": 255}

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        self._meet("getxattr", path)
        return os.getxattr(self._path(path), name, follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        self._meet("setxattr", path)
        os.setxattr(self._path(path), name, value, options, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        self._meet("listxattr", path)
        return os.listxattr(self._path(path), follow_symlinks=False)

    # Content

    def create(self, path: str, mode: int, flags: int = os.O_RDWR) -> int:
        self._meet("create", path)
        fd = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        os.fchmod(fd, mode)
        self._give(self._path(path))
        return fd

    def open(self, path: str, flags: int) -> int:
        self._meet("open", path)
        return os.open(self._path(path), flags & ~(os.O_APPEND | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._meet("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._meet("write", path)
        with self._lock:
            found = os.fstat(fh)
            left = self._room()
            if left is not None and not self._settings().get("late"):
                grown = offset + len(data) - found.st_size
                if grown > left:
                    data = data[: max(0, len(data) - (grown - left))]
                    if not data:
                        raise mfusepy.FuseOSError(errno.EDQUOT)
            self.dirty.setdefault((found.st_dev, found.st_ino), found.st_size)
            return os.pwrite(fh, data, offset)

    def _room(self) -> int | None:
        quota = self._settings().get("quota")
        if quota is None:
            return None
        used = sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(self._top) for name in names)
        return int(quota) - used

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._meet("truncate", path)
        os.truncate(self._path(path) if fh is None else fh, length)

    def flush(self, path: str, fh: int) -> None:
        self._store(path, fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._meet("fsync", path)
        self._store(path, fh)

    def _store(self, path: str, fh: int) -> None:
        """Have what was written on the server, or lose it and say so once."""
        with self._lock:
            found = os.fstat(fh)
            before = self.dirty.pop((found.st_dev, found.st_ino), None)
            if before is None:
                return
            settings = self._settings()
            left = self._room()
            over = left is not None and left < 0
            lost = settings.get("flush") if settings.get("only", "") in path else None
            if not lost and not over:
                return
            file = f"/proc/self/fd/{fh}"
            if settings.get("hole"):
                middle = (before + found.st_size) // 2
                with open(file, "r+b") as written:
                    written.seek(before)
                    written.write(bytes(middle - before))
            else:
                keep = max(before, found.st_size + left) if over and left is not None else before
                os.truncate(file, min(found.st_size, keep))
            raise mfusepy.FuseOSError(errno.EDQUOT if over else getattr(errno, str(lost)))

    def release(self, path: str, fh: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fh)


class Mount(mfusepy.FUSE):  # type: ignore[misc]
    """Knows no flags of renameat2(2), as NFS does not."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        if flags:
            raise mfusepy.FuseOSError(errno.EINVAL)
        return int(super().rename_fuse_3(old, new, flags) or 0)


if __name__ == "__main__":
    os.umask(0)
    Mount(Faulty(Path(sys.argv[1]), Path(sys.argv[3])), sys.argv[2], foreground=True, **OPTIONS)
