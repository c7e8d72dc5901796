"""How a tree that is whole becomes part of a directory that others may write, too.

tar and cp walk the directories below their target by name: whoever may write in one of those can put a link in the way,
and have a member written elsewhere. So a tree takes shape in a directory of the user's alone, and each directory that
is there already is entered, seen to be the right one (`hpcgate.ssh.files.footing.ENTER`), and moved into by bare
names, which rename(2) does not follow.
"""

MERGE = """\
unpacked=
merge() {
  at=$1
  heirs
  set --
  for f in /proc/self/fd/5/* /proc/self/fd/5/.[!.]* /proc/self/fd/5/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    n=${f##*/}
    if [ ! -d "$f" ] || [ -L "$f" ]; then
      set -- "$@" "$f"
    elif [ -e "./$n" ] || [ -L "./$n" ]; then
      (descend "$n" "$n") || return
    elif [ -r "$f" ] && [ -w "$f" ] && [ -x "$f" ]; then
      set -- "$@" "$f"
    else
      # To give a directory another parent is to write in it.
      m=$(stat -c '0%a' -- "$f") && chmod u+rwx -- "$f" || return
      letters $((m >> 6))
      ( exec 6<"$f" && endow "$f" && mv -f -t . -- "$f" && chmod "u=$l" /dev/fd/6 ) || return
    fi
    if [ $# -gt 100 ]; then
      endow "$@" && mv -f -t . -- "$@" || return
      set --
    fi
  done
  [ $# -eq 0 ] || { endow "$@" && mv -f -t . -- "$@"; }
}
descend() {
  if [ -L "./$2" ] || [ ! -d "./$2" ]; then
    printf '%s\\n' "${at%/}/$2: Not a directory" >&2
    exit 1
  fi
  above=$(stat -c '0%a %u' .) || exit 1
  new=/proc/self/fd/5/$1
  kept=$(stat -c '0%a %.9X %.9Y' -- "$new") && chmod u+rwx -- "$new" && exec 5<"$new" || exit 1
  # Busybox knows whole seconds only.
  case ${kept#* } in *[!0-9.\\ ]*) kept=$(stat -L -c '0%a %X %Y' /dev/fd/5) ;; esac
  at=${at%/}/$2
  enter "$at"
  (merge "$at") || exit 1
  # Others may have put another directory of the user's here, whose mode is not for the tree to say.
  if [ -z "$unpacked" ] && [ $((${above% *} & 022)) -eq 0 ] && [ -O . ]; then
    case ${above#* } in
      0 | "$(id -u)")
        set -- $kept
        touch -a -d "@$2" . && touch -m -d "@$3" . && chmod "$1" .
        ;;
    esac
  fi
}
letters() {
  l=
  [ $(($1 & 4)) -eq 0 ] || l=r
  [ $(($1 & 2)) -eq 0 ] || l=${l}w
  [ $(($1 & 1)) -eq 0 ] || l=${l}x
}
heirs() {
  group= list= lists=
  [ -n "$unpacked" ] || return 0
  if [ -g . ]; then
    group=$(stat -c %g .) bit=g+s
    [ ! -g /dev/fd/5 ] || [ "$group" != "$(stat -L -c %g /dev/fd/5)" ] || group=
  elif [ -g /dev/fd/5 ]; then
    group=$(id -g) bit=g-s
  fi
  list=$(getfacl -cEdn . 2>/dev/null)
  [ "$list" = "$(getfacl -cEdn /dev/fd/5/. 2>/dev/null)" ] || lists=yes
}
endow() {
  if [ -n "$group" ]; then
    if find "$@" -exec chgrp -h -- "$group" {} + 2>/dev/null; then
      find "$@" -type d -exec chmod "$bit" {} + || return
    else
      find "$@" ! -type l -exec chmod g=o {} + || return
    fi
  fi
  [ -n "$lists" ] || return 0
  named= cut=
  if [ -n "$list" ]; then
    named=$(printf '%s\\n' "$list" | sed '/^user::/d; /^other::/d; /^mask::/d' | tr '\\n' ,)
    others=$(printf '%s\\n' "$list" | sed -n 's/^other:://p')
    most=$(printf '%s\\n' "$list" | sed -n 's/^mask:://p')
    : "${most:=$(printf '%s\\n' "$list" | sed -n 's/^group:://p')}"
    for right in r w x; do
      case $others in *$right*) ;; *) cut=$cut,o-$right ;; esac
      case $most in *$right*) ;; *) cut=$cut,g-$right ;; esac
    done
    [ -z "$cut" ] || find "$@" ! -type l -exec chmod "${cut#,}" {} + || return
  fi
  for rights in 0 1 2 3 4 5 6 7; do
    like=
    for b in 4 2 1; do
      if [ $((rights & b)) -eq 0 ]; then like="$like !"; fi
      like="$like -perm -0${b}0"
    done
    letters $rights
    find "$@" ! -type l $like -exec setfacl -bk -- {} + -exec chmod "g=$l" {} + || return
    case $list in
      *mask::*) ;;
      *) continue ;;
    esac
    find "$@" ! -type l $like -exec setfacl -n -m "${named}mask::${l:--}" -- {} + || return
  done
  [ -z "$list" ] ||
    find "$@" -type d -exec setfacl -d -m "$(printf '%s\\n' "$list" | tr '\\n' ,)" -- {} +
}
"""
"""``merge DIRECTORY``, with `hpcgate.ssh.files.footing.ENTER`: moves all that is in the directory of descriptor 5 into
the one that the shell stands in, whose real path it is given. Directories become one, and a file or link replaces one.
``descend NAME OTHER`` does so with a directory in the one and another in the other, and is for a shell of its own; `at`
must be where that stands. An existing directory gets mode and times of the new one unless somebody else could have put
it there.

With `unpacked` set, the tree is an archive's, which was unpacked elsewhere: what is new gets group and access control
list as if it had been made where it comes to lie (setgid directories, inode(7); default lists, acl(5)), and existing
directories stay as they are: an archive need not name the directories of its members, and their mode is then nobody's
word. Where the user is not in the group, the file's own group gets no more than all others. The rights of the group are
the mask of a list, hence eight kinds of files.
"""
