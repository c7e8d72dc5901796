"""How jobs end: ``Exit_status``.

0 to 255 is the status of the script, where the shell itself reports a signal as 128 and its number; 256 and above is
256 and the number of the signal that ended the job (271 is SIGTERM: deleted while it ran); a negative one is PBS's own
reason. OpenPBS 23.06 Administrator's Guide, "Job exit status"; the names are those of its pbs_error.h.
"""

from collections.abc import Mapping

SIGNALLED = 256

REASONS: Mapping[int, str] = {
    -1: "JOB_EXEC_FAIL1: the job could not be started",
    -2: "JOB_EXEC_FAIL2: the job could not be started",
    -3: "JOB_EXEC_RETRY: the job is to be started again",
    -4: "JOB_EXEC_INITABT: aborted when the node was initialised",
    -5: "JOB_EXEC_INITRST: aborted when the node was initialised",
    -6: "JOB_EXEC_INITRMG: aborted when the node was initialised",
    -7: "JOB_EXEC_BADRESRT: the restart failed",
    -10: "JOB_EXEC_FAILUID: no such user on the node",
    -11: "JOB_EXEC_RERUN: rerun",
    -12: "JOB_EXEC_CHKP: checkpointed and ended",
    -13: "JOB_EXEC_FAIL_PASSWORD: the user's password was refused",
    -17: "JOB_EXEC_FAILHOOK_DELETE: deleted by a hook",
    -19: "JOB_EXEC_HOOK_DELETE: deleted by a hook",
    -24: "JOB_EXEC_KILL_NCPUS_BURST: used more CPUs than asked for",
    -25: "JOB_EXEC_KILL_NCPUS_SUM: used more CPUs than asked for",
    -26: "JOB_EXEC_KILL_VMEM: used more virtual memory than asked for",
    -27: "JOB_EXEC_KILL_MEM: used more memory than asked for",
    -28: "JOB_EXEC_KILL_CPUT: used more CPU time than asked for",
    -29: "JOB_EXEC_KILL_WALLTIME: ran longer than asked for",
}


def interrupt_signal(status: int | None) -> int | None:
    """Return the number of the signal that ended the job, 0 for none, None if it is not known.

    >>> interrupt_signal(271)
    15
    """
    if status is None or status < 0:
        return None
    return status - SIGNALLED if status > SIGNALLED else 0
