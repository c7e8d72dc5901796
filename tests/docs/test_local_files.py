"""Which parts of the gateway open local files: none of those that handle what a login node or a user says."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/hpcgate"
MODULES = ("os", "tempfile", "shutil")
HARMLESS = frozenset({
    "os.close", "os.dup", "os.dup2", "os.environ.get", "os.environ.setdefault", "os.fdopen", "os.fsdecode",
    "os.fsencode", "os.fstat", "os.fsync", "os.getpid", "os.kill", "os.pipe", "os.pread", "os.read",
    "os.set_blocking", "os.strerror", "os.urandom", "os.write",
})  # fmt: skip
"""What names no file."""
NAMING = frozenset({"read_text", "read_bytes", "write_text", "write_bytes", "mkstemp", "from_file"})
"""Methods that take or are of a path."""

OPENERS = {
    "api/assets.py": "the files of pages, in directories that the program registers",
    "api/routes/pages.py": "pages and what belongs to them, of the package's own",
    "cli/token.py": "a token for hpcgate's own command line",
    "auth/jwks.py": "public_certs",
    "cli/commands.py": "the example of a configuration",
    "config/document.py": "the configuration",
    "config/files.py": "what the configuration names",
    "config/secrets.py": "secret_file",
    "config/values.py": "files that the configuration names",
    "config/watched.py": "known_hosts, username_map, the certificate, notices in state_directory",
    "filesystem/beneath.py": "a program of the package's own",
    "health/maintenance.py": "notices in state_directory, by the system's configured name",
    "server/idleness.py": "the kernel's figures of the process",
    "ssh/files/login_node.py": "a time zone in memory",
    "telemetry/audit.py": "audit.to",
    "server/tls.py": "the certificate",
    "transfers/python_jobs.py": "a program of the package's own",
}
"""What each opens."""


def openers() -> set[str]:
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        # The demo makes a cluster, the programs run on the login node.
        if name.startswith(("demo/", "diagnosis/")) or name.endswith("_program.py"):
            continue
        if any(_opens(node) for node in ast.walk(ast.parse(path.read_text()))):
            found.add(name)
    return found


def _opens(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    first, last = called.partition(".")[0], called.rpartition(".")[2]
    if called in ("open", "io.open", "path.open", "file.open") or (called.startswith("Path(") and last == "open"):
        return True
    return (first in MODULES and "(" not in called and called not in HARMLESS) or last in NAMING


def test_nobody_else_opens_a_file_of_the_gateways_machine() -> None:
    assert openers() == set(OPENERS)
