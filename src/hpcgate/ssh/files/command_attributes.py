"""What changes a file but its content, by commands that stand in the file's directory.

A path that has been looked at may lead elsewhere when it is used, where others may write. These scripts follow it as
`hpcgate.ssh.files.footing` does, go to the directory, see that it is the right one, and use a bare name from then on.
"""

import re

from hpcgate.errors import CommandFailed, GatewayError
from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.files.coreutils_errors import error_from_stderr, failure, number_in, quote
from hpcgate.ssh.files.footing import ENTER, MOVED, parent, untrusted
from hpcgate.ssh.runner import Completed, Runner

MKDIR = ENTER + 'beside "$1"\nexec mkdir -- "./$base"\n'
MKDIR_PARENTS = (
    ENTER
    + """\
follow "$1"
top=$real rest=
while [ ! -d "$top" ] && [ "$top" != / ]; do
  rest=${top##*/}${rest:+/$rest}
  top=${top%/*}
  top=${top:-/}
done
enter "$top"
# As POSIX has it for directories on the way: their owner may go on in them whatever the umask says.
make() { if [ -n "$rest" ]; then (umask u+wx; mkdir -- "./$part"); else mkdir -- "./$part"; fi; }
while [ -n "$rest" ]; do
  case $rest in */*) part=${rest%%/*} rest=${rest#*/} ;; *) part=$rest rest= ;; esac
  if [ ! -d "./$part" ] && ! make 2>/dev/null && [ ! -d "./$part" ]; then
    if [ -e "./$part" ] && [ -n "$rest" ]; then echo "stat: $top: Not a directory" >&2; exit 1; fi
    said=$(make 2>&1) || { printf '%s\n' "${said%%./*}${top%/}/${said#*./}" >&2; exit 1; }
  fi
  top=${top%/}/$part
  [ -z "$rest" ] || enter "$top"
done
"""
)
SYMLINK = ENTER + 'beside "$2"\nexec ln -sT -- "$1" "./$base$slash"\n'
RENAME = (
    ENTER
    + """\
beside "$1"
from=./$base$slash
if [ "$home" = . ] && case $2 in ./*/*) false ;; ./*) ;; *) false ;; esac; then
  exec mv -fT -- "$from" "$2"
fi
exec 5<.
from=/proc/self/fd/5/$base$slash
beside "$2"
exec mv -fT -- "$from" "./$base$slash"
"""
)
# With a slash behind it rm would take away what a link leads to, even one that has just been put there.
REMOVE = (
    ENTER
    + """\
beside "$1"
if [ -n "$slash" ] && { [ -L "./$base" ] || { [ -e "./$base" ] && [ ! -d "./$base" ]; }; }; then
  echo "rm: cannot remove './$base': Not a directory" >&2
  exit 1
fi
exec rm -r --interactive=never -- "./$base"
"""
)
# chmod(1) follows a link in the last place. Where nobody else can put one there, a name is good enough; elsewhere a
# file is held open, and seen to be what the name stands for. What cannot be read is not: a shell opens nothing for
# writing without making it, be it where a link leads that has just been put there.
CHMOD = (
    ENTER
    + CUT_OFF
    + """\
settle "$1"
case $1 in
  */) if [ -e "./$base" ] && [ ! -d "./$base" ]; then
    echo "chmod: cannot access './$base': Not a directory" >&2
    exit 1
  fi ;;
esac
if [ ! -e "./$base" ] && [ ! -L "./$base" ]; then exec chmod -- "$2" "./$base"; fi
holder=$(stat -c '0%a %u' .) || exit 1
mode=${holder% *}
case ${holder#* } in
  0 | "$(id -u)")
    if [ $((mode & 022)) -eq 0 ] || { [ $((mode & 01000)) -ne 0 ] && [ -O "./$base" ] && [ ! -L "./$base" ]; }; then
      exec chmod -- "$2" "./$base"
    fi ;;
esac
if [ -r "./$base" ] && { [ -f "./$base" ] || [ -d "./$base" ]; }; then
  exec 4<"./$base" || exit 1
else
  # It can be given a second name, in a directory of the user's alone.
  [ -O "./$base" ] && [ ! -d "./$base" ] && [ ! -L "./$base" ] && [ -w . ] ||
    refuse "$1 cannot be held open, and lies where others may write"
  hidden= inside=
  clear_up() {
    [ -z "$inside" ] || rm -f -- ./held
    [ -z "$hidden" ] || rmdir -- "./$hidden" 2>/dev/null || rmdir -- "../$hidden"
  }
  home=$(env pwd -P && printf x) || exit 1
  home=${home%
x}
  hidden=$(umask 077; mktemp -d -- .hpcgate-XXXXXXXX) || exit 1
  enter "${home%/}/$hidden"
  [ -O . ] && [ $((0$(stat -c %a .) & 077)) -eq 0 ] && [ -z "$(ls -A)" ] || refuse "$1 MOVED"
  inside=yes
  ln -P -- "../$base" ./held || exit 1
  if [ -L ./held ] || [ ! -O ./held ]; then refuse "$1 MOVED"; fi
  chmod -- "$2" ./held
  exit
fi
[ "$(stat -c %d:%i -- "./$base")" = "$(stat -L -c %d:%i /dev/fd/4)" ] || refuse "$1 MOVED"
exec chmod -- "$2" /dev/fd/4
"""
).replace("MOVED", MOVED)
# What chown(1) is not to follow it does not.
CHOWN = (
    ENTER
    + """\
settle "$1"
case $1 in
  */) if [ -e "./$base" ] && [ ! -d "./$base" ]; then
    echo "chown: cannot access './$base': Not a directory" >&2
    exit 1
  fi ;;
esac
exec chown -h -- "$2" "./$base"
"""
)

_FAILS = {
    "mkdir": "mkdir: cannot create directory \u2018{}\u2019",
    "ln": "ln: failed to create symbolic link {!q}",
    "mv": "mv: cannot move {!q}",
    "rm": "rm: cannot remove {!q}",
    "chmod": "chmod: cannot access {!q}",
    "chown": "chown: cannot access {!q}",
}
_BARE = re.compile(r"(['\"\u2018])(\./|/proc/self/fd/5/)")


async def stand_and(
    runner: Runner,
    script: str,
    tool: str,
    path: bytes,
    *words: bytes | str,
    otherwise: type[GatewayError] = CommandFailed,
) -> None:
    """Run one of the scripts.

    Args:
        runner: Runs it.
        script: The script.
        tool: What it runs at its end, in whose words it fails.
        path: What is changed, for messages; what is moved.
        words: The script's arguments.
        otherwise: The class of an error that is not an errno value.

    Raises:
        PermissionDenied: A link on the way is not followed, or the user may not.
        GatewayError: As the tool says.
    """
    done = await runner.run(["sh", "-c", script, tool, *words])
    if not done.ok:
        raise untrusted(done.stderr) or _told(done, tool, path, otherwise)


def _told(done: Completed, tool: str, path: bytes, otherwise: type[GatewayError]) -> GatewayError:
    lines = done.stderr.decode("utf-8", "surrogateescape").splitlines()
    own = [line for line in lines if line.startswith(f"{tool}: ")]
    if not own and (number := number_in(line for line in lines if line.startswith("stat: "))) is not None:
        # What failed was the way there.
        shown = quote(path)
        template = _FAILS[tool]
        return failure(template.replace("{!q}", shown).replace("{}", shown[1:-1]), number)
    directory = quote(parent(path))[1:-1].rstrip("/")
    text = "\n".join(lines).replace("'/dev/fd/4'", quote(path))
    text = _BARE.sub(lambda match: f"{match[1]}{directory}/", text)
    return error_from_stderr(text.encode("utf-8", "surrogateescape"), tool, otherwise=otherwise)
