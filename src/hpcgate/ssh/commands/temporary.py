"""Where our shell scripts put what they need for a moment and cannot do without a name for.

TMPDIR is the user's own choice, and some have it in a directory of their project's. Where others may write, and no
sticky bit keeps them from renaming what is not theirs, they could put another script in the place of the one that is
about to be submitted or run.
"""

SAFE = (
    "_hpcgate_safe() { "
    'set -- "$1" $(ls -Lldn -- "$1/." 2>/dev/null); '
    "case $2 in (d????-??-?* | d????????[tT]*) ;; (*) return 1 ;; esac; "
    '[ "$4" = 0 ] || [ -O "$1/." ]; }; '
    '_hpcgate_temporary() { if _hpcgate_safe "${TMPDIR:-/tmp}"; then printf %s "${TMPDIR:-/tmp}"; '
    "else printf %s ~; fi; }; "
)
"""``_hpcgate_temporary`` prints a directory in which nobody but the user and root can rename what the user makes there:
TMPDIR or /tmp, or else the home directory (POSIX sh, on one line). What leads to TMPDIR is the user's choice, too."""
