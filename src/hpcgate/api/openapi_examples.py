"""Examples in the OpenAPI document: what /docs puts into its forms, and what a reader sees of a body's shape."""

from typing import Any

_FILE, _ARCHIVE = "/scratch/alice/results.csv", "/scratch/alice/run.tar.gz"
_PAIR = {"sourcePath": _FILE, "targetPath": "/scratch/alice/copy.csv"}
_COMPRESS = {"sourcePath": "/scratch/alice/run", "targetPath": _ARCHIVE}
_EXTRACT = {"sourcePath": _ARCHIVE, "targetPath": "/scratch/alice/unpacked"}

_BODIES: dict[str, dict[str, Any]] = {
    "/compute/{system_name}/jobs/bulk": {
        "jobs": [
            {
                "idempotencyKey": f"sweep-7/{number}",
                "job": {
                    "script": "#!/bin/bash\n#SBATCH --time=00:05:00\necho $STEP\n",
                    "workingDirectory": "/scratch/alice",
                    "env": {"STEP": str(number)},
                },
            }
            for number in (1, 2)
        ]
    },
    "/compute/{system_name}/jobs/cancel": {"ids": ["4711", "4712"]},
    "/compute/{system_name}/jobs/{job_id}/attach": {"command": "hostname"},
    "/compute/{system_name}/jobs/{job_id}/signal": {"signal": "USR1"},
    "/compute/{system_name}/jobs/{job_id}": {
        "timeLimit": 7200,
        "dependencies": [{"type": "afterok", "jobIds": ["4710"]}],
    },
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


_CHOICES: dict[str, dict[str, Any]] = {
    "/compute/{system_name}/jobs": {
        "A script": {
            "job": {
                "name": "first",
                "script": "#!/bin/bash\n#SBATCH --time=00:05:00\necho hello\n",
                "workingDirectory": "/scratch/alice",
            }
        },
        "A program, and what it needs": {
            "job": {
                "name": "second",
                "workingDirectory": "/scratch/alice",
                "executable": "hostname",
                "arguments": ["--short"],
                "launcher": "srun",
                "resources": {
                    "nodeCount": 1,
                    "processesPerNode": 2,
                    "cpuCoresPerProcess": 1,
                    "memory": "200M",
                    "exclusiveNodeUse": True,
                },
                "duration": "PT10M",
                "queueName": "normal",
                "mail": {"events": ["end", "fail"], "address": "alice@example.org"},
                "requeue": False,
            }
        },
        "An array that waits": {
            "job": {
                "name": "third",
                "workingDirectory": "/scratch/alice",
                "script": "#!/bin/bash\necho task $SLURM_ARRAY_TASK_ID\n",
                "array": "0-9%2",
                "begin": "2096-10-02T09:06:40+02:00",
                "hold": True,
                "extra": {"slurm": {"nice": 10}},
            }
        },
    },
}
"""Bodies of which there are several kinds."""


_PARAMETERS: dict[str, Any] = {
    "system_name": "demo",
    "job_id": "4711",
    "key": "5f6c1d0e-8a57-4d0b-9c39-1b4f0a1f8e52",
    "Idempotency-Key": "5f6c1d0e-8a57-4d0b-9c39-1b4f0a1f8e52",
    "upload_id": "4c5ef8d0-3c0f-4b5e-9a55-0d7d3a1f0c11",
    "path": _FILE,
    "account": "project",
    "lines": 10,
    "limit": 1000,
    "cursor": "MSA0NzEx",
    "fields": "jobId,status",
    "Range": "bytes=0-1023",
    "If-Match": '"65a1b2c3.1f4"',
    "Tus-Resumable": "1.0.0",
    "Upload-Length": "20000000",
    "Upload-Offset": "0",
}
"""Values of parameters, by name, where a reader would not know what to write."""

_DIRECTORIES = frozenset(
    {
        "/filesystem/{system_name}/ops/ls",
        "/filesystem/{system_name}/ops/upload",
        "/filesystem/{system_name}/files/archive",
        "/filesystem/{system_name}/files/uploads",
        "/filesystem/{system_name}/files/uploads/{upload_id}",
    }
)
"""Where `path` is a directory's."""


def show(document: dict[str, Any]) -> None:
    """Put the examples into a document."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "path" and path in _DIRECTORIES:
                    parameter["example"] = "/scratch/alice"
                elif parameter["name"] in _PARAMETERS:
                    parameter["example"] = _PARAMETERS[parameter["name"]]
            content = operation.get("requestBody", {}).get("content", {})
            if path in _BODIES and "application/json" in content:
                content["application/json"]["example"] = _BODIES[path]
            elif path in _CHOICES and "application/json" in content:
                examples = {name: {"summary": name, "value": value} for name, value in _CHOICES[path].items()}
                content["application/json"]["examples"] = examples
