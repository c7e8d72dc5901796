"""How our shell scripts clear up, whatever ends them and whatever comes meanwhile.

A shell runs the EXIT trap like any other commands: a signal may come before the first of them, and the ``exit`` in that
signal's trap ends the EXIT trap too. The same holds for a second signal. So each trap first sees to it that nothing can
interrupt it, and each of them does the whole: one that comes before another one has got so far clears up in its place.
Children inherit that: what clears up is deaf to signals as well.
"""

_END = """\
clear_up() { :; }
end() {
  trap '' HUP INT TERM
  trap - EXIT
  clear_up
  exit "$1"
}
trap 'end "$?"' EXIT
"""

ENDING = (
    _END
    + """\
trap 'end 129' HUP
trap 'end 130' INT
trap 'end 143' TERM
"""
)
"""Runs ``clear_up``, which scripts define, once, however the script ends (POSIX sh).

``clear_up`` must expect anything to be missing that the script has not made yet.
"""

CUT_OFF = (
    _END
    + """\
cut_off() {
  trap '' HUP INT TERM
  trap - EXIT
  [ -z "$!" ] || kill -9 "$!" 2>/dev/null
  clear_up
  kill -9 0
}
trap cut_off HUP INT TERM
"""
)
"""As `ENDING`, for commands that have a process group to themselves: on a signal nothing of it stays behind.

What takes its time is to run in the background and be waited for, as a shell takes no notice of a signal while a
command runs in the foreground. The last that was started so is killed first, lest it write while its files are removed.
"""


def ending_line(clear_up: str, interrupted: str = "") -> str:
    """Return `ENDING` on one line, with names that no user exports, for scripts that become the user's own command.

    Args:
        clear_up: The commands that clear up.
        interrupted: The commands that a signal has run before.
    """
    return (
        f"_hpcgate_end() {{ trap '' HUP INT TERM; trap - EXIT; {clear_up}; exit \"$1\"; }}; "
        "trap '_hpcgate_end \"$?\"' EXIT; "
        f"trap 'trap \"\" HUP INT TERM; {interrupted}{'; ' if interrupted else ''}_hpcgate_end 1' HUP INT TERM; "
    )
