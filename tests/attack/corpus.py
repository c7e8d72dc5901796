"""Strings that do harm where a parameter becomes more than data."""

from pathlib import Path

_SHELL = (
    "; {run}", ";{run};", "&& {run}", "|| {run}", "| {run}", "& {run}", "&{run}&", "$({run})", "`{run}`", "x$({run})y",
    "x`{run}`y", "'; {run}; '", "\"; {run}; \"", "'$({run})'", "\"$({run})\"", "'`{run}`'", "\"`{run}`\"",
    "'\"; {run}; #", "\"'; {run}; #", "); {run}; (", "}}; {run}; {{", "x; {run} #", "x\\; {run}", "x\\'; {run}; \\'",
    "x\\\"; {run}; \\\"", "${{IFS}};{run}", "$IFS;{run}", "$'\\n'{run}", "<({run})", ">({run})", "$(({run}))",
    "${{x:-$({run})}}", "${{x:=$({run})}}", "a[$({run})]", "a[`{run}`]", "$[$({run})]", "!{run}", "x >{file}",
    "x >> {file}", "x >|{file}", "2>{file}", "< /etc/passwd > {file}", "x' > {file} '", "x\" > {file} \"", "-x; {run}",
    "--; {run}", "-- $({run})", "~; {run}", "*; {run}", "?; {run}", "[a-z]; {run}", "{{a,b}}; {run}", "x; exec {run}",
    "x; eval {run}", "x; sh -c '{run}'", "env x='() {{ :;}}; {run}'", "() {{ :;}}; {run}", "%0a{run}", "%3B{run}",
    "x;${{0%%x*}} -c '{run}'", "x|sh -c '{run}'", "'||{run}||'", "\"||{run}||\"", "'|{run}|'", "';{run}&'",
    "\\$({run})", "\\`{run}\\`", "\\\\$({run})", "'\\''; {run}; '\\''",
)  # fmt: skip

_LINES = (
    "\n{run}", "\n{run}\n", "x\n{run}\nx", "\r{run}", "\r\n{run}\r\n", "'\n{run}\n'", "\"\n{run}\n\"", "EOF\n{run}\n",
    "x\nEOF\n{run}\n", "x\n#SBATCH --output={file}\n", "x\n#PBS -o {file}\n", "\n#SBATCH --wrap={run}", "x\\\n{run}",
    "\x0b{run}", "\x0c{run}", "x\x85{run}", "x\u2028{run}\u2029", "\n.\n{run}", "x\n)\n{run}\n(", "x\nHost: evil\n",
    "x\r\nX-Evil: 1\r\n\r\n",
)  # fmt: skip

_NUL = (
    "\x00", "x\x00", "\x00; {run}", "x\x00\n{run}", "\x00\x00\x00", "/tmp\x00/x", "x%00{run}", "\\0{run}", "x\x00.txt",
)  # fmt: skip

_OPTIONS = (
    "-", "--", "-h", "--help", "--version", "-rf", "-exec", "-e{run}", "--eval={run}", "-c{run}", "-c {run}",
    "-O{file}", "-o{file}", "--output={file}", "--output={file} x", "-ooutput={file}", "-oProxyCommand={run}",
    "-F/etc/passwd", "-f{file}", "--file={file}", "-T{file}", "--files-from=/etc/passwd", "--checkpoint=1",
    "--checkpoint-action=exec={run}", "--to-command={run}", "-I{run}", "--use-compress-program={run}",
    "--rsh-command={run}", "--info-script={run}", "-delete", "-fprint{file}", "-fprintf", "-ok",
    "--reference=/etc/passwd", "--target-directory=/", "--suffix={file}", "--backup", "-W {run}", "--wrap={run}",
    "--uid=0", "--uid=root", "--gid=0", "--chdir=/", "--get-user-env", "--export=ALL,X=1", "--prolog={run}",
    "--task-prolog={run}", "--bcast={file}", "--parsable", "-K", "-Z", "--clusters=all", "-M all", "--users=root",
    "--allusers", "--state=all", "-u root", "-A root", "@{file}", "@/etc/passwd", "+x", "+%s",
)  # fmt: skip

_UNICODE = (
    "\uff1b {run}", "\uff04({run})", "\u037e {run}", "\uff40{run}\uff40", "\u2019; {run}; \u2019", "\ufeff{run}",
    "\u200b; {run}", "\u202e; {run}", "\u0000\ud7ff", "\ufffd", "\uffff", "\U0001f4a9; {run}", "e\u0301; {run}",
    "\u0660", "\u00bd", "\u0131", "\u212a", "\u2215etc\u2215passwd", "\uff0e\uff0e/etc", "\u2025/", "\u00a0", "\u3000",
    "\u180e", "I\u0307", "\u1e9e",
)  # fmt: skip

_PATHS = (
    "..", "../", "../..", "../../../../../../etc/passwd", "..\\..\\etc\\passwd", "/etc/shadow", "/root/.ssh/id_rsa",
    "/proc/self/environ", "/proc/1/root/etc/shadow", "/dev/null", "/dev/zero", "/dev/stdin", "/", "//",
    "///etc//passwd", "/./", "/../", ".", "./-rf", "~", "~root", "~root/.ssh", "~/../..", "{canary}", "/x/../{canary}",
    "//{canary}", "{canary}/.", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
    "..;/..;/etc/passwd", "file:///etc/passwd", "\\\\host\\share", "/dev/fd/0", "/dev/tcp/127.0.0.1/1", "*", "?", "[",
    "[!", "**", "/*", "{{a,b}}", "C:\\x", " ", "  ", "\t", "", "a" * 255, "a" * 256, "/a" * 2048, "a" * 5000,
)  # fmt: skip

_TEMPLATES = (
    "{{{{7*7}}}}", "${{7*7}}", "#{{7*7}}", "<%= 7*7 %>", "{{% import os %}}", "{{{{config}}}}",
    "{{{{''.__class__.__mro__}}}}", "{{0.__class__}}", "{{account}}", "{{}}", "{{", "}}", "%s%s%s%n", "%(x)s", "%d",
    "%n", "{{self.__init__.__globals__}}", "$name", "${{name}}", "$1", "$@", "$$", "$?",
    "__import__('os').system('{run}')", "!!python/object/apply:os.system ['{run}']", "!!python/name:os.system",
    "&a [*a]", "*anchor", "? x", "- x\n- y", "key: value", "<<: *a", "|\n  {run}", "'", "\"", "\\", "`", "null", "true",
    "~", "0x10", "1e5", "NaN", "-1", "99999999999999999999", "[]", "{{\"a\":1}}", "<script>alert(1)</script>",
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>", "' OR '1'='1", "\"; DROP TABLE job_table; --", "'; SELECT SLEEP(9); --",
    "$ne", "*)(uid=*",
)  # fmt: skip

_SLURM = (
    "%all", "%i|%j", "%.18i", "%j%n", "%A_%a", "%u/../../{file}", "%%", "%", "%999999999999j", "%-999j", "ALL", "all",
    "all,root", "1,2,3", "1-999999", "1_[1-999999999]", "1_[0-4294967295:1]", "1+1", "1.batch", "1;id", "$(id)", "0",
    "999999999", "4294967295", "1 2", "1,$({run})", "job|name|", "a|b|c", "a\x1fb", "a\x1eb", "jobid,state",
    "JobID%-999", "user=root", "root", "jobs=1", "UNLIMITED", "(null)", "None assigned", "-j 1", "1[].server",
    "1[1-99999999].server", "1.server@{run}", "PARTITION=x", "a=b,c=d", "a,b=c\nd",
)  # fmt: skip


def corpus(canary: Path, file: Path, marker: str) -> list[str]:
    """Return all strings.

    Args:
        canary: A file of root's, which they name.
        file: What appears where one of them is run by a shell, or taken for an option.
        marker: The argument of the `sleep` that runs where one of them is run.
    """
    run = f"touch {file}; sleep {marker}"
    values = {"run": run, "file": str(file), "canary": str(canary)}
    found = [
        text.format(**values) for text in (*_SHELL, *_LINES, *_NUL, *_OPTIONS, *_UNICODE, *_PATHS, *_TEMPLATES, *_SLURM)
    ]
    return list(dict.fromkeys(found))
