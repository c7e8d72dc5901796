"""The options of sbatch that a script may hold where its user may reach some paths only.

https://slurm.schedmd.com/sbatch.html; options that name files, go to other clusters or run programs are left out.
"""

from hpcgate.schedulers.directives import Directives

OPTIONS = Directives(
    mark="SBATCH",
    naming="job-name",
    short={
        "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
        "d": "dependency", "e": "error", "G": "gpus", "H": "hold", "i": "input", "J": "job-name", "k": "no-kill",
        "L": "licenses", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit",
        "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "S": "core-spec", "s": "oversubscribe",
        "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
    },
    flags=frozenset(
        {
            "contiguous", "exclusive", "hold", "no-kill", "no-requeue", "overcommit", "parsable",
            "oversubscribe", "quiet", "requeue", "spread-job", "use-min-nodes", "verbose",
        }
    ),
    harmless=frozenset(
        {
            "account", "array", "begin", "comment", "constraint", "core-spec", "cores-per-socket",
            "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline", "delay-boot", "dependency", "distribution",
            "exclude", "export", "extra-node-info", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node",
            "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "job-name", "licenses", "mail-type",
            "mail-user", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "nodelist",
            "nodes", "ntasks", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket",
            "open-mode", "partition", "power", "prefer", "priority", "profile", "qos", "reservation", "signal",
            "sockets-per-node", "switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp",
            "tres-bind", "tres-per-task", "wait-all-nodes", "wckey",
        }
    ),
    streams=frozenset({"error", "input", "output"}),
    directories=frozenset({"chdir"}),
    words=frozenset({"hetjob", "packjob"}),
    # With a slash it is a file that sbatch reads the names of nodes from, and shows what it does not know.
    forbidden={"nodelist": "/", "exclude": "/"},
    # By those that begin with an underscore plug-ins get their options (spank(7)).
    guides=("SBATCH_", "SLURM_", "_SLURM_", "SALLOC_", "SRUN_", "PBS_"),
)  # fmt: skip
