"""What resumable uploads do by shell scripts on the login node."""

from hpcgate.ssh.files.command_scripts import ADOPT
from hpcgate.ssh.files.footing import OWN

# $1 the directory, $2 minutes. Uploads that have rested for too long, and those without content, which a process left
# that ended between two steps. Earlier versions kept an upload in files of that name, not in a directory.
SWEEP = (
    OWN
    + """\
follow "$1"; enter "$real"
for d in .hpcgate-upload-????????????????????????????????; do
  [ -d "$d" ] && [ ! -L "$d" ] && [ -O "$d" ] || continue
  if [ -f "$d/.hpcgate-content" ]; then old=$(find "$d/.hpcgate-content" -mmin "+$2")
  else old=$(find "$d" -prune -mmin +60)
  fi
  if [ -n "$old" ]; then ( own . "$d"; rm -f -- ./.hpcgate-* ) && rmdir -- "$d"; fi
done 2>/dev/null
find . -maxdepth 1 -type f -user "$(id -u)" -name '.hpcgate-upload-*' -mmin "+$2" -exec rm -f -- {} + 2>/dev/null
exit 0
"""
)
# $1 whether it is for nobody else to read yet, $2 the new file, then the parts, each as the directory and the name of a
# directory in it; what the disk does not take is not left there.
JOIN = (
    OWN
    + """\
[ -z "$1" ] || umask 077
new=$2
shift 2
parts() {
  while [ $# -gt 0 ]; do
    ( own "$1" "$2"; exec cat -- ./.hpcgate-content ) || return
    shift 2
  done
}
set -C
parts "$@" >"$new" && sync -- "$new" || { rm -f -- "$new"; exit 1; }
"""
)

ADOPT_NEW = f'{ADOPT}adopt "$@"'
