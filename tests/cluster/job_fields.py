"""The fields of a job, with what the real Slurm then knows of it (``scontrol show job``)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from tests.people import Person

SCRIPT = "#!/bin/bash\n#SBATCH --hold\nexec sleep 600\n"
BEGIN = 4000000000
"""Unix seconds: in 2096."""


@dataclass(frozen=True)
class Row:
    """A request's fields and what comes of them.

    Attributes:
        name: Of the test.
        asked: The fields.
        shown: What scontrol shows, by its names, as regular expressions.
        lines: Directives in the script, which the fields outweigh.
        refused: Status and words, for what this cluster refuses.
    """

    name: str
    asked: dict[str, Any]
    shown: dict[str, str] = field(default_factory=dict)
    lines: str = ""
    refused: tuple[int, str] | None = None


def row(name: str, asked: dict[str, Any], lines: str = "", **shown: str) -> Row:
    return Row(name, asked, shown, lines)


ROWS = (
    row("nodes", {"resources": {"nodeCount": 2}}, "--nodes=1", NumNodes="2(-2)?"),
    row("processes", {"resources": {"processCount": 3}}, "--ntasks=1", NumTasks="3", NumCPUs="3"),
    row(
        "processes of nodes",
        {"resources": {"nodeCount": 2, "processesPerNode": 2}},
        NumNodes="2(-2)?",
        NumTasks="4",
    ),
    row("cpus", {"resources": {"processCount": 2, "cpuCoresPerProcess": 2}}, NumCPUs="4", **{"CPUs/Task": "2"}),
    row("memory", {"resources": {"memory": "100M"}}, "--mem=50M", MinMemoryNode="100M"),
    row("memory in bytes", {"resources": {"memory": 100 * 1024**2}}, MinMemoryNode="100M"),
    row("duration", {"duration": "PT1H30M"}, "--time=5", TimeLimit="01:30:00"),
    row("seconds", {"duration": 600}, "--time=5", TimeLimit="00:10:00"),
    row("queue", {"queueName": "debug"}, "--partition=normal", Partition="debug"),
    row("qos", {"qos": "normal"}, "--qos=single", QOS="normal"),
    row("array", {"array": "0-9:3%2"}, "--array=1", ArrayTaskId="0,3,6,9%2|0-9:3%2", ArrayTaskThrottle="2"),
    row("hold", {"hold": True}, JobState="PENDING", Priority="0"),
    row("begin", {"begin": BEGIN}, "--begin=now+1hour", StartTime="2096-.*"),
    row("requeue", {"requeue": True}, "--no-requeue", Requeue="1"),
    row("no requeue", {"requeue": False}, "--requeue", Requeue="0"),
    row("comment", {"extra": {"slurm": {"comment": "mine"}}}, "--comment=other", Comment="mine"),
    # FirecREST's own.
    row("name", {"name": "mine"}, "--job-name=other", JobName="mine"),
    row("account", {"account": "extra"}, "--account=demo", Account="extra"),
    row("partition", {"partition": "debug"}, "--partition=normal", Partition="debug"),
    row("constraints", {"constraints": "large"}, "--constraint=fast", Features="large"),
    row("output", {"standardOutput": "/tmp/mine.out"}, "--output=other.out", StdOut="/tmp/mine.out"),
    row("own option", {"extra": {"slurm": {"nice": 17}}}, "--nice=3", Nice="17"),
    row(
        "gpus",
        {"resources": {"processCount": 2, "gpuCoresPerProcess": 1}},
        "--gpus-per-task=2",
        TresPerTask=".*gres[:/]gpu[:=]1",
    ),
    row("exclusive", {"resources": {"exclusiveNodeUse": True}}, OverSubscribe="NO|EXCLUSIVE"),
    row("mail", {"mail": {"events": ["end", "fail"]}}, MailType="END,FAIL"),
    # sbatch itself adds them up.
    row("mail of both", {"mail": {"events": ["end"]}}, "--mail-type=BEGIN", MailType="BEGIN,END"),
    row(
        "mail to",
        {"mail": {"events": ["begin"], "address": "alice@example.org"}},
        "--mail-user=root",
        MailType="BEGIN",
        MailUser="alice@example.org",
    ),
)
"""Each with a held script beside it."""


def shown(person: Person, job_id: str) -> dict[str, str]:
    text = person.cluster.slurm.run(["scontrol", "-o", "show", "job", job_id]).splitlines()[0]
    return dict(re.findall(r"(?:^| )([A-Za-z/:]+)=(\S*)", text))


def check(person: Person, system: str, row: Row) -> dict[str, Any]:
    """Submit a row's job and hold the scheduler's own words against it."""
    script = SCRIPT.replace("exec", f"#SBATCH {row.lines}\nexec") if row.lines else SCRIPT
    job = {"workingDirectory": str(person.user.home), "script": script, **row.asked}
    answer = person.http.post(f"/compute/{system}/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    known = shown(person, found["jobId"])
    wrong = {name: known.get(name) for name, value in row.shown.items() if not re.fullmatch(value, known.get(name, ""))}
    assert wrong == {}, known
    return found


def dependency(person: Person, system: str) -> None:
    """A job that waits for others waits."""
    home = str(person.user.home)
    first = check(person, system, row("first", {}))["jobId"]
    asked = [{"type": "afterok", "jobIds": [first]}, {"type": "afterany", "jobIds": [first]}]
    job = {"workingDirectory": home, "script": SCRIPT.replace("#SBATCH --hold\n", ""), "dependencies": asked}
    answer = person.http.post(f"/compute/{system}/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    known = shown(person, answer.json()["jobId"])["Dependency"]
    assert re.fullmatch(rf"afterok:{first}\S*,afterany:{first}\S*", known), known


def largest(person: Person, system: str) -> None:
    """What is just within the limits is taken: a script of a megabyte, a variable and an array as large as they get."""
    value = "x" * (LONGEST_VALUE - len("LONG=\0"))
    script = f"#!/bin/bash\n#SBATCH --hold\n#{'x' * 1024**2}\ntrue\n"
    check(person, system, row("large", {"script": script, "env": {"LONG": value}, "array": "0-1000%1"}))


def program(person: Person, system: str, launcher: str) -> None:
    """A program runs with its arguments as they are, between what comes before and after it."""
    home = str(person.user.home)
    words = ["%s|", "a b", "it's", '"$(id)"', "`id`", "two\nlines", "#SBATCH --output=/nowhere", "", "é"]
    for name, text in (("pre.sh", "export BEFORE=yes\n"), ("post.sh", "echo after $BEFORE $_hpcgate_status\n")):
        person.cluster.as_user(person.user, ["tee", f"{home}/{name}"], input=text)
    out = f"{home}/program-{system}-{launcher}.txt"
    job = {
        "workingDirectory": home,
        "executable": "printf",
        "arguments": words,
        "launcher": launcher,
        "preLaunch": f"{home}/pre.sh",
        "postLaunch": f"{home}/post.sh",
        "standardOutput": out,
        "resources": {"processCount": 1, "cpuCoresPerProcess": 1},
    }
    if launcher == "mpirun":
        # There is no MPI here: what is called so starts one process, and says that it was asked.
        tool = f"{home}/bin/mpirun"
        person.run("mkdir", "-p", f"{home}/bin")
        person.cluster.as_user(person.user, ["tee", tool], input='#!/bin/sh\necho "$#" >"$0.asked"\nexec "$@"\n')
        person.run("chmod", "755", tool)
        job["env"] = {"PATH": f"{home}/bin:/usr/bin:/bin"}
    answer = person.http.post(f"/compute/{system}/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    deadline = time.monotonic() + 300
    while "after" not in (said := person.run("sh", "-c", f"cat {out} 2>/dev/null || true")):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    assert said == "".join(f"{word}|" for word in words[1:]) + "after yes 0\n"
    assert launcher != "mpirun" or person.run("cat", f"{tool}.asked").strip() == str(len(words) + 1)


UNKNOWN = "99999999"
"""A job that there is not."""
LONGEST_VALUE = 128 * 1024
"""Bytes of a variable with its name, an equals sign and a NUL: execve(2), MAX_ARG_STRLEN."""

REFUSED = (
    ({"extra": {"slurm": {"gres": "fpga:1"}}}, 400, "generic resource|parsing"),
    # Each limit by the name of its field.
    ({"array": "1-99999999"}, 400, "^array"),
    ({"array": "0-1001"}, 400, "^array"),
    ({"array": "1-x"}, 400, "job.array"),
    ({"array": "1-3:0"}, 400, "job.array"),
    ({"script": f"#!/bin/sh\n#{'x' * (4 * 1024**2)}\n"}, 400, "^script"),
    ({"env": {"LONG": "x" * (LONGEST_VALUE - len("LONG=\0") + 1)}}, 400, "^env: LONG is too long"),
    ({"env": {"A B": "x"}}, 400, "^env: .*A B"),
    ({"env": ["NOTHING"]}, 400, "env"),
    ({"dependencies": [{"type": "afterok", "jobIds": [UNKNOWN]}]}, 400, f"^dependencies: .* {UNKNOWN}"),
    ({"dependencies": [{"type": "afterok", "jobIds": ["no-id"]}]}, 400, "^dependencies: .*no-id"),
    ({"dependencies": [{"type": "afterok", "jobIds": ["1,singleton"]}]}, 400, "^dependencies: .*1,singleton"),
    ({"dependencies": [{"type": "afterok", "jobIds": ["x"] * 1001}]}, 400, "jobIds"),
    ({"dependencies": [{"type": "singleton", "jobIds": ["1"]}]}, 400, "job.dependencies"),
    ({"duration": 10**12}, 400, "duration"),
    ({"begin": "tomorrow"}, 400, "begin"),
    ({"resources": {"nodeCount": 0}}, 400, "nodeCount"),
    ({"resources": {"memory": "much"}}, 400, "memory"),
    ({"mail": {"events": ["never"]}}, 400, "events"),
    ({"name": "x" * 5000}, 400, "name"),
    ({"dependencies": [{"type": "afterok", "jobIds": ["1_[1-3]"]}]}, 400, "dependencies"),
    ({"resources": {"memory": "1G"}, "script": "#!/bin/sh\n#SBATCH --mem-per-cpu=1\n"}, 400, "mutually exclusive"),
    ({"qos": "nosuch"}, 400, "qos"),
    ({"extra": {"pbs": {"W": "umask=022"}}}, 501, "extra.pbs"),
    ({"extra": {"slurm": {"wrap": "id"}}}, 400, "extra.slurm.wrap"),
    ({"extra": {"slurm": {"wra": "id"}}}, 400, "extra.slurm.wra"),
    ({"extra": {"slurm": {"time": 1}}, "duration": 60}, 400, "duration"),
    ({"extra": {"slurm": {"licenses": True}}}, 400, "extra.slurm.licenses"),
    ({"launcher": "srun"}, 400, "launcher"),
    ({"queueName": "debug", "partition": "normal"}, 400, "queueName"),
)
"""What is refused, by its name or in Slurm's own words."""


def refused(person: Person, system: str, asked: dict[str, Any], status: int, words: str) -> None:
    job = {"workingDirectory": str(person.user.home), "script": SCRIPT, **asked}
    answer = person.http.post(f"/compute/{system}/jobs", json={"job": job})
    assert answer.status_code == status, answer.text
    body = answer.json()
    named = [one["name"] for one in (body["data"] or {}).get("fields", ())]
    assert re.search(words, "\n".join([body["message"], *named]), re.IGNORECASE), answer.text


def dry_run(person: Person, system: str, *, tested: bool) -> None:
    """A dry run tells what would become of a job, and leaves none."""
    home = str(person.user.home)
    name = f"dry-{system}"
    job = {"workingDirectory": home, "name": name, "executable": "true", "queueName": "debug", "duration": 60}
    answer = person.http.post(f"/compute/{system}/jobs", params={"dryRun": "true"}, json={"job": job})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["script"] == "#!/bin/bash\nset +e\nexec true\n"
    assert said["policy"] == {"allowed": True, "rule": "default", "reason": None}
    assert any("debug" in option for option in said["options"]), said
    assert said["tested"] is tested
    if tested:
        assert (said["partition"], said["processors"]) == ("debug", 1)
        assert abs(said["start"] - time.time()) < 86400
        assert said["nodes"]
        answer = person.http.post(
            f"/compute/{system}/jobs", params={"dryRun": "true"}, json={"job": job | {"resources": {"nodeCount": 99}}}
        )
        assert answer.status_code == 400, answer.text
    assert person.cluster.slurm.run(["squeue", "-h", "-a", "-t", "all", "-n", name]) == ""
