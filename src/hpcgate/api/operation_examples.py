"""Examples in the OpenAPI document: what /docs puts into its forms, and what a reader sees of a body's shape."""

from typing import Any

_FILE, _ARCHIVE = "/scratch/alice/results.csv", "/scratch/alice/run.tar.gz"
_PAIR = {"sourcePath": _FILE, "targetPath": "/scratch/alice/copy.csv"}
_COMPRESS = {"sourcePath": "/scratch/alice/run", "targetPath": _ARCHIVE}
_EXTRACT = {"sourcePath": _ARCHIVE, "targetPath": "/scratch/alice/unpacked"}

_BODIES: dict[str, dict[str, Any]] = {
    "/compute/{system_name}/jobs": {
        "job": {
            "name": "first",
            "script": "#!/bin/bash\n#SBATCH --time=00:05:00\necho hello\n",
            "workingDirectory": "/scratch/alice",
        }
    },
    "/compute/{system_name}/jobs/{job_id}/attach": {"command": "hostname"},
    "/filesystem/{system_name}/ops/chmod": {"sourcePath": _FILE, "mode": "640"},
    "/filesystem/{system_name}/ops/chown": {"sourcePath": _FILE, "owner": "alice", "group": "project"},
    "/filesystem/{system_name}/ops/compress": _COMPRESS,
    "/filesystem/{system_name}/ops/extract": _EXTRACT,
    "/filesystem/{system_name}/ops/mkdir": {"sourcePath": "/scratch/alice/run", "parent": True},
    "/filesystem/{system_name}/ops/symlink": {"sourcePath": _FILE, "linkPath": "/scratch/alice/latest.csv"},
    "/filesystem/{system_name}/transfer/mv": _PAIR,
    "/filesystem/{system_name}/transfer/cp": _PAIR,
    "/filesystem/{system_name}/transfer/compress": _COMPRESS,
    "/filesystem/{system_name}/transfer/extract": _EXTRACT,
    "/filesystem/{system_name}/transfer/upload": {
        "sourcePath": "/scratch/alice/large.bin",
        "transferDirectives": {"transferMethod": "s3", "fileSize": 20000000},
    },
    "/filesystem/{system_name}/transfer/download": {
        "sourcePath": "/scratch/alice/large.bin",
        "transferDirectives": {"transferMethod": "s3"},
    },
}
"""Bodies in JSON, by path: none has more than one."""


def show(document: dict[str, Any]) -> None:
    """Put the examples into a document."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {})
            if path in _BODIES and "application/json" in content:
                content["application/json"]["example"] = _BODIES[path]
