from pathlib import Path
from typing import Any

from hpcgate.config.check import report
from hpcgate.config.ssh import SshSettings

from .conftest import Writer
from .test_mistakes import ED25519, S3


def _report(config: Writer, document: Any) -> tuple[list[str], int]:
    config.load(document)
    return report(config.path)


def test_mistakes_are_lines_and_the_status_is_1(config: Writer) -> None:
    document = config.base()
    document["clusters"][0]["ssh"] |= {"port": 0, "max_client": 1}
    config.mistakes(document)
    lines, status = report(config.path)
    assert status == 1
    assert lines == [
        f"{config.path}: clusters[0].ssh.port: must be greater than or equal to 1 (system alps)",
        f"{config.path}: clusters[0].ssh.max_client: unknown key 'max_client'; did you mean 'max_clients'?"
        " (system alps)",
    ]


def test_nothing_to_say(config: Writer) -> None:
    """A configuration without anything odd is ok, with no warning."""
    document = config.base()
    document["clusters"][0]["ssh"]["host_keys"] = [ED25519]
    assert _report(config, document) == (["ok: 1 system"], 0)


def test_warnings_leave_the_status_0(config: Writer) -> None:
    document = config.base()
    document["auth"]["authentication"]["public_certs"] = []
    cluster = document["clusters"][0]
    cluster["ssh"]["proxy_host"] = "jump"
    del cluster["service_account"]
    cluster["probing"] = {"services": {"ssh": {}}}
    cluster["data_operation"] = {"data_transfer": S3 | {"ttl": 10**6}}
    document["clusters"].append(
        {
            "name": "eiger",
            "ssh": {"host": "e", "known_hosts": "/dev/null"},
            "scheduler": {"type": "pbs", "version": "23.06.06"},
        }
    )
    lines, status = _report(config, document)
    assert status == 0
    assert lines == [
        "ok: 2 systems",
        "warning: auth.authentication.public_certs: there are no keys, so no token will be accepted",
        "warning: system alps: ssh: no host_keys and no known_hosts; the first key seen will be trusted while the "
        "process lives",
        "warning: system alps: ssh: no proxy_host_keys and no known_hosts; the jump host's first key seen will be "
        "trusted",
        "warning: system alps: probing: there is no service_account, so nothing can be probed",
        "warning: system alps: file_systems: none has default_work_dir, so transfers have nowhere to run",
        "warning: system alps: data_operation.data_transfer.ttl: most stores refuse URLs valid longer than 604800 s",
    ]


def test_an_empty_text_is_said_wherever_it_leaves_something_unset(config: Writer) -> None:
    document = config.base()
    document["auth"]["authentication"] |= {"issuer": "", "audience": "", "jwk_algorithm": None}
    cluster = document["clusters"][0]
    cluster["ssh"] |= {"host_keys": [ED25519], "proxyHost": ""}
    cluster["scheduler"]["environment"] = {"SLURM_CONF": ""}
    document["http"] = {"trusted_proxies": ["10.0.0.1", ""]}
    lines, status = _report(config, document)
    assert status == 0
    (item,) = [line for line in lines if "left out" in line]
    assert item == "warning: http.trusted_proxies[1]: is empty, so it is left out"
    lines.remove(item)
    assert [line.partition(" is empty, so it is unset: ")[::2] for line in lines[1:]] == [
        ("warning: auth.authentication.issuer:", "The iss claim that tokens must carry; unchecked if unset."),
        ("warning: auth.authentication.audience:", "A value that the aud claim must hold; unchecked if unset."),
        (
            "warning: clusters[0].ssh.proxyHost:",
            f"{SshSettings.model_fields['proxy_host'].description} (system alps)",
        ),
    ]


def test_no_systems(config: Writer) -> None:
    """A configuration without systems is ok with a warning."""
    lines, status = _report(config, config.base() | {"clusters": []})
    assert (lines, status) == (["ok: 0 systems", "warning: clusters: there is no system"], 0)


def test_warnings_about_operation(config: Writer, tmp_path: Path) -> None:
    """What will not work in operation is warned of."""
    document = config.base()
    document |= {"metrics": {"path": "/metrics"}, "state_directory": str(tmp_path / "none")}
    cluster = document["clusters"][0]
    cluster["ssh"]["host_keys"] = [ED25519]
    cluster["probing"] = {"services": {"s3": {}, "filesystem": {}}}
    cluster["file_systems"] = []
    lines, status = _report(config, document)
    assert status == 0
    assert lines[1:] == [
        "warning: metrics.path: whoever reaches the API can read the metrics; metrics.port keeps them apart",
        f"warning: state_directory: there is no directory {tmp_path}/none yet, or it cannot be reached",
        "warning: system alps: probing.services.s3: no transfer of the system stands on it, so nothing is probed",
        "warning: system alps: probing.services.filesystem: there are no file_systems to probe",
    ]
