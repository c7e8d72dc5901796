"""The program that works beneath the paths of a policy's rule, on the login node or in a job, as the user.

The gateway reads it as text. It runs by whatever Python is there (3.6 or later, standard library only). It is given one
request and does it: each name on the way is opened relative to the directory before it, without following links
(openat(2), O_NOFOLLOW); a link is read and its text walked in the same way, so that the directory that is worked in is
known by its real path and held open. Nothing is done by a path afterwards, only by a name relative to a directory that
is held open, or to an open file. Whoever swaps directories and links meanwhile gains nothing: what was walked is what
is used.

It ends with status 0; with 1 and the words of an error; or with 77 and why the rule denies the request.
"""

# mypy: ignore-errors
# Written for other Pythons than the gateway's.

import errno
import grp
import json
import os
import pwd
import re
import resource
import signal
import stat
import struct
import sys
import time

# What few requests need is imported where it is used: half of the time that one takes would be spent on that.

DENIED = 77
OBJECT = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY = OBJECT | os.O_DIRECTORY
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40
MAX_SWAPS = 100
BLOCK = 256 * 1024
PART = 500
HIDDEN = b".hpcgate-"
ACL = "system.posix_acl_access"
INHERITED = "system.posix_acl_default"
LIST_ENTRY = struct.Struct("<HHI")
"""Of a list as the kernel keeps it behind four bytes of version: what it is for, rights, user or group."""
LIST_OWNER, LIST_GROUP, LIST_MASK, LIST_OTHER = 0x01, 0x04, 0x10, 0x20
MAX_HEADER = 1024 * 1024
PRIVATE = re.compile(rb"\.hpcgate-upload-[0-9a-f]{32}\Z")
NOT_REGULAR = "Not a regular file"
UNTRUSTED = "is a symbolic link of somebody else's where others may write; it is not followed for writing"


class Denied(Exception):
    """The rule does not let this happen."""


class Failed(Exception):
    """It cannot be done; the text is what a tool would say."""


class Broken(Exception):
    """The content ended before it was whole."""


class Ended(BaseException):
    """A signal came."""


def text(name):
    """Return bytes as text that stands for them (PEP 383)."""
    return name.decode("utf-8", "surrogateescape")


def raw(name):
    """Return the bytes that a text stands for."""
    return name.encode("utf-8", "surrogateescape")


def real(parts):
    """Return the path of a list of names."""
    return b"/" + b"/".join(parts)


class Place:
    """A name in a directory that is held open.

    Attributes:
        directory: The open directory.
        above: The names of its real path.
        name: The last name; of the root itself, a dot.
        fd: What has that name, open by O_PATH; None if nothing has.
        info: What fstat(2) says of it, or None.
    """

    def __init__(self, directory, above, name, fd, info):
        self.directory = directory
        self.above = above
        self.name = name
        self.fd = fd
        self.info = info

    @property
    def parts(self):
        """The names of the real path."""
        return self.above if self.name == b"." else [*self.above, self.name]

    @property
    def kind(self):
        """The kind of file, 0 if there is none."""
        return 0 if self.info is None else stat.S_IFMT(self.info.st_mode)

    def close(self):
        """Close all."""
        os.close(self.directory)
        if self.fd is not None:
            os.close(self.fd)


def look(directory, name):
    """Open what has a name in a directory, never following a link, and return it with its attributes."""
    for _ in range(MAX_SWAPS):
        try:
            # Not by O_PATH alone: only this mounts what an automounter has there.
            fd = os.open(name, DIRECTORY, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            fd = os.open(name, OBJECT, dir_fd=directory)
            info = os.fstat(fd)
            if not stat.S_ISDIR(info.st_mode):
                return fd, info
            os.close(fd)
        else:
            return fd, os.fstat(fd)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


class Box:
    """What the rule allows: all that has a real path beneath its roots."""

    def __init__(self, roots):
        self.roots = [[part for part in root.split(b"/") if part] for root in roots]

    def covers(self, parts):
        """Tell whether a real path is a root or beneath one."""
        return any(parts[: len(root)] == root for root in self.roots)

    def leads(self, parts):
        """Tell whether a real path is allowed or on the way to a root."""
        return self.covers(parts) or any(root[: len(parts)] == parts for root in self.roots)

    def refuse(self, path):
        """Deny a path."""
        raise Denied("the path %r is, or leads, outside of where it allows" % text(path))

    def locate(self, path, follow=True, least=False, writing=False):
        """Walk a path and return its place.

        Args:
            path: An absolute path.
            follow: Follow a link in the last place, too.
            least: A missing directory on the way is not an error: its place is returned, with the names that are left.
            writing: Follow no link of somebody else's where others may write.
        """
        todo = path.split(b"/")[::-1]
        slashed = todo[0] in (b"", b".", b"..")
        held = [os.open(b"/", DIRECTORY)]
        names = []
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name in (b"", b"."):
                    continue
                if name == b"..":
                    # What lies elsewhere is not to be found out by walking in and out of it.
                    if not self.leads(names):
                        self.refuse(path)
                    if names:
                        names.pop()
                        os.close(held.pop())
                    continue
                last = all(part in (b"", b".") for part in todo)
                here = [*names, name]
                try:
                    fd, info = look(held[-1], name)
                except OSError as error:
                    self._missed(path, here, todo)
                    if error.errno == errno.ENOENT and (last or least):
                        place = Place(held.pop(), names, name, None, None)
                        return (place, [part for part in todo[::-1] if part not in (b"", b".")]) if least else place
                    raise
                kind = stat.S_IFMT(info.st_mode)
                if kind == stat.S_IFLNK and not (last and not follow and not slashed):
                    links += 1
                    target = os.readlink(b"", dir_fd=fd)
                    os.close(fd)
                    if writing and not trusted(info, os.fstat(held[-1])):
                        raise Failed("%s %s: %s" % (text(real(here)), UNTRUSTED, os.strerror(errno.EACCES)))
                    if PRIVATE.match(name):
                        self._missed(path, here, todo)
                        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                    if links > MAX_LINKS:
                        self._missed(path, here, todo)
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if target.startswith(b"/"):
                        names = []
                        while len(held) > 1:
                            os.close(held.pop())
                    if last and target.endswith((b"/", b"/.", b"/..")):
                        slashed = True
                    todo.extend(target.split(b"/")[::-1])
                    continue
                if last and not (kind == stat.S_IFDIR and least):
                    if not self.covers(here):
                        os.close(fd)
                        self.refuse(path)
                    if slashed and kind != stat.S_IFDIR:
                        os.close(fd)
                        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    place = Place(held.pop(), names, name, fd, info)
                    return (place, []) if least else place
                if kind != stat.S_IFDIR:
                    os.close(fd)
                    self._missed(path, here, todo)
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                if PRIVATE.match(name) and not private(info):
                    os.close(fd)
                    self._missed(path, here, todo)
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                held.append(fd)
                names.append(name)
            if not self.covers(names):
                self.refuse(path)
            fd = held.pop()
            directory, name = (held.pop(), names[-1]) if names else (os.dup(fd), b".")
            place = Place(directory, names[:-1], name, fd, os.fstat(fd))
            return (place, []) if least else place
        finally:
            for fd in held:
                os.close(fd)

    def _missed(self, path, here, todo):
        """Deny a path that cannot be walked on, unless it would have stayed where it may be."""
        if not self.leads(here):
            self.refuse(path)
        rest = list(here)
        for part in todo[::-1]:
            if part == b"..":
                rest = rest[:-1]
            elif part not in (b"", b"."):
                rest.append(part)
        if not self.covers(rest):
            self.refuse(path)

    def entry(self, path, follow=False):
        """Return the place of a name that is to be made, replaced or removed: its directory must be allowed, too."""
        place = self.locate(path, follow, writing=True)
        if not self.covers(place.above):
            raise Denied("the directory of %r lies outside of where it allows" % text(path))
        return place

    def check_link(self, above, target, shown):
        """Deny a link that is to be made in a directory with a real path, if it leads elsewhere, or one day may.

        ``..`` may only stand at the beginning: behind another link it could lead anywhere.
        """
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        ups = 0
        while ups < len(parts) and parts[ups] == b"..":
            ups += 1
        if not target or b"\0" in target or b".." in parts[ups:]:
            raise Denied("the link %r would lead out of where it allows" % text(shown))
        base = [] if target.startswith(b"/") else above
        if ups > len(base):
            raise Denied("the link %r would lead out of where it allows" % text(shown))
        try:
            place, _ = self.locate(real([*base[: len(base) - ups], *parts[ups:]]), True, True)
            place.close()
        except Denied:
            raise Denied("the link %r would lead out of where it allows" % text(shown)) from None
        except OSError:
            pass  # It leads nowhere yet, but would stay inside.


def trusted(link, holder):
    """Tell whether a link in a directory is followed for writing; one with several names may be anybody's.

    As hpcgate.ssh.files.footing has it, and the kernel's fs.protected_symlinks.
    """
    if not holder.st_mode & 0o022 or link.st_uid == holder.st_uid:
        return True
    return link.st_nlink == 1 and link.st_uid in (0, os.geteuid())


def private(info):
    """Tell whether these are the attributes of a directory that is the user's alone."""
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def keeps(holder):
    """Tell whether nobody but the user and root can put one directory in the place of another there."""
    return not holder.st_mode & 0o022 and holder.st_uid in (0, os.geteuid())


def fresh(fd, directory):
    """Tell whether a directory is the one that was just made in another: the user's, and empty.

    Who else writes there may have put another of the user's own in its place.
    """
    if keeps(os.fstat(directory)):
        return True
    try:
        return os.fstat(fd).st_uid == os.geteuid() and not children(fd)
    except OSError:
        return False


def staging(directory, name):
    """Make a directory for the user alone, and return it, open."""
    os.mkdir(name, 0o700, dir_fd=directory)
    fd = os.open(name, DIRECTORY, dir_fd=directory)
    if not fresh(fd, directory) or (os.fstat(fd).st_mode & 0o077 and not keeps(os.fstat(directory))):
        os.close(fd)
        raise moved(name)
    return fd


def moved(name):
    """Return the error for a directory that another one has taken the place of."""
    return Failed("%s has just been put somewhere else: %s" % (text(name), os.strerror(errno.EACCES)))


def reopen(fd, flags):
    """Open again what is open by O_PATH: this very file, whatever its name has come to mean."""
    return os.open("/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC)


def children(fd):
    """Return the names in a directory."""
    reading = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        return [os.fsencode(name) for name in os.listdir(reading)]
    finally:
        os.close(reading)


def regular(place):
    """Open a file for reading; refuse what is none."""
    if place.info is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if place.kind == stat.S_IFDIR:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if place.kind != stat.S_IFREG:
        raise Failed(NOT_REGULAR)
    fd = reopen(place.fd, os.O_RDONLY)
    place.close()
    return fd


def present(place):
    """Return a place where there is something."""
    if place.info is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return place


def write_all(fd, data):
    """Write all of some bytes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def numbers(info):
    """Return attributes as ``stat --printf`` has them."""
    values = (
        info.st_mode,
        info.st_ino,
        info.st_dev,
        info.st_nlink,
        info.st_uid,
        info.st_gid,
        info.st_size,
        int(info.st_atime),
        int(info.st_ctime),
    )
    seconds, fraction = divmod(info.st_mtime_ns, 10**9)
    return "%x %d %d %d %d %d %d %d %d %d.%03d" % (*values, seconds, fraction // 10**6)


def row(directory, fd, info, last, name):
    """Return an entry of a listing; `last` is its name in the directory, `name` the one to show."""
    mark = ""
    try:
        marks = os.listxattr(b"/proc/self/fd/%d/%s" % (directory, last), follow_symlinks=False)
        mark = "+" if ACL in marks else "." if "security.selinux" in marks else ""
    except OSError:
        pass
    kind = stat.S_IFMT(info.st_mode)
    link = text(os.readlink(b"", dir_fd=fd)) if kind == stat.S_IFLNK else None
    size = 0 if kind in (stat.S_IFCHR, stat.S_IFBLK) else info.st_size
    return [text(name), info.st_mode, info.st_uid, info.st_gid, size, int(info.st_mtime), link, mark]


class Request:
    """One request, and the ways to answer it."""

    def __init__(self, asked, source, sink):
        self.asked = asked
        self.box = Box([raw(root) for root in asked["roots"]])
        self.source = source
        self.sink = sink
        self.complaints = 0

    def path(self, name="path"):
        """Return one of the paths."""
        return raw(self.asked[name])

    def get(self, name):
        """Return another parameter, None if it is not there."""
        return self.asked.get(name)

    def say(self, data):
        """Answer."""
        self.sink.write(data)
        self.sink.flush()

    def complain(self, words):
        """Tell of something that failed while the rest goes on."""
        self.complaints += 1
        if self.complaints <= 20:
            sys.stderr.write(words + "\n")
            sys.stderr.flush()

    # Looking

    def admit(self):
        """Check paths, links and trees; do nothing."""
        for path in self.get("paths"):
            try:
                self.box.locate(raw(path)).close()
            except OSError as error:
                # It is for the operation to say, unless others carry it out, elsewhere and later.
                if self.get("strict") and error.errno != errno.ENOENT:
                    raise Denied("the path %r cannot be checked: %s" % (path, os.strerror(error.errno))) from None
        for path in self.get("links"):
            try:
                self.box.entry(raw(path)).close()
            except OSError:
                pass
        for path in self.get("trees"):
            self._admit_tree(raw(path))

    def _admit_tree(self, path):
        try:
            place = self.box.locate(path)
        except OSError:
            return
        if place.kind != stat.S_IFDIR:
            return
        inner = Box([real(place.parts)])
        for depth_parts, fd, info, _ in walk(place, lambda words: None):
            if stat.S_ISLNK(info.st_mode):
                try:
                    inner.locate(real([*place.parts, *depth_parts])).close()
                except OSError:
                    pass  # What cannot be resolved cannot be followed.
                except Denied:
                    raise Denied("a symbolic link in %r leads out of it and would be followed" % text(path)) from None
            del fd

    def stat(self):
        """Say the attributes of a file."""
        place = present(self.box.locate(self.path(), self.get("follow")))
        self.say(numbers(place.info).encode())

    def realpath(self):
        """Say the real path."""
        self.say(real(self.box.locate(self.path(), writing=bool(self.get("writing"))).parts))

    def entry(self):
        """Say one entry of a listing."""
        place = present(self.box.locate(self.path(), False))
        self._rows([row(place.directory, place.fd, place.info, place.name, self.path())])

    def list(self):
        """Say the entries of a directory."""
        place = present(self.box.locate(self.path(), self.get("follow")))
        if place.kind != stat.S_IFDIR:
            self._rows([row(place.directory, place.fd, place.info, place.name, self.path())])
            return
        rows = []
        room = self.get("most")
        self._list(place.fd, place.parts, b"", rows, {key(place.info)}, [room])
        self._rows(rows)

    def _list(self, top, parts, prefix, rows, above, room):
        told, refused = False, None
        for name in children(top):
            if name.startswith(b".") and not self.get("hidden"):
                continue
            try:
                fd, info = look(top, name)
            except OSError as error:
                refused = error if error.errno == errno.EACCES else refused
                continue
            told = True
            shown, directory, last, deeper = prefix + name, top, name, [*parts, name]
            other = None
            if stat.S_ISLNK(info.st_mode) and self.get("follow"):
                try:
                    other = self.box.locate(real(deeper))
                except (OSError, Denied):
                    other = None
                if other is not None and other.fd is not None:
                    os.close(fd)
                    fd, info, directory, last, deeper = other.fd, other.info, other.directory, other.name, other.parts
                    other.fd = None
            rows.append(row(directory, fd, info, last, shown))
            if self.get("parts") and len(rows) >= PART:
                self._rows(rows)
                del rows[:]
            if room[0] is not None:
                room[0] -= len(shown) + 64 + (len(os.readlink(b"", dir_fd=fd)) if stat.S_ISLNK(info.st_mode) else 0)
                if room[0] < 0:
                    raise Failed("hpcgate: listing is too large")
            if self.get("recursive") and stat.S_ISDIR(info.st_mode) and key(info) not in above:
                try:
                    self._list(fd, deeper, shown + b"/", rows, above | {key(info)}, room)
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EPERM):
                        raise
            os.close(fd)
            if other is not None:
                os.close(other.directory)
        if refused is not None and not told:
            # A directory whose names alone may be read, which is not an empty one.
            raise refused

    def _rows(self, rows):
        """Say entries: all of them or, where they come in parts, a line of them."""
        self.say(json.dumps(rows).encode() + (b"\n" if self.get("parts") else b""))

    def read(self):
        """Say a part of a file."""
        fd = regular(self.box.locate(self.path()))
        self._part(fd, self.get("offset"), self.get("size"))

    def look(self):
        """Say the attributes of a file and, if it is longer than so much, a part of it."""
        fd = regular(self.box.locate(self.path()))
        info = os.fstat(fd)
        self.say(numbers(info).encode() + b"\n")
        if info.st_size > self.get("above"):
            self._part(fd, self.get("start"), self.get("size"))

    def _part(self, fd, offset, size):
        os.lseek(fd, offset, os.SEEK_SET)
        while size is None or size > 0:
            block = os.read(fd, BLOCK if size is None else min(BLOCK, size))
            if not block:
                return False
            self.sink.write(block)
            if size is not None:
                size -= len(block)
        self.sink.flush()
        return size is not None

    def open(self):
        """Say the attributes of a file, then the parts that are asked for, until one is not whole."""
        fd = regular(self.box.locate(self.path()))
        self.say(numbers(os.fstat(fd)).encode() + b"\n")
        while True:
            line = self.source.readline()
            if not line.endswith(b"\n"):
                return
            offset, _, size = line.decode().strip().partition(" ")
            whole = self._part(fd, int(offset), int(size) if size else None)
            self.sink.flush()
            if not whole:
                return

    def checksum(self):
        """Say the SHA-256 of a file."""
        import hashlib

        fd = regular(self.box.locate(self.path()))
        digest = hashlib.sha256()
        while True:
            block = os.read(fd, BLOCK)
            if not block:
                break
            digest.update(block)
        self.say(digest.hexdigest().encode() + b" ")

    def kind(self):
        """Say what kind of content a file has."""
        place = present(self.box.locate(self.path(), False))
        if place.kind == stat.S_IFLNK:
            try:
                broken = self.box.locate(self.path()).info is None
            except OSError:
                broken = True
            words = b"broken symbolic link to " if broken else b"symbolic link to "
            self.say(words + os.readlink(b"", dir_fd=place.fd) + b"\n")
            return
        self._tool(place, ["file", "-b", "-L", "--"])

    def _tool(self, place, argv):
        """Run a tool on what is held open."""
        import subprocess

        name = "/proc/self/fd/%d" % place.fd
        try:
            done = subprocess.Popen(
                [*argv, name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[place.fd],
            )
        except OSError as error:
            words = "command not found" if error.errno == errno.ENOENT else os.strerror(error.errno)
            raise Failed("%s: %s" % (argv[0], words)) from None
        said, complained = done.communicate()
        self.say(said)
        if done.returncode:
            sys.stderr.write(text(complained.replace(name.encode(), self.path())))
            sys.exit(1)

    # Changing

    def chmod(self):
        """Set permission bits."""
        os.chmod("/proc/self/fd/%d" % present(self.box.locate(self.path(), writing=True)).fd, self.get("mode"))

    def change(self):
        """Run chmod or chown."""
        self._tool(present(self.box.locate(self.path(), writing=True)), [self.get("tool"), "--", self.get("to")])

    def mkdir(self):
        """Make a directory, and those above it if asked."""
        place, rest = self.box.locate(self.path(), True, True, writing=True)
        if place.info is not None:
            if self.get("parents"):
                return
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if rest and not self.get("parents"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        # The first may be a root itself: what makes a directory replaces nothing.
        names, directory, parts = [place.name, *rest], place.directory, place.above
        if b".." in names:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for name in names:
            parts = [*parts, name]
            if not self.box.covers(parts):
                self.box.refuse(self.path())
            try:
                os.mkdir(name, 0o777 if self.get("mode") is None else self.get("mode"), dir_fd=directory)
            except FileExistsError:
                if not self.get("parents"):
                    raise
            inner = os.open(name, DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner

    def private(self):
        """Fail unless a path is that of a directory of the user's alone."""
        if not private(present(self.box.locate(self.path(), False, writing=True)).info):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def rmdir(self):
        """Remove an empty directory."""
        place = present(self.box.entry(self.path()))
        os.rmdir(place.name, dir_fd=place.directory)

    def symlink(self):
        """Make a symbolic link."""
        place = self.box.entry(self.path())
        self.box.check_link(place.above, self.path("target"), self.path())
        os.symlink(self.path("target"), place.name, dir_fd=place.directory)

    def remove(self):
        """Remove a file or a tree."""
        place = present(self.box.entry(self.path().rstrip(b"/")))
        if self.path().endswith(b"/") and place.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        remove(place.directory, place.name, {key(place.info)})

    def rename(self):
        """Rename."""
        source = present(self.box.entry(self.path()))
        target = self.box.entry(self.path("target"))
        if self.get("exclusive"):
            os.link(
                source.name,
                target.name,
                src_dir_fd=source.directory,
                dst_dir_fd=target.directory,
                follow_symlinks=False,
            )
            os.unlink(source.name, dir_fd=source.directory)
        else:
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)

    def create(self):
        """Make an empty file."""
        place = self.box.entry(self.path())
        os.close(os.open(place.name, NEW, 0o600 if self.get("private") else 0o666, dir_fd=place.directory))

    def truncate(self):
        """Cut a file."""
        os.ftruncate(self._writable(), self.get("size"))

    def sync(self):
        """Have a file on disk."""
        os.fsync(self._writable())

    def _writable(self):
        place = present(self.box.locate(self.path(), writing=True))
        if place.kind == stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if place.kind != stat.S_IFREG:
            raise Failed(NOT_REGULAR)
        return reopen(place.fd, os.O_WRONLY)

    def _content(self):
        """Yield the content: blocks with their lengths before them, and one of no bytes at the end."""
        while True:
            line = self.source.readline()
            if not line.endswith(b"\n"):
                raise Broken
            left = int(line, 16)
            if not left:
                return
            while left:
                block = self.source.read(min(left, BLOCK))
                if not block:
                    raise Broken
                left -= len(block)
                yield block

    def extend(self):
        """Write on in a file, and keep what came even if it is not all."""
        fd = self._writable()
        os.lseek(fd, self.get("offset"), os.SEEK_SET)
        try:
            for block in self._content():
                write_all(fd, block)
        except Broken:
            pass
        self.say(b"%d" % os.fstat(fd).st_size)

    def replace(self):
        """Replace a file by a new one that gets its name once it is whole and the gateway says so."""
        place = self.box.entry(self.path(), not self.get("exclusive"))
        if not self.get("exclusive") and stays(place, self.get("how")):
            self._overwrite(place)
            return
        with Replacement(self, place, raw(self.get("temporary"))) as new:
            for block in self._content():
                write_all(new.fd, block)
            size = os.fstat(new.fd).st_size
            new.settle(self.get("mode"), self.get("sync"))
            if self.get("ask"):
                self.say(real([*place.above, new.name]) + b"\0")
                if self.source.readline() != b"go\n":
                    raise Broken
            try:
                new.publish(self.get("exclusive"))
            except OSError as error:
                # Something is mounted there.
                if error.errno != errno.EBUSY or self.get("how") != "auto":
                    raise
                target = reopen(place.fd, os.O_WRONLY)
                with open(reopen(new.fd, os.O_RDONLY), "rb", buffering=0) as content:
                    fill(target, content, size)
        self.say(b"%d" % size)

    def _overwrite(self, place):
        """Write content that has been taken as a whole into the file that is there."""
        target = reopen(place.fd, os.O_WRONLY)
        # It has no name, wherever it is: nothing is made outside of where the rule allows.
        with staged(place.directory) as content:
            for block in self._content():
                content.write(block)
            content.flush()
            if self.get("ask"):
                self.say(b"\0")
                if self.source.readline() != b"go\n":
                    raise Broken
            new = os.fstat(content.fileno()).st_size
            fill(target, content, new)
        self.say(b"%d" % new)

    def join(self):
        """Put files together in a new one."""
        place = self.box.entry(self.path())
        fd = os.open(place.name, NEW, 0o600 if self.get("private") else 0o666, dir_fd=place.directory)
        try:
            for part in self.get("parts"):
                source = regular(self.box.locate(raw(part), False))
                while True:
                    block = os.read(source, BLOCK)
                    if not block:
                        break
                    write_all(fd, block)
                os.close(source)
            os.fsync(fd)
        except BaseException:
            clear_up(place.directory, place.name)
            raise

    def adopt(self):
        """Give a new file the group and the mode of the one that it replaces."""
        old = present(self.box.locate(self.path("old"), False))
        if old.kind != stat.S_IFREG:
            return
        new = present(self.box.locate(self.path(), False, writing=True))
        if new.kind != stat.S_IFREG:
            raise Failed(NOT_REGULAR)
        adopt("/proc/self/fd/%d" % new.fd, old)

    def sweep(self):
        """Remove uploads that have rested for too long, and those without content."""
        place = present(self.box.locate(self.path(), writing=True))
        for name in children(place.fd):
            if not name.startswith(HIDDEN + b"upload-"):
                continue
            try:
                self._sweep_file(place.fd, name)
            except OSError:
                continue
            if not PRIVATE.match(name):
                continue
            try:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
            except OSError:
                continue
            try:
                if private(os.fstat(fd)) and self._rested(fd):
                    for inner in children(fd):
                        if inner.startswith(HIDDEN):
                            os.unlink(inner, dir_fd=fd)
                    os.rmdir(name, dir_fd=place.fd)
            except OSError:
                pass
            finally:
                os.close(fd)

    def _sweep_file(self, directory, name):
        """Remove an old file of an upload that an earlier version has begun."""
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_mtime < self._threshold():
            os.unlink(name, dir_fd=directory)

    def _threshold(self):
        """Return the time before which what has rested since is old."""
        return time.time() - 60 * self.get("minutes")

    def _rested(self, fd):
        try:
            return os.stat(HIDDEN + b"content", dir_fd=fd).st_mtime < self._threshold()
        except FileNotFoundError:
            return os.fstat(fd).st_mtime < time.time() - 3600

    # Trees and archives

    def pack(self):
        """Write an archive to where the answer goes."""
        place = present(self.box.locate(self.path(), False))
        self._pack(place, self.sink, self.get("compression"), [])

    def compress(self):
        """Write an archive to a file."""
        source = present(self.box.locate(self.path(), False))
        if source.kind == stat.S_IFLNK and self.get("dereference"):
            followed = present(self.box.locate(self.path()))
            source = Place(followed.directory, followed.above, source.name, followed.fd, followed.info)
        target = self.box.entry(self.path("target"), True)
        if self.path("target").endswith(b"/") or target.kind == stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        with Replacement(self, target, HIDDEN + os.urandom(8).hex().encode()) as new:
            hidden = [key(os.fstat(new.fd))] + ([key(target.info)] if target.info is not None else [])
            with os.fdopen(os.dup(new.fd), "wb", BLOCK) as sink:
                self._pack(source, sink, self.get("compression"), hidden)
            if self.complaints:
                sys.exit(2)
            new.settle(None, False)
            new.publish(False)

    def _pack(self, place, sink, compression, hidden):
        import tarfile

        base = [] if self.get("pattern") and place.kind == stat.S_IFDIR else [place.name]
        wanted = None
        if self.get("pattern"):
            if self.get("dereference"):
                raise Denied("a pattern and links that are followed cannot be had together where it has paths")
            wanted = self._matching(place)
        kind = {"none": "", "gzip": "gz", "bzip2": "bz2", "xz": "xz"}[compression]
        tar = opened(None, "w|" + kind, fileobj=sink)
        seen = {}
        for parts, fd, info, link in walk(place, self._unreadable, self.box if self.get("dereference") else None, True):
            name = base + parts if base or parts else [b"."]
            if key(info) in hidden or stat.S_ISSOCK(info.st_mode):
                continue
            if wanted is not None:
                if parts and tuple(parts) not in wanted:
                    continue
                if not parts and stat.S_ISDIR(info.st_mode):
                    continue
                if not base:
                    name = [b".", *parts]
            try:
                self._add(tar, b"/".join(name), fd, info, link, seen)
            except tarfile.TarError as error:
                raise Failed("tar: %s: %s" % (text(b"/".join(name)), error)) from None
            tar.members = []
        tar.close()
        if self.complaints and not self.get("skip"):
            sys.exit(2)

    def _unreadable(self, words):
        if not self.get("skip"):
            self.complain(words)

    def _add(self, tar, name, fd, info, link, seen):
        import tarfile

        entry = tarfile.TarInfo(text(name))
        entry.mode = stat.S_IMODE(info.st_mode)
        entry.uid, entry.gid, entry.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
        entry.uname, entry.gname = user_name(info.st_uid), group_name(info.st_gid)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            if info.st_nlink > 1 and not self.get("plain"):
                if key(info) in seen:
                    entry.type, entry.linkname = tarfile.LNKTYPE, text(seen[key(info)])
                    tar.addfile(entry)
                    return
                seen[key(info)] = name
            try:
                content = os.fdopen(reopen(fd, os.O_RDONLY), "rb", BLOCK)
            except OSError as error:
                self._unreadable("tar: %s: Cannot open: %s" % (text(name), os.strerror(error.errno)))
                return
            with content:
                entry.size = os.fstat(content.fileno()).st_size
                try:
                    tar.addfile(entry, content)
                except OSError as error:
                    if error.errno is not None:
                        raise
                    raise Failed("tar: %s: File shrank by some bytes; padding with zeros" % text(name)) from None
            return
        if kind == stat.S_IFLNK:
            entry.type, entry.linkname = tarfile.SYMTYPE, text(link)
        elif kind == stat.S_IFDIR:
            entry.type = tarfile.DIRTYPE
        elif kind == stat.S_IFIFO:
            entry.type = tarfile.FIFOTYPE
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        tar.addfile(entry)

    def _matching(self, place):
        """Return the names beneath a place that find says match; it prints names, and follows nothing."""
        import subprocess

        inside = place.kind == stat.S_IFDIR
        top = "." if inside else "./" + text(place.name)
        argv = ["find", top, "-type", "f", "-regex", self.get("pattern"), "-print0"]
        directory = place.fd if inside else place.directory
        done = subprocess.Popen(
            [raw(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: os.fchdir(directory),
        )
        said, complained = done.communicate()
        if done.returncode:
            sys.stderr.write(text(complained))
            sys.exit(2)
        found = [tuple(part for part in name.split(b"/") if part != b".") for name in said.split(b"\0") if name]
        return set(found) if inside else {()} if found else set()

    def extract(self):
        """Unpack an archive into a directory."""
        import tarfile

        source = regular(self.box.locate(self.path()))
        target = present(self.box.locate(self.path("target"), writing=True))
        if target.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with os.fdopen(source, "rb", BLOCK) as stream:
            plain, damaged = decompressed(stream, self.get("compression"))
            try:
                with opened(None, "r|", fileobj=plain) as tar:
                    Unpacking(self.box, target.fd, target.parts).unpack(tar)
            except (tarfile.TarError, EOFError, ValueError, OverflowError, *damaged) as error:
                raise Failed("tar: %s" % error) from None
            except OSError as error:
                if error.errno is None:
                    raise Failed("tar: %s" % error) from None
                raise

    def unpack(self):
        """Unpack an archive that comes, checked, from the gateway: all of it, or nothing."""
        import tarfile

        place = self.box.locate(self.path(), writing=True)
        missing = place.info is None
        if missing:
            place = self.box.entry(self.path())
        elif place.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        parent, parts = (place.directory, place.above) if missing else (place.fd, place.parts)
        temporary, mark = raw(self.get("temporary")), raw(self.get("mark"))
        own = set()
        try:
            stage = staging(parent, temporary)
            own.add(key(os.fstat(stage)))
            self.say(b"ready\n")
            try:
                with opened(None, "r|", fileobj=self.source) as tar:
                    # Links are checked for where they will be.
                    Unpacking(self.box, stage, place.parts if missing else parts).unpack(tar)
            except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
                raise Failed("tar: %s" % error) from None
            try:
                os.unlink(mark, dir_fd=stage)
            except FileNotFoundError:
                raise Failed("tar: the archive is not whole") from None
            if missing:
                open_up(stage, mark)
                os.rename(temporary, place.name, src_dir_fd=parent, dst_dir_fd=parent)
                return
            # What cannot be merged is found before anything is.
            merge(stage, parent, b".", False)
            merge(stage, parent, b".", True)
        finally:
            clear_up(parent, temporary, own)

    def copy(self):
        """Copy a file or a tree, into the target if that is a directory."""
        follow = self.get("dereference")
        source = present(self.box.locate(self.path(), follow))
        target = self._destination(source, follow or source.kind != stat.S_IFLNK)
        if target.info is not None and key(target.info) == key(source.info):
            words = (text(self.path()), text(real(target.parts)))
            raise Failed("cp: '%s' and '%s' are the same file" % words)
        if source.kind == stat.S_IFDIR and target.parts[: len(source.parts)] == source.parts:
            raise Failed("cp: cannot copy a directory, '%s', into itself" % text(self.path()))
        copying = Copying(self, self.box if follow else None)
        merging = target.kind == stat.S_IFDIR
        if merging and source.kind != stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if merging:
            settle = copying.is_settled(target.directory, target.info)
            copying.tree(source.fd, source.info, target.fd, source.parts, target.parts, settle=settle)
        else:
            if target.kind not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise Failed("cp: '%s': Not a regular file" % text(real(target.parts)))
            if target.info is not None and source.kind == stat.S_IFDIR:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._copy_to(copying, source, target)
        if self.complaints:
            sys.exit(1)

    def _copy_to(self, copying, source, target):
        hidden = HIDDEN + os.urandom(8).hex().encode()
        try:
            copying.one(source.fd, source.info, target.directory, hidden, source.parts, target.above)
            if self.complaints:
                sys.exit(1)
            os.rename(hidden, target.name, src_dir_fd=target.directory, dst_dir_fd=target.directory)
        except BaseException:
            clear_up(target.directory, hidden, copying.made)
            raise

    def _destination(self, source, follow):
        path = self.path("target")
        target = self.box.locate(path, writing=True)
        if path.endswith(b"/") and target.info is None:
            if source.kind != stat.S_IFDIR:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            path = path.rstrip(b"/")
        if target.kind == stat.S_IFDIR:
            name = self.path().rstrip(b"/").rpartition(b"/")[2]
            if name in (b"", b".", b".."):
                raise Failed("the source has no name of its own")
            return self.box.entry(real([*target.parts, name]), follow)
        return self.box.entry(path, follow)

    def move(self):
        """Move a file or a tree, into the target if that is a directory."""
        path = self.path().rstrip(b"/")
        source = present(self.box.entry(path))
        if source.kind == stat.S_IFLNK and self.path() != path:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target = self._destination(source, False)
        try:
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        self._copy_to(Copying(self, None), source, target)
        remove(source.directory, source.name, {key(source.info)})


OPERATIONS = {
    name: getattr(Request, name)
    for name in (
        "admit",
        "stat",
        "realpath",
        "entry",
        "list",
        "read",
        "look",
        "open",
        "checksum",
        "kind",
        "chmod",
        "change",
        "mkdir",
        "private",
        "rmdir",
        "symlink",
        "remove",
        "rename",
        "create",
        "truncate",
        "sync",
        "extend",
        "replace",
        "join",
        "adopt",
        "sweep",
        "pack",
        "compress",
        "extract",
        "unpack",
        "copy",
        "move",
    )
}


def key(info):
    """Return what tells a file from all others."""
    return info.st_dev, info.st_ino


def member_class():
    """Return the class of an archive's members."""
    import tarfile

    long_names = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
    long = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *long_names)

    class Member(tarfile.TarInfo):
        """A member of an archive, whose long names and attributes are read only as far as any system would take them.

        Where a header behind the first one makes no sense or is cut short, tarfile takes that for the archive's end.
        """

        @classmethod
        def fromtarfile(cls, tar):
            """Read the next member."""
            try:
                return super().fromtarfile(tar)
            except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
                raise Failed("tar: the archive is damaged: %s" % error) from None

        def _block(self, count):
            if count < 0:
                raise Failed("tar: the archive is damaged: a size is negative")
            return super()._block(count)

        def _proc_member(self, tar):
            if self.size < 0 or (self.type in long and self.size > MAX_HEADER):
                raise Failed("tar: a header of the archive is too large")
            return super()._proc_member(tar)

    return Member


def opened(*arguments, **named):
    """Open an archive; names may be any bytes."""
    import tarfile

    how = {"encoding": "utf-8", "errors": "surrogateescape", "format": tarfile.GNU_FORMAT, "bufsize": BLOCK}
    try:
        return tarfile.open(*arguments, tarinfo=member_class(), **how, **named)
    except tarfile.CompressionError as error:
        raise Failed("tar: the login node's python3 cannot: %s" % error) from None


def decompressed(stream, compression):
    """Return a compressed stream as it was before, and the errors that tell of damage besides OSError."""
    try:
        if compression == "gzip":
            import gzip
            import zlib

            return gzip.GzipFile(fileobj=stream), (zlib.error,)
        if compression == "bzip2":
            import bz2

            return bz2.BZ2File(stream), ()
        if compression == "xz":
            import lzma

            return lzma.LZMAFile(stream), (lzma.LZMAError,)
    except ImportError as error:
        raise Failed("tar: python3 here cannot decompress this: %s" % error) from None
    return stream, ()


def user_name(uid, known={}):  # noqa: B006 (it remembers)
    """Return the name of a user, or nothing."""
    if uid not in known:
        try:
            known[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            known[uid] = ""
    return known[uid]


def group_name(gid, known={}):  # noqa: B006 (it remembers)
    """Return the name of a group, or nothing."""
    if gid not in known:
        try:
            known[gid] = grp.getgrgid(gid).gr_name
        except KeyError:
            known[gid] = ""
    return known[gid]


def walk(place, complain, box=None, itself=False):
    """Yield all beneath a place: its names from there, open by O_PATH, its attributes, and what a link holds.

    Args:
        place: The place.
        complain: Is told of what cannot be read.
        box: Follow links that stay in it, and deny those that do not; None follows none.
        itself: Yield the place itself, too, with no names.
    """
    if itself:
        link = os.readlink(b"", dir_fd=place.fd) if place.kind == stat.S_IFLNK else None
        yield [], place.fd, place.info, link
    if place.kind == stat.S_IFDIR:
        yield from _beneath(place.fd, [], place.parts, complain, box, {key(place.info)})


def _beneath(top, names, parts, complain, box, above):
    try:
        inside = children(top)
    except OSError as error:
        complain("tar: %s: Cannot open: %s" % (text(b"/".join(names) or b"."), os.strerror(error.errno)))
        return
    for name in sorted(inside):
        here, there = [*names, name], [*parts, name]
        try:
            fd, info = look(top, name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                complain("tar: %s: Cannot stat: %s" % (text(b"/".join(here)), os.strerror(error.errno)))
            continue
        try:
            link = None
            if stat.S_ISLNK(info.st_mode):
                if box is None:
                    link = os.readlink(b"", dir_fd=fd)
                else:
                    try:
                        other = present(box.locate(real(there)))
                    except OSError as error:
                        complain("tar: %s: Cannot stat: %s" % (text(b"/".join(here)), os.strerror(error.errno)))
                        continue
                    os.close(fd)
                    os.close(other.directory)
                    fd, info, there = other.fd, other.info, other.parts
            yield here, fd, info, link
            if stat.S_ISDIR(info.st_mode) and key(info) not in above:
                yield from _beneath(fd, here, there, complain, box, above | {key(info)})
        finally:
            os.close(fd)


def remove(directory, name, own=None):
    """Remove what has a name in a directory, and all beneath it, following nothing.

    Args:
        directory: The directory.
        name: The name.
        own: Of directories, only what is in these (`key`) is removed; None is whatever has the name.
    """
    try:
        os.unlink(name, dir_fd=directory)
        return
    except IsADirectoryError:
        pass
    except PermissionError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if own is not None and key(os.fstat(fd)) not in own:
            raise moved(name)
        for inner in os.listdir(fd):
            try:
                remove(fd, os.fsencode(inner))
            except FileNotFoundError:
                pass
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def clear_up(directory, name, own=()):
    """Remove what was made for the time being; a signal meanwhile counts only after that. No second one does.

    Args:
        directory: The directory where it was made.
        name: Its name, which others who write there may have given to something else.
        own: The directories that were made (`key`).
    """
    try:
        _clear_up(directory, name, own)
    except Ended:
        _clear_up(directory, name, own)
        raise


def _clear_up(directory, name, own):
    try:
        remove(directory, name, own)
    except FileNotFoundError:
        pass
    except Failed:
        # One that was made, but not entered yet, is empty still.
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError:
            pass


def open_up(stage, name):
    """Give a directory of the user's alone the mode that a new one would have there, as one in it tells by its own."""
    os.mkdir(name, 0o777, dir_fd=stage)
    mode = stat.S_IMODE(os.stat(name, dir_fd=stage, follow_symlinks=False).st_mode)
    os.rmdir(name, dir_fd=stage)
    os.chmod(b"/proc/self/fd/%d/." % stage, mode)


def adopt(new, place):
    """Give a new file (a descriptor or a path) the group, the mode and the access control list of an old one."""
    old = place.info
    # Of somebody else's file nothing comes along that would let others act as the user.
    mode = stat.S_IMODE(old.st_mode)
    try:
        os.chown(new, old.st_uid, -1)
    except OSError:
        mode &= 0o777
    try:
        os.chown(new, -1, old.st_gid)
    except OSError:
        mode = mode & ~0o2070 | (mode & 0o7) << 3
    if not copied_list("/proc/self/fd/%d" % place.fd, new):
        mode &= 0o7700
    os.chmod(new, mode)


def inherited(directory):
    """Say whether new files in a directory, which is open, inherit an access control list."""
    try:
        return bool(os.getxattr(directory, INHERITED))
    except OSError:
        return False


def copied_list(old, new):
    """Have a new file the access control list of an old one, or none, as that; tell whether it is so."""
    try:
        entries = os.getxattr(old, ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            return False
        entries = None
    try:
        if entries is None:
            # It may have inherited one from the directory.
            os.removexattr(new, ACL)
        else:
            os.setxattr(new, ACL, entries)
    except OSError as error:
        return entries is None and error.errno in (errno.ENODATA, errno.ENOTSUP)
    return True


def stays(place, how):
    """Tell whether a file is written in place."""
    if place.kind != stat.S_IFREG or how not in ("auto", "in-place"):
        return False
    writable = os.access("/proc/self/fd/%d" % place.fd, os.W_OK)
    if how == "in-place":
        if not writable:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return True
    holder, me = os.fstat(place.directory), os.geteuid()
    sticky = holder.st_mode & stat.S_ISVTX and me not in (0, holder.st_uid, place.info.st_uid)
    return writable and bool(sticky or not os.access("/proc/self/fd/%d" % place.directory, os.W_OK | os.X_OK))


def staged(directory):
    """Return a new file without a name: in a directory or, where none can be made, at home or among temporary files."""
    import tempfile

    for path in ("/proc/self/fd/%d" % directory, os.path.expanduser("~"), "/tmp"):
        try:
            return tempfile.TemporaryFile(dir=path, buffering=BLOCK)
        except OSError as error:
            failure = error
    raise failure


def copy(content, target, start, end):
    """Copy a part of a file to the same place in another, and have it on disk."""
    content.seek(start)
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        block = content.read(min(BLOCK, end - start))
        if not block:
            raise Broken
        write_all(target, block)
        start += len(block)
    os.fsync(target)


def fill(target, content, new):
    """Write a file's whole content, of so many bytes, into another one; no signal ends it halfway."""
    was = os.fstat(target).st_size
    # What is longer goes first: if there is no room for it, nothing has happened.
    try:
        copy(content, target, was, new)
    except BaseException:
        os.ftruncate(target, was)
        raise
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    copy(content, target, 0, min(was, new))
    os.ftruncate(target, new)
    os.fsync(target)


class Replacement:
    """A new file under a hidden name, which gets a name once it is whole and is gone otherwise."""

    def __init__(self, request, place, name):
        if place.kind == stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if request.get("exclusive") and place.info is not None:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if place.kind not in (0, stat.S_IFREG):
            raise Failed(NOT_REGULAR)
        self.name = name
        self._place = place
        self._published = False
        self.fd = os.open(name, NEW, 0o666 if place.info is None else 0o600, dir_fd=place.directory)

    def __enter__(self):
        return self

    def settle(self, mode, sync):
        """Give it the mode, and have it on disk if asked."""
        if self._place.info is not None:
            adopt(self.fd, self._place)
        elif mode is not None:
            os.fchmod(self.fd, mode)
        if sync:
            os.fsync(self.fd)

    def publish(self, exclusive):
        """Give it its name."""
        directory, name = self._place.directory, self._place.name
        if exclusive:
            os.link(self.name, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        else:
            os.rename(self.name, name, src_dir_fd=directory, dst_dir_fd=directory)
            self._published = True

    def __exit__(self, *_):
        os.close(self.fd)
        if not self._published:
            clear_up(self._place.directory, self.name)


class Unpacking:
    """Unpacks members beneath a directory that is held open; its names may be those of where it will be."""

    def __init__(self, box, top, parts):
        self._box = box
        self._top = top
        self._parts = parts
        # One that leaves the owner no rights would have directories that nothing can be unpacked into.
        self._umask = os.umask(0) & 0o077
        os.umask(self._umask)
        self._made = set()

    def unpack(self, tar):
        """Unpack all members."""
        directories = []
        for member in tar:
            names = self._names(member.name)
            if not names:
                if not member.isdir():
                    raise Denied("a member of the archive has no name")
                continue
            directory = self._walk(names[:-1], member.name, True)
            try:
                if member.isdir():
                    # One that was there stays as it is.
                    if self._make(directory, names[-1], member.name):
                        directories.append((names, member))
                else:
                    self._one(tar, member, directory, names)
            finally:
                os.close(directory)
            tar.members = []
        for names, member in reversed(directories):
            fd = self._walk(names, member.name, False)
            if key(os.fstat(fd)) not in self._made:
                # Others who write there have put another one in its place.
                os.close(fd)
                continue
            reading = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            found = stat.S_IMODE(os.fstat(reading).st_mode)
            # Where new files inherit an access control list, the umask does not count, but what the list has left.
            left = found if inherited(reading) else ~self._umask
            mode = member.mode & 0o777 & left | found & stat.S_ISGID
            if mode != found:
                os.fchmod(reading, mode)
            os.utime(reading, (member.mtime, member.mtime))
            os.close(reading)
            os.close(fd)

    def _names(self, name):
        names = [part for part in raw(name).split(b"/") if part not in (b"", b".")]
        if b".." in names or b"\0" in raw(name):
            raise Denied("%r in the archive would escape the directory" % name)
        return names

    def _walk(self, names, shown, make):
        """Return a directory beneath the top, open, made on the way if asked."""
        fd = os.dup(self._top)
        for name in names:
            try:
                if make:
                    self._make(fd, name, shown)
                inner = self._open(fd, name, shown)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _open(self, directory, name, shown):
        try:
            return os.open(name, DIRECTORY, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    raise Denied("%r in the archive lies behind a link" % shown) from None
            raise

    def _make(self, directory, name, shown):
        """Make a directory, or take the one that is there; say whether it is one of the archive's."""
        new = True
        try:
            os.mkdir(name, 0o777, dir_fd=directory)
        except FileExistsError:
            new = False
        fd = self._open(directory, name, shown)
        try:
            found = key(os.fstat(fd))
            if new and fresh(fd, directory):
                self._made.add(found)
        finally:
            os.close(fd)
        return found in self._made

    def _one(self, tar, member, directory, names):
        name = names[-1]
        if member.issym():
            self._box.check_link([*self._parts, *names[:-1]], raw(member.linkname), raw(member.name))
            self._clear(directory, name)
            os.symlink(raw(member.linkname), name, dir_fd=directory)
        elif member.islnk():
            old = self._names(member.linkname)
            if not old:
                raise Denied("the link %r in the archive would lead out of the directory" % member.name)
            if old == names:
                return
            try:
                there = self._walk(old[:-1], member.name, False)
            except FileNotFoundError as error:
                raise self._unlinked(member, error) from None
            try:
                try:
                    info = os.stat(old[-1], dir_fd=there, follow_symlinks=False)
                except FileNotFoundError as error:
                    raise self._unlinked(member, error) from None
                if not stat.S_ISREG(info.st_mode):
                    raise Denied("the link %r in the archive is not one to a file" % member.name)
                self._clear(directory, name)
                os.link(old[-1], name, src_dir_fd=there, dst_dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(there)
        elif member.isreg():
            self._clear(directory, name)
            # The kernel takes off what the umask says, or the access control list that new files inherit.
            fd = os.open(name, NEW, member.mode & 0o777, dir_fd=directory)
            try:
                # Not the buffer before it, which asks the stream whether it can go back.
                content = tar.extractfile(member).raw
                # Holes stay holes: an archive of a few bytes may hold a file of any size.
                for offset, size in [(0, member.size)] if member.sparse is None else member.sparse:
                    content.seek(offset)
                    os.lseek(fd, offset, os.SEEK_SET)
                    while size > 0:
                        block = content.read(min(BLOCK, size))
                        if not block:
                            break
                        write_all(fd, block)
                        size -= len(block)
                os.ftruncate(fd, member.size)
                os.utime(fd, (member.mtime, member.mtime))
            finally:
                os.close(fd)
        else:
            raise Denied("%r in the archive is neither a file nor a directory nor a link" % member.name)

    @staticmethod
    def _unlinked(member, error):
        words = (member.name, member.linkname, os.strerror(error.errno))
        return Failed("tar: %s: Cannot hard link to '%s': %s" % words)

    def _clear(self, directory, name):
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            os.rmdir(name, dir_fd=directory)


def merge(source, target, shown, really):
    """Move all that is in a directory into another; a file or link replaces one, directories become one.

    Those that were there stay as they are: an archive need not name the directories of its members.
    """
    heir = Heir(source, target) if really else None
    for name in children(source):
        path = shown + b"/" + name
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        try:
            old = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        if old is not None and stat.S_ISDIR(info.st_mode) != stat.S_ISDIR(old.st_mode):
            number = errno.ENOTDIR if stat.S_ISDIR(info.st_mode) else errno.EISDIR
            raise Failed("tar: %s: %s" % (text(path), os.strerror(number)))
        if old is not None and stat.S_ISDIR(info.st_mode):
            inner = os.open(name, DIRECTORY, dir_fd=source)
            outer = os.open(name, DIRECTORY, dir_fd=target)
            try:
                merge(inner, outer, path, really)
            finally:
                os.close(inner)
                os.close(outer)
        elif not really:
            if not os.access(b"/proc/self/fd/%d/." % target, os.W_OK | os.X_OK):
                raise Failed("tar: %s: %s" % (text(path), os.strerror(errno.EACCES)))
        else:
            heir.endow(source, name)
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)


class Heir:
    """Gives what was unpacked elsewhere its group and access control list as if it had been made where it is to lie.

    Args:
        tree: The directory where it was.
        target: The one that it comes to.
    """

    def __init__(self, tree, target):
        own, above = os.fstat(tree), os.fstat(target)
        self._setgid = above.st_mode & stat.S_ISGID
        self._gid = None
        if self._setgid:
            if not own.st_mode & stat.S_ISGID or own.st_gid != above.st_gid:
                self._gid = above.st_gid
        elif own.st_mode & stat.S_ISGID:
            self._gid = os.getegid()
        self._list = list_for_new(target)
        self._lists = self._list != list_for_new(tree)

    def endow(self, directory, name):
        """Do so with a file, or a directory and all beneath it."""
        if self._gid is None and not self._lists:
            return
        fd, info = look(directory, name)
        try:
            if stat.S_ISLNK(info.st_mode):
                return
            self._one(b"/proc/self/fd/%d" % fd, info)
            if stat.S_ISDIR(info.st_mode):
                for inner in children(fd):
                    self.endow(fd, inner)
        finally:
            os.close(fd)

    def _one(self, path, info):
        mode = stat.S_IMODE(info.st_mode)
        if self._gid is not None:
            try:
                os.chown(path, -1, self._gid)
                if stat.S_ISDIR(info.st_mode):
                    mode = mode & ~stat.S_ISGID | self._setgid
            except PermissionError:
                # Those in the user's own group get no more than all others.
                mode = mode & ~0o070 | (mode & 0o007) << 3
            os.chmod(path, mode)
        if self._lists and self._list:
            os.setxattr(path, ACL, heritage(self._list, mode))
            if stat.S_ISDIR(info.st_mode):
                os.setxattr(path, INHERITED, self._list)
        elif self._lists:
            for attribute in (ACL, INHERITED) if stat.S_ISDIR(info.st_mode) else (ACL,):
                try:
                    os.removexattr(path, attribute)
                except OSError as error:
                    if error.errno != errno.ENODATA:
                        raise
            # The rights of the group were the mask of the list.
            os.chmod(path, mode)


def list_for_new(directory):
    """Return the access control list that new files in a directory inherit, as the kernel keeps it; b"" is none."""
    try:
        return os.getxattr(b"/proc/self/fd/%d/." % directory, INHERITED)
    except OSError:
        return b""


def heritage(entries, mode):
    """Return the list that a new file of a mode inherits (acl(5), "Object creation and default ACLs")."""
    masked = any(tag == LIST_MASK for tag, _, _ in LIST_ENTRY.iter_unpack(entries[4:]))
    made = entries[:4]
    for tag, rights, who in LIST_ENTRY.iter_unpack(entries[4:]):
        if tag == LIST_OWNER:
            rights &= mode >> 6
        elif tag == LIST_MASK or (tag == LIST_GROUP and not masked):
            rights &= mode >> 3
        elif tag == LIST_OTHER:
            rights &= mode
        made += LIST_ENTRY.pack(tag, rights, who)
    return made


class Copying:
    """Copies with modes, times and, as far as it may, owners and attributes."""

    def __init__(self, request, box):
        self._request = request
        self._box = box
        self.made = set()

    @staticmethod
    def is_settled(above, info):
        """Tell whether a directory that was there is the user's, and nobody else could have put it there."""
        return info.st_uid == os.geteuid() and keeps(os.fstat(above))

    def one(self, fd, info, directory, name, parts, target):
        """Copy one file or tree to a new name."""
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            new = os.open(name, NEW, 0o600, dir_fd=directory)
            try:
                old = reopen(fd, os.O_RDONLY)
                try:
                    self._content(old, new)
                finally:
                    os.close(old)
                self._attributes(fd, info, new)
            finally:
                os.close(new)
        elif kind == stat.S_IFLNK:
            link = os.readlink(b"", dir_fd=fd)
            self._request.box.check_link(target, link, real(parts))
            os.symlink(link, name, dir_fd=directory)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=directory)
            new = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                if not fresh(new, directory):
                    raise moved(name)
                self.made.add(key(os.fstat(new)))
                self.tree(fd, info, new, parts, [*target, name])
            finally:
                os.close(new)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, stat.S_IMODE(info.st_mode), dir_fd=directory)
        else:
            raise Failed("cp: '%s': Not a regular file" % text(real(parts)))

    def tree(self, fd, info, directory, parts, target, above=(), settle=True):
        """Copy all in a directory into another, and then its mode and the like if asked."""
        above = {key(info), *above}
        for name in children(fd):
            here = [*parts, name]
            try:
                inner, found = look(fd, name)
            except OSError as error:
                self._complain(here, error)
                continue
            try:
                there = here
                if stat.S_ISLNK(found.st_mode) and self._box is not None:
                    other = present(self._box.locate(real(here)))
                    os.close(inner)
                    os.close(other.directory)
                    inner, found, there = other.fd, other.info, other.parts
                if key(found) in self.made:
                    continue
                if stat.S_ISDIR(found.st_mode) and key(found) in above:
                    raise Failed("cp: '%s': Too many levels of symbolic links" % text(real(here)))
                self._into(inner, found, directory, name, there, target, above)
            except OSError as error:
                self._complain(here, error)
            finally:
                os.close(inner)
        if not settle:
            return
        reading = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        self._attributes(fd, info, reading)
        os.close(reading)

    def _into(self, fd, info, directory, name, parts, target, above):
        if stat.S_ISDIR(info.st_mode):
            try:
                os.mkdir(name, 0o700, dir_fd=directory)
                was = False
            except FileExistsError:
                was = True
            new = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                found = os.fstat(new)
                settle = self.is_settled(directory, found) if was else fresh(new, directory)
                self.made.add(key(found))
                self.tree(fd, info, new, parts, [*target, name], above, settle)
            finally:
                os.close(new)
            return
        hidden = HIDDEN + os.urandom(8).hex().encode()
        try:
            self.one(fd, info, directory, hidden, parts, target)
            os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            clear_up(directory, hidden)
            raise

    def _complain(self, parts, error):
        words = error.strerror or os.strerror(error.errno or errno.EIO)
        self._request.complain("cp: '%s': %s" % (text(real(parts)), words))

    @staticmethod
    def _content(old, new):
        """Copy the content, holes as holes."""
        size = os.fstat(old).st_size
        offset = 0
        while offset < size:
            try:
                start = os.lseek(old, offset, os.SEEK_DATA)
                end = os.lseek(old, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                start, end = offset, size
            os.lseek(old, start, os.SEEK_SET)
            os.lseek(new, start, os.SEEK_SET)
            offset = start
            while offset < end:
                block = os.read(old, min(BLOCK, end - offset))
                if not block:
                    size = offset
                    break
                write_all(new, block)
                offset += len(block)
        os.ftruncate(new, size)

    @staticmethod
    def _attributes(fd, info, new):
        try:
            os.fchown(new, info.st_uid, info.st_gid)
            mode = stat.S_IMODE(info.st_mode)
        except OSError:
            try:
                os.fchown(new, -1, info.st_gid)
            except OSError:
                pass
            mode = stat.S_IMODE(info.st_mode) & ~0o6000
        path = "/proc/self/fd/%d" % fd
        try:
            for name in os.listxattr(path):
                if name.startswith("user.") or name.startswith("system.posix_acl_"):
                    os.setxattr(new, name, os.getxattr(path, name))
        except OSError:
            pass
        os.fchmod(new, mode)
        os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))


def main():
    """Do what is asked."""
    if len(sys.argv) > 2:
        asked, source = json.loads(sys.argv[2]), None
    else:
        source = sys.stdin.buffer
        asked = json.loads(source.readline().decode())

    def end(number, _):
        # What clears up is not to be interrupted again.
        for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
    sys.setrecursionlimit(10000)
    words = asked.get("words", "hpcgate")
    try:
        OPERATIONS[asked["do"]](Request(asked, source, sys.stdout.buffer))
    except Denied as denial:
        sys.stderr.write("hpcgate: denied: %s\n" % denial)
        return DENIED
    except Failed as failure:
        sys.stderr.write("%s\n" % failure)
        return 1
    except OSError as error:
        sys.stderr.write("%s: %s\n" % (words, os.strerror(error.errno) if error.errno else error))
        return 1
    except RecursionError:
        sys.stderr.write("%s: the tree is too deep\n" % words)
        return 1
    except MemoryError:
        sys.stderr.write("%s: %s\n" % (words, os.strerror(errno.ENOMEM)))
        return 1
    except Broken:
        sys.stderr.write("%s: the content is not whole\n" % words)
        return 97
    except Ended as signalled:
        return 128 + signalled.args[0]
    return 0


if __name__ == "__main__":
    # Names that are not UTF-8 go through as they are.
    sys.stderr = open(2, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.exit(main())
