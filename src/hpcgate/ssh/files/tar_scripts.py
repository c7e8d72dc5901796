"""How our shell scripts make tar archives, on the login node and in jobs alike."""

PACK = """\
verbatim=--verbatim-files-from
if ! tar "$verbatim" --version >/dev/null 2>&1; then
  verbatim=
  case $name in -*) name=./$name ;; esac
fi
pack() {
  said=$(tar -c $option $follow --force-local -f - --no-wildcards --no-anchored --exclude="$hidden" \\
    --anchored --exclude="$member" --no-unquote --null $verbatim "$@" -T - 2>&1 >&4)
  status=$?
  [ -z "$said" ] || printf '%s\\n' "$said" >&2
  case $status-$said in 0-*) ;; 1-*': File shrank by '*) return 2 ;; 1-*) ;; *) return "$status" ;; esac
}
"""
"""``pack OPTION...`` packs the names that it reads, each ended by a NUL, into the archive at descriptor 4.

It expects in ``name`` what is packed, in ``option`` how it is compressed, in ``follow`` whether links are followed, in
``hidden`` and ``member`` what of the new archive and of the old one in its place must not become a member.

Names reach tar by --null and --verbatim-files-from, as on its command line it takes a backslash for an escape; before
1.29 it has only --no-unquote for that, and may take a name that begins with a dash for an option. tar's status 1 says
that a file changed while it was read: no failure, and its words are passed on, unless the file became shorter, for then
tar fills it up with zeros.
"""
