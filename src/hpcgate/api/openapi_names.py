"""What the operations of the API are called in its OpenAPI document, from which generators name functions."""

from typing import Any

_FILES = "/filesystem/{system_name}"

_NAMES: dict[tuple[str, str], tuple[str, str]] = {
    ("get", "/status/systems"): ("list_systems", "List the systems"),
    ("get", "/status/liveness/"): ("liveness", "Is the gateway alive?"),
    ("get", "/status/readiness"): ("readiness", "Is the gateway ready for requests?"),
    ("get", "/status/{system_name}/nodes"): ("list_nodes", "List compute nodes"),
    ("get", "/status/{system_name}/reservations"): ("list_reservations", "List reservations"),
    ("get", "/status/{system_name}/partitions"): ("list_partitions", "List partitions"),
    ("get", "/status/{system_name}/allocations"): ("list_allocations", "How much of my accounts and quotas is left?"),
    ("get", "/status/{system_name}/userinfo"): ("userinfo", "Who am I on the system?"),
    ("post", "/compute/{system_name}/jobs"): ("submit_job", "Submit a job"),
    ("get", "/compute/{system_name}/jobs"): ("list_jobs", "List jobs"),
    ("get", "/compute/{system_name}/jobs/{job_id}"): ("get_job", "Get a job"),
    ("delete", "/compute/{system_name}/jobs/{job_id}"): ("cancel_job", "Cancel a job"),
    ("get", "/compute/{system_name}/jobs/{job_id}/metadata"): (
        "get_job_metadata",
        "Get a job's script and outputs",
    ),
    ("get", "/compute/{system_name}/events"): ("follow_jobs", "Follow what becomes of one's jobs"),
    ("get", "/compute/{system_name}/jobs/{job_id}/events"): ("follow_job", "Follow what becomes of a job"),
    ("post", "/compute/{system_name}/notifications"): ("notify", "Have those who watch jobs look"),
    ("get", "/compute/{system_name}/jobs/{job_id}/output"): ("get_job_output", "Get or follow a job's output"),
    ("put", "/compute/{system_name}/jobs/{job_id}/attach"): ("attach_to_job", "Run a command inside a running job"),
    ("post", "/compute/{system_name}/jobs/bulk"): ("submit_jobs", "Submit many jobs"),
    ("post", "/compute/{system_name}/jobs/cancel"): ("cancel_jobs", "Cancel many jobs"),
    ("put", "/compute/{system_name}/jobs/{job_id}/hold"): ("hold_job", "Hold a job"),
    ("put", "/compute/{system_name}/jobs/{job_id}/release"): ("release_job", "Release a held job"),
    ("put", "/compute/{system_name}/jobs/{job_id}/requeue"): ("requeue_job", "Requeue a job"),
    ("put", "/compute/{system_name}/jobs/{job_id}/suspend"): ("suspend_job", "Suspend a running job"),
    ("put", "/compute/{system_name}/jobs/{job_id}/resume"): ("resume_job", "Resume a suspended job"),
    ("post", "/compute/{system_name}/jobs/{job_id}/signal"): ("signal_job", "Send a signal to a job"),
    ("patch", "/compute/{system_name}/jobs/{job_id}"): ("change_job", "Change a job"),
    ("get", "/compute/{system_name}/submissions"): ("find_submission", "What has become of a submission? (any key)"),
    ("get", "/compute/{system_name}/submissions/{key}"): ("get_submission", "What has become of a submission?"),
    ("get", f"{_FILES}/ops/download"): ("download", "Download a small file"),
    ("post", f"{_FILES}/ops/upload"): ("upload", "Upload a small file"),
    ("get", f"{_FILES}/ops/checksum"): ("checksum", "Get a file's checksum"),
    ("put", f"{_FILES}/ops/chmod"): ("chmod", "Change a file's permissions"),
    ("put", f"{_FILES}/ops/chown"): ("chown", "Change a file's owner"),
    ("post", f"{_FILES}/ops/compress"): ("compress", "Make a small archive"),
    ("post", f"{_FILES}/ops/extract"): ("extract", "Unpack a small archive"),
    ("get", f"{_FILES}/ops/file"): ("file_type", "Get a file's type"),
    ("get", f"{_FILES}/ops/head"): ("head", "Get the beginning of a file"),
    ("get", f"{_FILES}/ops/ls"): ("list_directory", "List a directory"),
    ("post", f"{_FILES}/ops/mkdir"): ("make_directory", "Make a directory"),
    ("delete", f"{_FILES}/ops/rm"): ("remove", "Remove a file or directory"),
    ("get", f"{_FILES}/ops/stat"): ("stat", "Get a file's attributes"),
    ("post", f"{_FILES}/ops/symlink"): ("symlink", "Make a symbolic link"),
    ("get", f"{_FILES}/ops/tail"): ("tail", "Get the end of a file"),
    ("get", f"{_FILES}/ops/view"): ("view", "Get a part of a file as text"),
    ("get", f"{_FILES}/files/content"): ("get_content", "Download a file of any size"),
    ("get", f"{_FILES}/files/follow"): ("follow_file", "Follow a file that grows"),
    ("head", f"{_FILES}/files/content"): ("head_content", "Get a file's size and version"),
    ("put", f"{_FILES}/files/content"): ("put_content", "Upload a file of any size"),
    ("options", f"{_FILES}/files/uploads"): ("upload_options", "What of tus is offered?"),
    ("post", f"{_FILES}/files/uploads"): ("begin_upload", "Begin a resumable upload"),
    ("options", f"{_FILES}/files/uploads/{{upload_id}}"): ("one_upload_options", "What of tus is offered?"),
    ("head", f"{_FILES}/files/uploads/{{upload_id}}"): ("upload_offset", "Where does an upload stand?"),
    ("patch", f"{_FILES}/files/uploads/{{upload_id}}"): ("resume_upload", "Send the next chunk of an upload"),
    ("delete", f"{_FILES}/files/uploads/{{upload_id}}"): ("give_up_upload", "Give an upload up"),
    ("get", f"{_FILES}/files/archive"): ("get_archive", "Download a directory as an archive"),
    ("put", f"{_FILES}/files/archive"): ("put_archive", "Upload a directory as an archive"),
    ("post", f"{_FILES}/transfer/mv"): ("transfer_mv", "Move by a job"),
    ("post", f"{_FILES}/transfer/cp"): ("transfer_cp", "Copy by a job"),
    ("delete", f"{_FILES}/transfer/rm"): ("transfer_rm", "Remove by a job"),
    ("post", f"{_FILES}/transfer/compress"): ("transfer_compress", "Make an archive by a job"),
    ("post", f"{_FILES}/transfer/extract"): ("transfer_extract", "Unpack an archive by a job"),
    ("post", f"{_FILES}/transfer/upload"): ("transfer_upload", "Upload a large file by a job"),
    ("post", f"{_FILES}/transfer/download"): ("transfer_download", "Download a large file by a job"),
}
"""Operation id and summary by method and path."""


def name(document: dict[str, Any]) -> None:
    """Give the operations of a document the names that a person would; one that is not known here keeps its own."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = _NAMES.get((method, path))
            if named is not None:
                operation["operationId"], operation["summary"] = named
