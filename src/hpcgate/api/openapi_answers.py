"""Examples of answers in the OpenAPI document, as a demo cluster gave them; names, places and times are made alike."""

from typing import Any

_STATUS, _JOBS = "/status/{system_name}", "/compute/{system_name}"
_OPS, _TRANSFER = "/filesystem/{system_name}/ops", "/filesystem/{system_name}/transfer"

_SEEN = "2026-11-29T21:57:19.140505Z"
_HEALTHY: dict[str, Any] = {"lastChecked": _SEEN, "latency": 0.02, "healthy": True, "message": None}
_TIME = {"elapsed": 7, "start": 1795989432, "end": 1795989439, "suspended": 0}
_ENDED = {"state": "COMPLETED", "stateReason": None, "exitCode": 0, "interruptSignal": 0}
_JOB = {
    "jobId": "4711",
    "name": "first",
    "status": _ENDED,
    "tasks": [{"id": "4711.batch", "name": "batch", "status": _ENDED, "time": _TIME | {"limit": None}}],
    "time": _TIME | {"limit": 300},
    "account": "project",
    "allocationNodes": 1,
    "cluster": "demo",
    "group": "alice",
    "nodes": "n1",
    "partition": "normal",
    "killRequestUser": None,
    "user": "alice",
    "workingDirectory": "/scratch/alice",
    "priority": 4294901759,
}
_USAGE = {"cpuSeconds": 6.93, "memoryPeak": 11497472, "nodeHours": 0.0019, "energy": None}
_QUOTA = {"scope": "user", "name": "alice", "source": "/scratch", "softLimit": None}
_FILE: dict[str, Any] = {
    "name": "/scratch/alice/results.csv",
    "type": "-",
    "linkTarget": None,
    "user": "alice",
    "group": "alice",
    "permissions": "rw-r-----",
    "lastModified": "2026-11-29T21:57:19",
    "size": "4",
}
_DIRECTORY = _FILE | {"name": "/scratch/alice/run", "type": "d", "permissions": "rwxr-xr-x", "size": "4096"}
_LINK = _FILE | {
    "name": "/scratch/alice/latest.csv",
    "type": "l",
    "linkTarget": "/scratch/alice/results.csv",
    "permissions": "rwxrwxrwx",
    "size": "26",
}
_TRANSFER_JOB = {
    "transferJob": {
        "jobId": "4712",
        "system": "demo",
        "workingDirectory": "/scratch/alice",
        "logs": {
            "outputLog": "/scratch/alice/.f7t_file_handling_job_5f6c1d0e.log",
            "errorLog": "/scratch/alice/.f7t_file_handling_job_error_5f6c1d0e.log",
        },
    }
}
_SUBMISSION = {"state": "submitted", "jobId": "4711", "reason": None}
_PART_URL = "https://s3.example.org/alice/5f6c1d0e/large.bin?partNumber=1&uploadId=2n8s&X-Amz-Signature=…"

_ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/status/systems"): {
        "systems": [
            {
                "name": "demo",
                "ssh": {
                    "host": "login.example.org",
                    "port": 22,
                    "proxyHost": None,
                    "proxyPort": None,
                    "maxClients": 100,
                    "timeout": {
                        "connection": 5,
                        "login": 10,
                        "commandExecution": 10,
                        "idleTimeout": 60,
                        "keepAlive": 5,
                    },
                },
                "scheduler": {
                    "connectionMode": "ssh",
                    "type": "slurm",
                    "version": "24.11.5",
                    "apiUrl": None,
                    "apiVersion": None,
                    "timeout": 10,
                },
                "servicesHealth": [
                    {"serviceType": "ssh", **_HEALTHY},
                    {"serviceType": "filesystem", **_HEALTHY, "path": "/scratch"},
                    {"serviceType": "scheduler", **_HEALTHY},
                ],
                "probing": {"intervalCheck": 60, "services": {"ssh": {"timeout": 10}, "scheduler": {"timeout": 10}}},
                "fileSystems": [{"path": "/scratch", "dataType": "scratch", "defaultWorkDir": True}],
                "dataOperation": {
                    "max_ops_file_size": 5242880,
                    "data_transfer": None,
                    "transfer_methods": [],
                    "datatransfer_jobs_directives": ["#SBATCH --nodes=1", "#SBATCH --account={account}"],
                },
                "lastHealthCheck": _SEEN,
                "maintenance": [],
                "submissions": {"exactlyOnce": True, "required": False, "lifetime": 86400},
            }
        ]
    },
    ("get", "/status/liveness/"): {"healthcheckRuns": {"demo": _SEEN}, "lastUpdate": 1795989439},
    ("get", "/status/readiness"): {"ready": True},
    ("get", f"{_STATUS}/nodes"): {
        "nodes": [
            {
                "sockets": 2,
                "cores": 64,
                "threads": 2,
                "cpus": 256,
                "cpuLoad": 6.79,
                "freeMemory": 145590,
                "features": ["gpu"],
                "name": "n1",
                "address": "n1",
                "hostname": "n1",
                "state": ["IDLE"],
                "partitions": ["normal", "debug"],
                "weight": 1,
                "allocMemory": 0,
                "allocCpus": 0,
                "idleCpus": 256,
            }
        ]
    },
    ("get", f"{_STATUS}/reservations"): {
        "reservations": [
            {
                "name": "maintenance",
                "state": "INACTIVE",
                "nodeList": "n[1-2]",
                "endTime": 1796004000,
                "startTime": 1795996800,
                "features": None,
            }
        ]
    },
    ("get", f"{_STATUS}/partitions"): {
        "partitions": [{"name": "normal", "cpus": 512, "totalNodes": 2, "partition": "UP"}]
    },
    ("get", f"{_STATUS}/allocations"): {
        "allocations": [
            {
                "account": "project",
                "default": True,
                "resources": [
                    {"resource": "cpu", "scope": "account", "limit": 600000, "used": 1250, "left": 598750},
                    {"resource": "node", "scope": "account", "limit": None, "used": 20, "left": None},
                ],
            }
        ],
        "quotas": [
            {
                "path": "/scratch",
                "resources": [
                    _QUOTA | {"resource": "bytes", "used": 1048576, "limit": 1073741824, "left": 1072693248},
                    _QUOTA | {"resource": "files", "used": 42, "limit": 1000000, "left": 999958},
                ],
                "error": None,
            }
        ],
    },
    ("get", f"{_STATUS}/userinfo"): {
        "user": {"id": "1226", "name": "alice"},
        "group": {"id": "1226", "name": "alice"},
        "groups": [
            {"id": "1226", "name": "alice", "default": True},
            {"id": "1235", "name": "project", "default": False},
        ],
        "accounts": [{"name": "project", "default": True}],
    },
    ("post", f"{_JOBS}/jobs"): {"jobId": "4711"},
    ("post", f"{_JOBS}/jobs/bulk"): {
        "jobs": [
            {"jobId": "4711", "replayed": False, "warnings": None, "error": None},
            {
                "jobId": None,
                "replayed": False,
                "warnings": None,
                "error": {
                    "status": 400,
                    "message": "sbatch: error: invalid partition specified: nowhere",
                    "retryAfter": None,
                },
            },
        ]
    },
    ("post", f"{_JOBS}/jobs/cancel"): {
        "jobs": [
            {"jobId": "4711", "error": None},
            {"jobId": "4712", "error": {"status": 404, "message": "Job not found: 4712", "retryAfter": None}},
        ]
    },
    ("get", f"{_JOBS}/jobs"): {"jobs": [_JOB]},
    ("get", f"{_JOBS}/jobs/{{job_id}}"): {"jobs": [_JOB | {"usage": _USAGE}]},
    ("get", f"{_JOBS}/jobs/{{job_id}}/metadata"): {
        "jobs": [
            {
                "jobId": "4711",
                "script": "#!/bin/bash\n#SBATCH --time=00:05:00\necho hello\n",
                "standardInput": "/dev/null",
                "standardOutput": "/scratch/alice/slurm-4711.out",
                "standardError": "/scratch/alice/slurm-4711.out",
            }
        ]
    },
    ("get", f"{_JOBS}/submissions"): _SUBMISSION,
    ("get", f"{_JOBS}/submissions/{{key}}"): _SUBMISSION,
    ("get", f"{_OPS}/checksum"): {
        "output": {
            "algorithm": "SHA256",
            "checksum": "5be08c9684a1d25efcee09318204824278b08bbfb4aef973ffefd0b9d7478313",
        }
    },
    ("put", f"{_OPS}/chmod"): {"output": _FILE},
    ("put", f"{_OPS}/chown"): {"output": _FILE},
    ("get", f"{_OPS}/file"): {"output": "ASCII text"},
    ("get", f"{_OPS}/head"): {
        "output": {"content": "a,b\n", "contentType": "lines", "startPosition": 0, "endPosition": 10}
    },
    ("get", f"{_OPS}/ls"): {"output": [_FILE | {"name": "results.csv"}, _DIRECTORY | {"name": "run"}]},
    ("post", f"{_OPS}/mkdir"): {"output": _DIRECTORY},
    ("get", f"{_OPS}/stat"): {
        "output": {
            "mode": 33184,
            "ino": 3213009,
            "dev": 65024,
            "nlink": 1,
            "uid": 1226,
            "gid": 1226,
            "size": 4,
            "atime": 1795989439,
            "ctime": 1795989439,
            "mtime": 1795989439,
        }
    },
    ("post", f"{_OPS}/symlink"): {"output": _LINK},
    ("get", f"{_OPS}/tail"): {
        "output": {"content": "a,b\n", "contentType": "lines", "startPosition": 10, "endPosition": -1}
    },
    ("get", f"{_OPS}/view"): {"output": "a,b\n"},
    ("post", f"{_TRANSFER}/mv"): _TRANSFER_JOB,
    ("post", f"{_TRANSFER}/cp"): _TRANSFER_JOB,
    ("delete", f"{_TRANSFER}/rm"): _TRANSFER_JOB,
    ("post", f"{_TRANSFER}/compress"): _TRANSFER_JOB,
    ("post", f"{_TRANSFER}/extract"): _TRANSFER_JOB,
    ("post", f"{_TRANSFER}/upload"): _TRANSFER_JOB
    | {
        "transferDirectives": {
            "transferMethod": "s3",
            "downloadUrl": None,
            "partsUploadUrls": [_PART_URL],
            "completeUploadUrl": _PART_URL.replace("partNumber=1&", ""),
            "maxPartSize": 2147483648,
        }
    },
    ("post", f"{_TRANSFER}/download"): _TRANSFER_JOB
    | {
        "transferDirectives": {
            "transferMethod": "s3",
            "downloadUrl": "https://s3.example.org/alice/5f6c1d0e/large.bin?X-Amz-Signature=…",
            "partsUploadUrls": None,
            "completeUploadUrl": None,
            "maxPartSize": None,
        }
    },
}
"""Bodies in JSON of answers that say that it went well, by method and path."""


_BY_STATUS: dict[tuple[str, str, str], Any] = {
    ("post", f"{_JOBS}/jobs", "200"): {
        "script": "#!/bin/bash\nset +e\nexec srun hostname --short\n",
        "options": ["--job-name=second", "--partition=normal", "--chdir=/scratch/alice", "--nodes=1", "--time=10:00"],
        "tested": True,
        "start": 1798131600,
        "nodes": "nid001",
        "partition": "normal",
        "processors": 2,
        "warnings": [],
        "policy": {"allowed": True, "rule": "default", "reason": None},
    },
}
"""Those of one status, where it has another body than the rest."""


def show(document: dict[str, Any]) -> None:
    """Put the examples into a document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if (method, path) not in _ANSWERS:
                continue
            for status, response in operation["responses"].items():
                if status.startswith("2") and "application/json" in response.get("content", {}):
                    example = _BY_STATUS.get((method, path, status), _ANSWERS[method, path])
                    response["content"]["application/json"]["example"] = example
