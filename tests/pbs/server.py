#!/usr/bin/python3 -IS
"""A stand-in for an OpenPBS server, which cannot be installed where the tests run.

One program under the names of PBS's commands. It answers as two real servers were recorded to answer (see
tests/recordings), the released 23.06.06 with its JSON that is not quite JSON, and the development head; exit statuses
and messages are theirs. Each thing that it says is followed by the label of the recording that it follows, against
which tests/pbs/test_standin.py holds it, or, where nothing was recorded, by the place in the source of OpenPBS 23.06.06
that it is taken from.

Jobs are real: they run as the user who submits them, in a process of their own that ends with the script. State is a
directory that all users may write to, ``PBS_STANDIN``; a file of that name there switches on: ``down`` (the server does
not answer), ``hide`` (jobs of others are hidden), ``master`` (the other release), ``nohistory`` (the server keeps
none), ``slow`` (answers take a minute), ``inexpress`` (qstat has no ``-E``).

Only the system's python3 is needed, and nothing outside its standard library.
"""

import contextlib
import fcntl
import getopt
import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = os.environ.get("PBS_STANDIN", "/nonexistent")
SERVER = "vm"
QUEUES = {
    # enabled, started, longest walltime, who may
    "workq": (True, True, None, None),
    "smallq": (True, True, 300, None),
    "closedq": (False, True, None, None),
    "stoppedq": (True, False, None, None),
    "aclq": (True, True, None, "somebody else"),
    "R231": (True, False, None, None),
}
MAX_ARRAY_SIZE = 10_000
RESOURCES = {"walltime", "ncpus", "mem", "select", "place", "nodes"}
USAGE = "\nusage: qsub [-a date_time] [-A account_string] [-c interval]\n\t[-C directive_prefix] [-e path] [-f ] [-h ]"
NO_HISTORY = "PBS is not configured to maintain job history"
"""pbs_messages.c, msg_jobhistnotset: history is off by default. 23.06.06 and master were seen to say so."""
FINISHED = "Job has finished, use -x or -H to obtain historical job information"
QSTAT_USAGE = "usage: \nqstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format | -w] [-D delim]"
NUMBER = re.compile(r"[+-]?(?:inf|infinity|nan|(?!0\d)(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)


def on(switch):
    return os.path.exists(os.path.join(ROOT, switch))


def leave(status, message=""):
    if message:
        sys.stderr.write(message + "\n")
    sys.stdout.flush()
    os._exit(status) if status < 0 else sys.exit(status)


def me():
    return pwd.getpwuid(os.getuid()).pw_name


def seconds(text):
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


# --- state ------------------------------------------------------------------------------------------------------------


def job_file(number):
    return os.path.join(ROOT, "jobs", f"{number}.json")


def load(number):
    try:
        with open(job_file(number), encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except (FileNotFoundError, PermissionError):
        return None


def save(job):
    path = job_file(job["number"])
    with open(f"{path}.{os.getpid()}", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(job, file)
    os.chmod(f"{path}.{os.getpid()}", 0o644)
    os.rename(f"{path}.{os.getpid()}", path)


class Locked:
    """Holds a job, or the server's counter, while it is changed."""

    def __init__(self, name):
        self.path = os.path.join(ROOT, "locks", str(name))

    def __enter__(self):
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(PermissionError):
            os.chmod(self.path, 0o666)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return self.file

    def __exit__(self, *_):
        os.close(self.file)


def next_number():
    with Locked("counter") as file:
        number = int(os.read(file, 32) or b"0")
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, str(number + 1).encode())
    return number


def all_jobs():
    numbers = sorted(int(name[:-5]) for name in os.listdir(os.path.join(ROOT, "jobs")) if name.endswith(".json"))
    found = [load(number) for number in numbers]
    return [job for job in found if job and not (on("hide") and job["owner"] != me())]


# --- qsub -------------------------------------------------------------------------------------------------------------


def qsub(arguments):
    options = "a:A:C:e:fhJ:j:k:l:m:M:N:o:p:P:q:r:S:v:VW:z"
    # qsub.c, process_opts: "the last occurance of an option takes precedence", up to 32 characters of a prefix.
    try:
        given, rest = getopt.getopt(arguments, options)
    except getopt.GetoptError as error:
        leave(2, f"qsub: invalid option -- '{error.opt}'{USAGE}")  # recorded: qsub-err-option2
    if rest:
        leave(1, "qsub: script file:: No such file or directory")  # recorded: qsub-err-file-missing
    script = sys.stdin.buffer.read()
    if on("master") and b"\r\n" in script:
        leave(1, "qsub: script contains cr, lf")  # recorded: qsub-stdin-crlf
    prefix = dict(given).get("-C", "#PBS")[:32]
    written = []
    # A directive that ends in a backslash goes on in the next line: User's Guide, "Using directives".
    for line in script.decode("utf-8", "surrogateescape").replace("\\\n", " ").split("\n"):
        if re.match(rf"\s*{re.escape(prefix)}(\s|$)", line):
            try:
                words = line.strip()[len(prefix) :].strip()
                written += getopt.getopt(shlex.split(words), options)[0]
            except getopt.GetoptError:
                # recorded: qsub-err-directive-option
                leave(1, unknown_options(words, options) + f"qsub: directive error: {words} ")
        elif line.strip() and not line.lstrip().startswith(("#", ":")):
            break
    values, resources = {}, {}
    for option, value in [*written, *given]:
        if option == "-l":
            for item in value.split(",") if not value.startswith("select") else [value]:
                name, _, amount = item.partition("=")
                resources[name] = amount
        values[option] = value
    name = values.get("-N", "STDIN")
    if len(name) > 230:
        leave(2, "qsub: Job name is too long ")  # recorded: qsub-err-name-long
    if not re.fullmatch(r"[A-Za-z0-9+_.-]+", name):
        leave(2, "qsub: illegal -N value" + USAGE)  # recorded: qsub-err-name-slash
    for option in ("-o", "-e"):
        if not re.fullmatch(r"[\x20-\x7e]*", values.get(option, "")):
            leave(2, f"qsub: illegal {option} value{USAGE}")  # recorded: nasty-output é.out
    extra = values.get("-W", "")
    if not re.fullmatch(r"(\d{4}|\d{6}|\d{8}|\d{10}|\d{12})(\.\d\d)?", values.get("-a", "0000")):
        leave(2, "qsub: illegal -a value" + USAGE)  # recorded: qsub-err-date
    if not re.fullmatch(r"(?!depend=).*|depend=(after|afterany|afternotok|afterok)(:[\d.a-z\[\]]+)+.*", extra):
        leave(2, "qsub: illegal -W value" + USAGE)  # recorded: qsub-err-depend-syntax
    if not sendable(values.get("-v", "")):
        leave(1, "qsub: cannot send environment with the job")  # recorded: nasty-env comma-raw
    indices = array_indices(values.get("-J"))
    server_up("qsub", 162)
    if not re.fullmatch(r"(depend|umask|block)=.*|", extra):
        leave(154, "qsub: Error (15002) submitting job")  # recorded: qsub-err-W
    queue = values.get("-q", "workq")
    if queue not in QUEUES:
        leave(170, "qsub: Unknown queue")  # recorded: qsub-err-queue
    enabled, started, longest, only = QUEUES[queue]
    if not enabled:
        leave(173, "qsub: Queue is not enabled")  # recorded: qsub-err-closed-queue
    if only is not None and me() != only:
        leave(159, "qsub: Unauthorized Request ")  # recorded: qsub-err-acl-queue
    for resource, amount in resources.items():
        if resource not in RESOURCES:
            leave(187, f"qsub: Unknown resource Resource_List.{resource}")  # recorded: qsub-err-resource
        if resource == "walltime" and not re.fullmatch(r"[\d:]+", amount):
            # recorded: qsub-err-walltime-syntax
            leave(166, "qsub: Illegal attribute or resource value Resource_List.walltime")
    if longest is not None and seconds(resources.get("walltime", "0")) > longest:
        # recorded: qsub-err-walltime-over-queue
        leave(188, "qsub: Job violates queue and/or server resource limits")
    if len(indices) > MAX_ARRAY_SIZE:
        # The limit is the server's default.
        # recorded: qsub-err-array-toobig
        leave(3, "qsub: Array job exceeds server or queue size limit")
    number = next_number()
    directory = os.getcwd()

    def path(option, letter):
        suffix = ".^array_index^" if indices else ""
        return os.path.join(directory, values.get(option) or f"{name}.{letter}{number}{suffix}")

    job = {
        "number": number,
        "owner": me(),
        "name": name,
        "queue": queue,
        "account": values.get("-A") or None,
        "state": "H" if "-h" in values else "Q",
        "output": path("-o", "o"),
        "error": path("-e", "e"),
        "join": values.get("-j", "n"),
        "directory": directory,
        "resources": {"ncpus": "1", "nodect": "1", "place": "pack", "select": "1:ncpus=1", **resources},
        "arguments": " ".join(arguments),
        "depend": depend(extra),
        "submitted": int(time.time()),
        "indices": list(indices),
        "range": values.get("-J"),
        "comment": None if started else "Not Running: Queue not started.",
        "subjobs": {str(index): {"state": "Q"} for index in indices},
    }
    spool = os.path.join(ROOT, "spool", f"{number}.SC")
    with open(spool, "wb") as file:
        file.write(script)
    os.chmod(spool, 0o700)
    save(job)
    if started and job["state"] == "Q":
        run_in_background(number)
    if "-z" not in values:
        print(identifier(job))
    if "block=true" in values.get("-W", ""):
        # qsub.c, main: fflush(stdout), then block(), which waits for the server's word and exits with the job's status.
        sys.stdout.flush()
        while load(number)["state"] != "F":
            time.sleep(0.05)
        leave_with(load(number).get("status", 0))


def depend(extra):
    """Return dependencies as qstat shows them, with the server of each job."""
    words = extra.removeprefix("depend=") if extra.startswith("depend=") else ""
    # recorded: qstat-json-after
    return re.sub(r":(\d+(?:\[\])?)(?:\.[\w.-]+)?", rf":\1.{SERVER}@{SERVER}", words)


def unknown_options(words, options):
    """Return what getopt(3) says of each letter of the first word that is no option."""
    letters = words.split()[0][1:].partition("=")[0]
    unknown = []
    for letter in letters:
        if letter not in options:
            unknown.append(letter)
        elif options[options.index(letter) + 1 :][:1] == ":":
            break
    return "".join(f"qsub: invalid option -- '{letter}'\n" for letter in unknown)


def sendable(variables):
    """Return whether qsub can send the variables; some quotes and backslashes, too, but nobody needs them here."""
    items = variables.removesuffix(",").split(",") if variables else []
    known = all(item[:1] not in ("", "=") and ("=" in item or item in os.environ) for item in items)
    return known and not re.search(r"['\"\\]", variables)


def leave_with(status):
    sys.exit(status if 0 <= status < 256 else 3)


def array_indices(text):
    if text is None:
        return []
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%\d+)?", text)
    if match is None or int(match[1]) >= int(match[2]):
        leave(2, "qsub: illegal -J value" + USAGE)  # recorded: qsub-err-array-range
    return range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))


def identifier(job, index=None):
    brackets = "[]" if job["indices"] and index is None else "" if index is None else f"[{index}]"
    return f"{job['number']}{brackets}.{SERVER}"


def run_in_background(number):
    sys.stdout.flush()
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.closerange(3, 64)
    try:
        run(number)
    finally:
        os._exit(0)


def run(number):
    """Play pbs_mom: run the job, one subjob after the other, and note how it ended."""
    time.sleep(0.2)
    with Locked(number):
        job = load(number)
        if job["state"] == "F":
            return
        job["state"] = "B" if job["indices"] else "R"
        job["started"] = int(time.time())
        job["comment"] = job_comment("Job Array Began at" if job["indices"] else "Job run at", job)
        save(job)
    status = 0
    for index in job["indices"] or [None]:
        status = max(status, run_one(number, index))
    with Locked(number):
        job = load(number)
        if job["state"] != "F":
            finish(job, status)


def run_one(number, index):
    with Locked(number):
        job = load(number)
        if job["state"] == "F" or (index is not None and job["subjobs"][str(index)]["state"] == "X"):
            return 0
        shell = pwd.getpwuid(os.getuid())
        environment = {
            "HOME": shell.pw_dir,
            "LOGNAME": shell.pw_name,
            "USER": shell.pw_name,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PBS_JOBID": identifier(job, index),
            "PBS_JOBNAME": job["name"],
            "PBS_O_WORKDIR": job["directory"],
            "PBS_ENVIRONMENT": "PBS_BATCH",
        }
        if index is not None:
            environment["PBS_ARRAY_INDEX"] = str(index)
        output, error = (job[kind].replace("^array_index^", str(index)) for kind in ("output", "error"))
        with open(output, "wb") as stdout, open(error, "wb") as stderr:
            process = subprocess.Popen(
                ["/bin/bash"],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stdout if job["join"] == "oe" else stderr,
                cwd=shell.pw_dir,
                env=environment,
                start_new_session=True,
            )
        if job["join"] == "oe":
            os.unlink(error)
        record = job["subjobs"][str(index)] if index is not None else job
        record.update(state="R", started=int(time.time()), group=process.pid)
        save(job)
    process.communicate(f"{os.path.join(ROOT, 'spool', str(number))}.SC\n".encode())
    status = process.returncode if process.returncode >= 0 else 256 - process.returncode
    with Locked(number):
        job = load(number)
        record = job["subjobs"][str(index)] if index is not None else job
        if "status" not in record:
            record["status"] = status
        if index is not None:
            record.update(state="X", ended=int(time.time()))
        save(job)
    return status


def finish(job, status=None, word=None):
    job["state"] = "F"
    job["ended"] = int(time.time())
    if status is not None:
        job["status"] = status
    if job["comment"]:
        job["comment"] += " and " + (word or ("failed" if status else "finished"))
    save(job)


def job_comment(begins, job):
    return f"{begins} {time.strftime('%a %b %d at %H:%M')}" + ("" if job["indices"] else " on (vm:ncpus=1)")


# --- qdel -------------------------------------------------------------------------------------------------------------


def read_id(text):
    return re.fullmatch(r"(\d+)(\[(\d*)\])?(?:\.vm)?", text)


def qdel(arguments):
    if on("down"):
        # recorded: server-down qdel 0.vm
        leave(162, f"Connection refused\nCouldn't connect to cluster: {SERVER}")
    status = 0
    for text in arguments:
        status = qdel_one(text) or status
    leave(status)


def qdel_one(text):
    match = read_id(text)
    if match is None:
        # recorded: qdel-badid
        print(f"qdel: illegally formed job identifier: {text}", file=sys.stderr)
        return 1
    with Locked(int(match[1])):
        job = load(int(match[1]))
        if job is None or bool(job["indices"]) != bool(match[2]):
            shown = f"{text.partition('.')[0]}.{SERVER}" if on("master") else text
            print(f"qdel: Unknown Job Id {shown}", file=sys.stderr)  # recorded: qdel-unknown
            return 153
        if match[3] and match[3] not in job["subjobs"]:
            # recorded: qdel-subjob-unknown
            print(f"qdel: Invalid request {identifier(job, int(match[3]))}", file=sys.stderr)
            return 156
        if job["owner"] != me():
            print(f"qdel: Unauthorized Request  {text}", file=sys.stderr)  # recorded: qdel-foreign
            return 159
        if job["state"] == "F":
            print(f"qdel: Job has finished {text}", file=sys.stderr)  # recorded: qdel-finished
            return 35
        if match[3]:
            record = job["subjobs"][match[3]]
            kill(record)
            record.update(state="X", ended=int(time.time()))
            save(job)
            return 0
        was_running = job["state"] in "RB"
        for record in job["subjobs"].values():
            kill(record)
        kill(job)
        finish(job, 271 if was_running else None, "terminated")
    return 0


def kill(record):
    group = record.get("group")
    if group and record["state"] == "R":
        record["status"] = 271
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)


# --- qhold, qrls, qrerun, qsig, qalter, qmove -------------------------------------------------------------------------

PBSE = {
    "Unauthorized Request ": 159,
    "Request invalid for state of job": 168,
    "Unknown/illegal signal name": 165,
    "Unknown queue": 170,
    "Cannot set attribute, read only or insufficient permission  comment": 155,
}


def control(tool, arguments, options):
    """Do what a tool does to its jobs. What it may do to whom was recorded; what it does to jobs is the least of it."""
    given, ids = getopt.getopt(arguments, options)
    server_up(tool, 162)
    if tool == "qmove":
        given, ids = [("queue", ids[0])], ids[1:]
    status = 0
    for text in ids:
        match = read_id(text)
        if match is None:
            # source: qalter.c, qhold.c, qmove.c, qrerun.c, qrls.c, qsig.c, main: as qdel says
            print(f"{tool}: illegally formed job identifier: {text}", file=sys.stderr)
            status = 1
            continue
        with Locked(int(match[1])):
            job = load(int(match[1]))
            if job is None or bool(job["indices"]) != bool(match[2]):
                # recorded: qalter-unknown, qhold-unknown, qrls-unknown, qsig-unknown
                print(f"{tool}: Unknown Job Id {text.partition('.')[0]}.{SERVER}", file=sys.stderr)
                status = 153
                continue
            if job["owner"] == me() and job["state"] == "F":
                # recorded: qalter-finished, qhold-finished, qrls-finished, qsig-finished
                print(f"{tool}: Job has finished", file=sys.stderr)
                status = 35
                continue
            said = do(tool, dict(given), job) if job["owner"] == me() else "Unauthorized Request "
            if said:
                # recorded: qalter-foreign, qhold-foreign, qsig-foreign, qalter-walltime-running, qalter-comment
                # recorded: qmove-unknown, qrerun, qsig-queued, qsig-suspend, qsig-badsignal, qalter-badres
                print(f"{tool}: {said} {identifier(job)}", file=sys.stderr)
                status = PBSE.get(said, 187)
            else:
                save(job)
        if tool == "qrls" and not said and job["state"] == "Q":
            run_in_background(job["number"])
    leave(status)


def do(tool, given, job):
    """Change a job of one's own that has not finished, or return why not."""
    match tool:
        case "qrerun":
            return "Unauthorized Request "
        case "qhold" | "qrls":
            if job["state"] == ("Q" if tool == "qhold" else "H"):
                job["state"] = "H" if tool == "qhold" else "Q"
        case "qmove":
            if given["queue"] not in QUEUES:
                return "Unknown queue"
            job["queue"] = given["queue"]
        case "qsig":
            wanted = given["-s"]
            if wanted in ("suspend", "resume"):
                return "Unauthorized Request "
            if not wanted.isdigit() and wanted not in signal.Signals.__members__:
                return "Unknown/illegal signal name"
            if job["state"] not in "RB":
                return "Request invalid for state of job"
            if job.get("group"):
                number = int(wanted) if wanted.isdigit() else signal.Signals[wanted].value
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job["group"], number)
        case "qalter":
            if "comment" in given.get("-W", ""):
                return "Cannot set attribute, read only or insufficient permission  comment"
            if "-l" in given:
                if job["state"] in "RB":
                    return "Unauthorized Request "
                name, _, amount = given["-l"].partition("=")
                if name not in RESOURCES:
                    return f"Unknown resource Resource_List.{name}"
                job["resources"][name] = amount
            job["name"] = given.get("-N", job["name"])
            job["depend"] = depend(given.get("-W", "")) or job["depend"]
            job["changed"] = given
    return None


# --- qselect, qstat ---------------------------------------------------------------------------------------------------


def server_up(tool, status, document=None):
    if on("slow"):
        time.sleep(60)
    if on("down"):
        if document is not None:
            print(document)
        server = "" if tool == "pbs_rstat" else f" {SERVER}"
        # recorded: server-down qsub, server-down qstat -f -F json, server-down qselect, server-down pbs_rstat -F
        # recorded: server-down qalter -N x 0.vm, server-down qsig -s TERM 0.vm
        leave(status, f"Connection refused\n{tool}: cannot connect to server{server} (errno=15010)")


def qselect(arguments):
    options = dict(getopt.getopt(arguments, "xu:")[0])
    server_up("qselect", 162)
    if "-x" in options and on("nohistory"):
        leave(0, f"qselect: {NO_HISTORY}")  # source: qselect.c, main, at PBSE_JOBHISTNOTSET
    for job in all_jobs():
        if job["owner"] == options.get("-u", job["owner"]) and ("-x" in options or job["state"] != "F"):
            print(identifier(job))


def qstat(arguments):
    if arguments == ["--version"]:
        print("pbs_version = 23.06.06")
        return
    options, ids = getopt.getopt(arguments, "xtfF:BQE")
    options = dict(options)
    if on("inexpress") and "-E" in options:
        leave(2, "qstat: invalid option -- 'E'")  # source: qstat.c, main, before -E came, and getopt(3)
    if "-f" not in options or options.get("-F") != "json":
        leave(2, f"qstat: conflicting options.\n{QSTAT_USAGE}")  # recorded: form qstat -F json
    server_up("qstat", 255, document({}))
    if "-B" in options:
        print(document({"Server": {SERVER: {"server_state": "Active", "server_host": SERVER, "scheduling": "True"}}}))
        return
    if "-Q" in options:
        queues = {
            name: {"queue_type": "Execution", "total_jobs": "0", "enabled": str(enabled), "started": str(started)}
            for name, (enabled, started, _, _) in QUEUES.items()
        }
        print(document({"Queue": queues}))
        return
    if "-x" in options and on("nohistory"):
        for text in ids[-1:] if "-E" in options else ids or [""]:
            # source: qstat.c, main, where pbs_statjob has failed, and its end, at PBSE_JOBHISTNOTSET
            print(f"qstat: {NO_HISTORY} {text}", file=sys.stderr)
        print(document({}))
        leave(0)
    shown, status = {}, 0
    if "-E" in options and ids:
        express(options, ids)
    if not ids:
        for job in all_jobs():
            if "-x" in options or job["state"] != "F":
                add(shown, job, None, "-t" in options)
    for text in ids:
        match = read_id(text)
        job = load(int(match[1])) if match else None
        if match is None:
            # recorded: qstat-json-badid2
            print(f"qstat: illegally formed job identifier: {text}", file=sys.stderr)
            status = 1
        elif job is None or bool(job["indices"]) != bool(match[2]) or (match[3] and match[3] not in job["subjobs"]):
            # recorded: qstat-json-unknown, qstat-json-subjob-unknown, qstat-json-array-nobrackets
            print(f"qstat: Unknown Job Id {text.partition('.')[0]}.{SERVER}", file=sys.stderr)
            status = 153
        elif job["state"] == "F" and "-x" not in options:
            # recorded: qstat-json-array-finished-nox, qstat-json-finished-without-x
            print(f"qstat: {identifier(job)} {FINISHED}", file=sys.stderr)
            status = 35
        elif not (on("hide") and job["owner"] != me()) and not (on("master") and shown):
            add(shown, job, match[3] or None, "-t" in options)
    print(document({"Jobs": shown} if shown else {}))
    leave(status)


def express(options, ids):
    """Answer for all ids at once, as qstat.c, main (E_opt) and the server's req_stat_job do.

    qstat sorts the ids and reads them one after the other; one that it cannot read, if it is the last, keeps it from
    asking for the others. The server says an error only if it knows none of them, and qstat names the last.
    """
    shown, error, text = {}, 0, ""
    ids = sorted(ids)
    for text in ids:
        match = read_id(text)
        if match is None:
            # source: qstat.c, main, E_opt
            sys.stderr.write(f"qstat: illegally formed job identifier: {text}\n")
            error = 1
            continue
        job = load(int(match[1]))
        if job is None or bool(job["indices"]) != bool(match[2]) or (match[3] and match[3] not in job["subjobs"]):
            error = error or 153
        elif job["state"] == "F" and "-x" not in options:
            error = error or 35
        elif not (on("hide") and job["owner"] != me()):
            add(shown, job, match[3] or None, "-t" in options)
    if read_id(text) is None:
        shown = {}
    elif shown:
        error = error if error == 1 else 0
    elif error == 153:
        # source: qstat.c, main, E_opt, and req_stat.c, req_stat_job
        sys.stderr.write(f"qstat: Unknown Job Id {text.partition('.')[0]}.{SERVER}\n")
    elif error == 35:
        # source: qstat.c, main, E_opt, and req_stat.c, req_stat_job
        sys.stderr.write(f"qstat: {text.partition('.')[0]}.{SERVER} {FINISHED}\n")
    print(document({"Jobs": shown} if shown else {}))
    leave(error)


def add(shown, job, index, subjobs):
    shown[identifier(job, index)] = attributes(job, index)
    if subjobs and index is None:
        for one in job["indices"]:
            shown[identifier(job, one)] = attributes(job, one)


def attributes(job, index):
    """Return what qstat shows of a job, in its order. Times are formatted here, by qstat, in the zone of its caller."""
    record = job if index is None else job["subjobs"][str(index)]
    state = record["state"]
    if index is not None and state == "X" and job["state"] == "F":
        state = "F"
    changed = time.ctime(record.get("ended") or record.get("started") or job["submitted"])
    queued = index is not None and state == "Q"

    def path(kind):
        text = job[kind] if index is None or queued else job[kind].replace("^array_index^", str(index))
        return f"{SERVER}:{text}"

    found = {"Job_Name": job["name"], "Job_Owner": f"{job['owner']}@{SERVER}"}
    if record.get("ended") and record.get("started"):
        used = record["ended"] - record["started"]
        found["resources_used"] = {"ncpus": "1", "walltime": time.strftime("%H:%M:%S", time.gmtime(used))}
    found |= {"job_state": state, "queue": job["queue"], "server": SERVER}
    if job["account"]:
        found["Account_Name"] = job["account"]
    found |= {"Checkpoint": "u", "ctime": time.ctime(job["submitted"])}
    if job["depend"]:
        found["depend"] = job["depend"]
    found["Error_Path"] = path("error")
    if record.get("started") and not (index is None and job["indices"]):
        found |= {"exec_host": f"{SERVER}/0", "exec_vnode": f"({SERVER}:ncpus=1)"}
    found |= {"Join_Path": job["join"], "Keep_Files": "n", "mtime": changed, "Output_Path": path("output")}
    found |= {"Priority": "0", "qtime": time.ctime(job["submitted"]), "Resource_List": job["resources"]}
    if record.get("started"):
        found["stime"] = time.ctime(record["started"])
    if record.get("ended") and record.get("started"):
        found["obittime"] = changed
    home = pwd.getpwnam(job["owner"]).pw_dir
    directory = re.sub(r"([\"',\\])", r"\\\1", job["directory"])
    found["Variable_List"] = {
        "PBS_O_HOME": home,
        "PBS_O_LOGNAME": job["owner"],
        "PBS_O_WORKDIR": directory.replace("\\,", ","),
        "PBS_O_QUEUE": job["queue"],
        "PBS_O_HOST": SERVER,
    }
    if job["comment"]:
        found["comment"] = job["comment"]
    if "status" in record:
        found["Exit_status"] = str(record["status"])
    found["Submit_arguments"] = job["arguments"]
    if job["indices"] and index is None:
        left = [one for one in job["indices"] if job["subjobs"][str(one)]["state"] == "Q"]
        found |= {"array": "True", "array_indices_submitted": job["range"]}
        found["array_indices_remaining"] = ",".join(map(str, left)) or "-"
    elif index is not None and not queued:
        found |= {"array_id": identifier(job), "array_index": str(index)}
    if record.get("ended"):
        found["history_timestamp"] = str(record["ended"])
    if not queued:
        found |= {"project": "_pbs_project_default", "Submit_Host": SERVER}
    return found


NUMBERS = {"timestamp", "Priority", "Exit_status", "history_timestamp", "array_index", "total_jobs", "ncpus", "nodect"}


def document(sections):
    head = {"timestamp": str(int(time.time())), "pbs_version": "23.06.06", "pbs_server": SERVER}
    return (master if on("master") else released)({**head, **sections}, 0) + ("\n" if sections else "")


def master(value, depth, name=""):
    """Print as the development head does: valid, with tabs."""
    if isinstance(value, dict):
        inner = "\t" * (depth + 1)
        rows = [f"{inner}{json.dumps(key)}:\t{master(item, depth + 1, key)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "\t" * depth + "}"
    return value if name in NUMBERS else json.dumps(value, ensure_ascii=False)


def released(value, depth, name=""):
    """Print as 23.06.06 does: what looks like a number stands bare, quotes and other characters are damaged."""
    if isinstance(value, dict):
        inner = "    " * (depth + 1)
        rows = [f'{inner}"{key}":{released(item, depth + 1, key)}' for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "    " * depth + "}"
    if name in NUMBERS or NUMBER.fullmatch(value):
        return value
    text = value.replace("\\", "\\\\") if name.startswith("PBS_O") else value
    first, text = (text[0], text[1:]) if text.startswith('"') else ("", text)
    text = first + text.replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    raw = text.encode("utf-8", "surrogateescape")
    mangled = b"".join(bytes([94, (byte + 64) % 256]) if byte > 126 or byte < 32 else bytes([byte]) for byte in raw)
    return f'"{mangled.decode("utf-8", "surrogateescape")}"'


# --- pbsnodes, pbs_rstat ----------------------------------------------------------------------------------------------


def pbsnodes(arguments):
    if on("down"):
        # recorded: server-down pbsnodes -a -F json
        leave(1, f"Connection refused\npbsnodes: cannot connect to server {SERVER}, error=15010")
    running = [identifier(job) for job in all_jobs() if job["state"] == "R"]
    node = {
        "Mom": SERVER,
        "ntype": "PBS",
        "state": "free" if len(running) < 2 else "job-busy",
        "pcpus": "2",
        "resources_available": {"arch": "linux", "host": SERVER, "mem": "24684096kb", "ncpus": "2", "vnode": SERVER},
        "resources_assigned": {"ncpus": str(min(2, len(running)))} if running else {},
        "resv_enable": "True",
    }
    print(document({"nodes": {SERVER: node}}))


def pbs_rstat(arguments):
    server_up("pbs_rstat", 162)
    start = int(os.stat(ROOT).st_ctime) // 3600 * 3600
    if arguments != ["-F"]:
        leave(2, "usage: pbs_rstat")  # source: pbs_rstat.c, main: the gateway asks for -F alone
    print(f"Resv ID: R231.{SERVER}")
    for name, value in {
        "Reserve_Name": "myresv",
        "Reserve_Owner": f"{me()}@{SERVER}",
        "reserve_state": "RESV_RUNNING",
        "reserve_start": time.ctime(start),
        "reserve_end": time.ctime(start + 7200),
        "reserve_duration": "7200",
        "queue": "R231",
        "resv_nodes": f"({SERVER}:ncpus=1)",
    }.items():
        print(f"{name} = {value}")
    print("\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")
    command = os.path.basename(sys.argv[0])
    controls = {"qhold": "h:", "qrls": "h:", "qrerun": "W:", "qsig": "s:", "qalter": "l:N:p:W:A:", "qmove": ""}
    if command in controls:
        control(command, sys.argv[1:], controls[command])
    {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel, "pbsnodes": pbsnodes, "pbs_rstat": pbs_rstat}[
        command
    ](sys.argv[1:])
