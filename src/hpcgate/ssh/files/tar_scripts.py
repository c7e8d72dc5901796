"""How our shell scripts make tar archives and look at them, on the login node and in jobs alike."""

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

CAME = """\
came() {
  [ -z "$(ls -A ./new)" ] || return 0
  case $2 in
    -z) with='gzip -dc' ;;
    -j) with='bzip2 -dc' ;;
    -J) with='xz -dc' ;;
    *) with=cat ;;
  esac
  [ "$($with <"$1" 2>/dev/null | head -c 512 | wc -c)" -eq 512 ] && return
  echo 'tar: This does not look like a tar archive' >&2
  return 2
}
"""
"""``came ARCHIVE OPTION`` says, where nothing of an archive is in ``./new``, that it is none, unless it is empty.

One that is empty begins with a block of zeros. tar takes less than a block from a compressor for an empty archive, and
gzip unpacks the first member of a zip archive, which often is a directory and has no content.
"""
