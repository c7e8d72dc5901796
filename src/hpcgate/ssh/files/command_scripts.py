"""The shell scripts (POSIX sh and GNU coreutils) by which files are read and written where SFTP is not used."""

from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.files.command_output import STAT
from hpcgate.ssh.files.coreutils_errors import NOT_REGULAR
from hpcgate.ssh.files.footing import ENTER, MOVED

TRAILER = 32
"""Bytes behind an upload that say that it is whole: a word, and how long it is."""
PARTLY = "The file has been written in part; all of the new content is in"
"""What is said of a file whose old content is gone and whose new one is not all there, before a path."""
CUT = 97
"""Exit status of what has taken an upload that is not whole."""

# What is neither a regular file nor a directory is never opened: a FIFO blocks, a device may never end.
REGULAR = f"""\
if [ -e "$1" ] && [ ! -f "$1" ] && [ ! -d "$1" ]; then echo "{NOT_REGULAR}" >&2; exit 1; fi
"""
READ = (
    REGULAR
    + """\
if [ -d "$1" ]; then echo "Is a directory" >&2; exit 1; fi
if [ -n "$3" ]; then
  exec dd if="$1" bs=65536 iflag=fullblock,skip_bytes,count_bytes skip="$2" count="$3" status=none
fi
exec dd if="$1" bs=65536 iflag=fullblock,skip_bytes skip="$2" status=none
"""
)
# $1 file, $2 bytes to skip, $3 the most bytes that it may have to be left alone, $4 the most bytes to read. Attributes
# and content are those of one descriptor, whatever is put in the place of the file meanwhile.
LOOK = (
    REGULAR
    + """\
if [ -d "$1" ]; then echo "Is a directory" >&2; exit 1; fi
dd if="$1" count=0 status=none || exit 1
exec 4<"$1"
"""
    + f"""\
a=$(stat -L -c '{STAT}' /dev/fd/4) || exit 1
"""
    + """\
printf '%s\\n' "$a"
b=$2 most=$3 n=$4
set -- $a
[ "$7" -gt "$most" ] || exit 0
exec dd bs=65536 iflag=fullblock,skip_bytes,count_bytes skip="$b" count="$n" status=none <&4
"""
)
# adopt OLD NEW: the new file, which replaces the old one, gets its owner if that may be, its group, mode and access
# control list. Where the user is not in that group, those in the new file's group get no more than all others have. Of
# somebody else's file nothing comes along that would let others act as the user: setuid and setgid. What has become a
# link meanwhile says nothing. With a list, the mode's group bits are its mask, the most that anybody named in it may do
# (acl(5)): on a file without it they would be the group's own, and on one that has inherited another list from the
# directory, that one's mask. So where a list cannot be copied, the file is for its owner alone.
ADOPT = """\
listed() { case $(ls -dlnL -- "$1") in ??????????+*) echo listed ;; esac; }
adopt() {
  m=$(stat -c '%f %u %g' -- "$1") || return
  g=${m##* }
  m=${m% *}
  u=${m#* }
  m=$((0x${m% *}))
  [ $((m & 0170000)) -eq $((0100000)) ] || return 0
  m=$((m & 07777))
  s=$((m & 07000))
  if [ "$u" != "$(stat -L -c %u -- "$2")" ] && ! chown "$u" -- "$2" 2>/dev/null; then m=$((m & 0777)); fi
  chgrp "$g" -- "$2" 2>/dev/null || m=$((m & ~02070 | (m & 07) << 3))
  a=$(listed "$1")
  if [ -n "$a$(listed "$2")" ]; then
    # cp of Debian 13 leaves the list that the new file has inherited where the old one has none.
    [ "$s" -ne "$((m & 07000))" ] ||
      { cp -P --attributes-only --preserve=mode -- "$1" "$2" 2>/dev/null && [ "$a" = "$(listed "$2")" ]; } ||
      { getfacl -cn -- "$1" | setfacl --set-file=- -- "$2"; } 2>/dev/null
    [ "$a" = "$(listed "$2")" ] || m=$((m & 07700))
  fi
  chmod "$(printf %04o "$m")" -- "$2"
}
"""
# stays TARGET: says whether the file is to be written in place, since no other can take its name: the directory cannot
# be written, or is sticky and the file somebody else's, or something is mounted there. It stands in that directory.
# elsewhere NAME: prints a path outside of it, for what is to be written in place.
STAYS = """\
stays() {
  [ -f "$1" ] && [ -w "$1" ] || return
  [ -w . ] || return 0
  if [ -k . ] && [ ! -O . ] && [ ! -O "$1" ] && [ "$(id -u)" -ne 0 ]; then return 0; fi
  # A name that is written with escapes there is not found.
  set -- "${1#./}" "$(pwd -P)"
  grep -qsF -- " ${2%/}/$1 " /proc/self/mountinfo
}
elsewhere() {
  for d in "$HOME" "${TMPDIR:-/tmp}"; do if [ -d "$d" ] && [ -w "$d" ]; then break; fi; done
  printf %s "${d%/}/$1"
}
"""
# fits NAME: says why there cannot be such a name here, before anything is taken for it.
FITS = """\
fits() {
  if [ -e "$1" ] || [ -L "$1" ]; then return; fi
  why=$(stat -- "$1" 2>&1 >/dev/null) && return
  case $why in *"No such file or directory") return ;; esac
  printf '%s\\n' "$why" >&2
  exit 1
}
"""
# shut FILE: opens a new file as descriptor 4 that nobody but its owner can have opened at any time. Where new files
# inherit an access control list, the umask does not count (acl(5)), and whoever opens such a file before its mode is
# changed reads all that is written later. mktemp(1) asks for a mode of 0600, which leaves the list's mask nothing.
SHUT = """\
shut() {
  umask 077
  if [ -n "$(listed "${1%/*}")" ]; then
    blank=$(mktemp -- "$1.XXXXXXXX") || exit 1
    mv -nT -- "$blank" "$1"
    if [ -e "$blank" ]; then rm -f -- "$blank"; echo "File exists" >&2; exit 1; fi
    # Others who write in the directory may have put something else there meanwhile: to read is to make nothing there.
    exec 4<"$1"
    [ "$(stat -L -c '%f %u %h %s' /dev/fd/4)" = "8180 $(id -u) 1 0" ] || { echo "File exists" >&2; exit 1; }
    exec 4<>/proc/self/fd/4
  else
    set -C
    exec 4>"$1"
    set +C
    if [ ! -f /dev/fd/4 ]; then echo "File exists" >&2; exit 1; fi
  fi
  chmod 600 /dev/fd/4 || exit 1
}
"""
# $1 target, $2 temporary name, $3 trailer, $4 its length. Makes the file and takes its content; from then on it is
# descriptor 4, for in a directory that others write its name may soon be that of another one; and ps shows the name, so
# that a FIFO may be there before, which noclobber lets pass. The trailer tells a whole
# upload from one whose connection broke: both are an end of file here. A shell that waits for a command in the
# foreground takes no notice of a signal, hence the background. $6 is a `Replacing`, none for atomic. What is written in
# place is taken first, too, beside it or, where no file can be made, in the home directory or that for temporary files.
TAKE = (
    ENTER
    + ADOPT
    + CUT_OFF
    + FITS
    + STAYS
    + SHUT
    + """\
settle "$1"
t=./$base
case $1 in */) t=$t/ ;; esac
if [ -d "$t" ]; then echo "Is a directory" >&2; exit 1; fi
case $t in */) echo "No such file or directory" >&2; exit 1 ;; esac
if [ -e "$t" ] && [ ! -f "$t" ]; then echo "Not a regular file" >&2; exit 1; fi
fits "$t"
tmp=./$2
place=
case $6 in
  in-place)
    if [ -f "$t" ]; then
      [ -w "$t" ] || { echo "Permission denied" >&2; exit 1; }
      place=yes
    fi ;;
  auto) if stays "$t"; then place=yes; fi ;;
esac
if [ -n "$place" ] && [ ! -w . ]; then tmp=$(elsewhere "$2"); fi
clear_up() { rm -f -- "$tmp"; }
old= bare=
exec 3<&0
if [ -e "$t" ]; then
  old=yes
  shut "$tmp"
else
  set -C
  exec 4>"$tmp"
  set +C
  if [ ! -f /dev/fd/4 ]; then echo "File exists" >&2; exit 1; fi
  # A umask may leave the file with no rights for its owner, who opens it anew below: it has them until it is whole.
  { [ -r /dev/fd/4 ] && [ -w /dev/fd/4 ]; } || bare=$(stat -L -c %a /dev/fd/4)
  [ -z "$bare" ] || chmod 600 /dev/fd/4 || exit 1
fi
dd bs=262144 iflag=fullblock status=none <&3 >&4 & wait "$!" || exit 1
n=$(($(stat -L -c %s /dev/fd/4) - $4))
[ "$n" -ge 0 ] || exit 97
[ "$(tail -c "$4" /dev/fd/4 | tr -d '\\0')" = "$3$(printf %016d "$n")" ] || exit 97
truncate -s "$n" /dev/fd/4 || exit 1
"""
)
# After all that opens the new file once more: what it gets may forbid that.
LIKE_OLD = """\
if [ -e "$t" ]; then old=yes; adopt "$t" /dev/fd/4 || exit 1
elif [ -n "$bare" ]; then chmod "$bare" /dev/fd/4 || exit 1; fi
"""
# overwrite NAME CONTENT INODE SIZE TARGET: writes content that is a file into the file of that name in the directory
# where it stands. INODE is the content's device and inode, TARGET the path for messages. ``drop`` removes the content,
# $path, or does nothing. The file is opened without O_CREAT, which in a sticky directory may be refused
# (fs.protected_regular), and is to be the one of that name. What is longer than the old content goes first: if there is
# no room for it, it is cut off again and nothing has happened. After that no signal is heard, and the new content stays
# where it is if something fails all the same.
OVERWRITING = f"""\
drop() {{ rm -f -- "$path"; }}
overwrite() {{
t=./$1
path=$2
clear_up() {{ drop; }}
# A FIFO that is there by now would hold it up.
[ -f "$2" ] && [ -f "$t" ] && exec 5<"$2" 6<"$t" &&
  [ -f /dev/fd/6 ] && [ "$(stat -L -c %d:%i /dev/fd/5)" = "$3" ] &&
  [ "$(stat -L -c %d:%i /dev/fd/6)" = "$(stat -c %d:%i -- "$t")" ] ||
  {{ echo "$5 {MOVED}: Permission denied" >&2; exit 1; }}
was=$(stat -L -c %s /dev/fd/6) || exit 1
clear_up() {{
  [ -z "$!" ] || wait "$!"
  truncate -c -s "$was" /dev/fd/6
  drop
}}
grow() {{
  exec dd if=/dev/fd/5 of=/dev/fd/6 bs=262144 iflag=fullblock,skip_bytes oflag=seek_bytes skip="$was" seek="$was" \
    conv=notrunc,nocreat,fsync status=none
}}
if [ "$4" -gt "$was" ]; then
  grow & wait "$!" || exit 1
fi
trap '' HUP INT TERM
dd if=/dev/fd/5 of=/dev/fd/6 bs=262144 iflag=fullblock,count_bytes count="$was" \
  conv=notrunc,nocreat,fsync status=none && truncate -c -s "$4" /dev/fd/6 ||
  {{ trap - EXIT; printf '%s\n' "{PARTLY} $2" >&2; exit 1; }}
clear_up() {{ drop; }}
}}
"""
OVERWRITE = CUT_OFF + OVERWRITING + 'overwrite "$@"\n'
# $5 the mode of a new file, or nothing.
WRITE = (
    TAKE
    + LIKE_OLD
    + """\
if [ -z "$old" ] && [ -n "$5" ]; then chmod "$5" /dev/fd/4 || exit 1; fi
mv -fT -- "$tmp" "$t" || exit 1
printf %s "$n"
"""
)
# $1 the file that could not be written, $2 a temporary name: what a full disk says, it says again to a few more bytes,
# be it only where they are to be on disk, or where the file is closed.
PROBE = (
    ENTER
    + CUT_OFF
    + FITS
    + """\
settle "$1"
fits "./$base"
t=./$2
clear_up() { rm -f -- "$t"; }
set -C
exec 4>"$t"
dd if=/dev/zero bs=65536 count=16 conv=fsync status=none >&4
"""
)
