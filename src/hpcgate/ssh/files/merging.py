"""How a tree that is whole becomes part of a directory that others may write, too.

tar and cp walk the directories below their target by name: whoever may write in one of those can put a link in the way,
and have a member written elsewhere. So a tree takes shape in a directory of the user's alone, and each directory that
is there already is entered, seen to be the right one (`hpcgate.ssh.files.footing.ENTER`), and moved into by bare
names, which rename(2) does not follow.
"""

MERGE = """\
merge() {
  at=$1
  set --
  for f in /proc/self/fd/5/* /proc/self/fd/5/.[!.]* /proc/self/fd/5/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    n=${f##*/}
    if [ ! -d "$f" ] || [ -L "$f" ]; then
      set -- "$@" "$f"
    elif [ -e "./$n" ] || [ -L "./$n" ]; then
      (descend "$n" "$n") || return
    elif [ -w "$f" ]; then
      set -- "$@" "$f"
    else
      # To give a directory another parent is to write in it.
      ( exec 6<"$f" && m=$(stat -L -c '0%a' /dev/fd/6) && chmod u+w /dev/fd/6 && mv -f -t . -- "$f" &&
        chmod "$m" /dev/fd/6 ) || return
    fi
    if [ $# -gt 100 ]; then
      mv -f -t . -- "$@" || return
      set --
    fi
  done
  [ $# -eq 0 ] || mv -f -t . -- "$@"
}
descend() {
  if [ -L "./$2" ] || [ ! -d "./$2" ]; then
    printf '%s\\n' "${at%/}/$2: Not a directory" >&2
    exit 1
  fi
  above=$(stat -c '0%a %u' .) || exit 1
  exec 5<"/proc/self/fd/5/$1" || exit 1
  kept=$(stat -L -c '0%a %.9X %.9Y' /dev/fd/5) && chmod u+rwx /dev/fd/5 || exit 1
  # Busybox knows whole seconds only.
  case ${kept#* } in *[!0-9.\\ ]*) kept=$(stat -L -c '0%a %X %Y' /dev/fd/5) ;; esac
  at=${at%/}/$2
  enter "$at"
  (merge "$at") || exit 1
  # Others may have put another directory of the user's here, whose mode is not for the tree to say.
  if [ $((${above% *} & 022)) -eq 0 ] && [ -O . ]; then
    case ${above#* } in
      0 | "$(id -u)")
        set -- $kept
        touch -a -d "@$2" . && touch -m -d "@$3" . && chmod "$1" .
        ;;
    esac
  fi
}
"""
"""``merge DIRECTORY``, with `hpcgate.ssh.files.footing.ENTER`: moves all that is in the directory of descriptor 5 into
the one that the shell stands in, whose real path it is given. Directories become one, and a file or link replaces one.
``descend NAME OTHER`` does so with a directory in the one and another in the other, and is for a shell of its own; `at`
must be where that stands. An existing directory gets mode and times of the new one unless somebody else could have put
it there.
"""
