"""Transfer jobs of users whom the policy restricts to some paths: checked where and when the job runs."""

from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied
from hpcgate.filesystem.beneath import PROGRAM, WHAT, request
from hpcgate.transfers.base import Script


def confined(script: Script, grant: Grant) -> Script:
    """Return the script of a transfer job as it runs under a rule: it is checked where it happens, on the node.

    Raises:
        Denied: What it does is not known here.
    """
    if grant.paths is None:
        return script
    operation = _OPERATIONS.get(script.name)
    if operation is None:
        raise Denied(grant.rule, f"what {script.name} does is not checked")
    do, tool, done = operation
    values = script.values
    source, target = script.paths["source"], script.paths.get("target")
    asked = request(
        grant,
        do,
        f"{tool}: {source.text}",
        path=source,
        target=target,
        dereference=bool(values.get("follow")),
        compression=_COMPRESSIONS[values.get("option", "")],
        pattern=values.get("pattern") or None,
    )
    body = _JOB.replace("{what}", WHAT).replace("{program}", PROGRAM.decode()).replace("{done}", done)
    return Script(script.name, {"request": asked}, body)


_COMPRESSIONS = {"": "none", "-z": "gzip", "-j": "bzip2", "-J": "xz"}
_OPERATIONS = {
    "transfer-mv": ("move", "mv", "Files were successfully moved."),
    "transfer-cp": ("copy", "cp", "Files were successfully copied."),
    "transfer-rm": ("remove", "rm", "Files were successfully removed."),
    "transfer-compress": ("compress", "tar", "Files were successfully compressed."),
    "transfer-extract": ("extract", "tar", "Files were successfully extracted."),
}
"""By the name of a transfer job: the program's operation, in whose words it fails, and what clients look for."""

_JOB = """\
python=
for p in /usr/bin/python3 /usr/libexec/platform-python python3; do
  if command -v "$p" >/dev/null 2>&1 && "$p" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 6))'; then
    python=$p
    break
  fi
done
[ -n "$python" ] || fail "hpcgate: this node lacks {what}" 127
"$python" -I -S /dev/fd/3 -- "$request" </dev/null 3<<'END_OF_PROGRAM' || exit
{program}END_OF_PROGRAM
echo '{done}'
"""
