"""Every mistake is named, by file and key, all in one go."""

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config import ConfigError, Mistake, load

from .conftest import Writer, put


def _key(kind: bytes, *rest: bytes) -> str:
    blob = b"".join(struct.pack(">I", len(part)) + part for part in (kind, *rest))
    return base64.b64encode(blob).decode()


ED25519 = f"ssh-ed25519 {_key(b'ssh-ed25519', bytes(32))} node1"
SSH = "clusters/0/ssh"
S3 = {
    "service_type": "s3",
    "name": "s",
    "private_url": "http://private:9000",
    "public_url": "http://public:9000",
    "access_key_id": "id",
    "secret_access_key": "key",
    "region": "r",
    "ttl": 60,
}
TRANSFER = "clusters/0/data_operation/data_transfer"

CONDITIONS = ("users", "groups", "scopes", "clients", "claims", "networks", "systems", "operations", "paths")

ONE = [
    # Unknown keys, near a known one or not.
    (f"{SSH}/max_client", 3, "clusters[0].ssh.max_client", "unknown key 'max_client'; did you mean 'max_clients'?"),
    (f"{SSH}/maxClient", 3, "clusters[0].ssh.maxClient", "did you mean 'maxClients'?"),
    (f"{SSH}/timeout/idle", 3, "clusters[0].ssh.timeout.idle", "unknown key 'idle'; did you mean 'idleTimeout'?"),
    (f"{SSH}/zzz", 3, "clusters[0].ssh.zzz", "unknown key 'zzz'; known here are host, port, proxy_host"),
    ("cluster", [], "cluster", "did you mean 'clusters'?"),
    ("clusters/0/scheduler/api_uri", "", "clusters[0].scheduler.api_uri", "did you mean 'api_url'?"),
    (f"{TRANSFER}", S3 | {"multipart": {"use_splits": 1}}, None, "did you mean 'use_split'?"),
    (f"{TRANSFER}", [{"service_type": "wormhole", "pypi_url": ""}], None, "did you mean 'pypi_index_url'?"),
    ("ssh_credentials/max_connection", 1, "ssh_credentials.max_connection", "did you mean 'max_connections'?"),
    ("clusters/0/probing/services/ssh/time", 1, "clusters[0].probing.services.ssh.time", "did you mean 'timeout'?"),
    # Required, wrong kind, out of range.
    (f"{SSH}/host", ..., "clusters[0].ssh.host", "is required but missing"),
    (f"{SSH}/host", "", "clusters[0].ssh.host", "must not be empty"),
    (f"{SSH}/port", 0, "clusters[0].ssh.port", "must be greater than or equal to 1"),
    (f"{SSH}/port", "ssh", "clusters[0].ssh.port", "must be a whole number"),
    (f"{SSH}/timeout/login", "soon", "clusters[0].ssh.timeout.login", "must be a number"),
    (f"{SSH}/timeout/login", 0, "clusters[0].ssh.timeout.login", "must be greater than 0"),
    (f"{SSH}/timeout/login", float("inf"), "clusters[0].ssh.timeout.login", "must be a finite number"),
    (SSH, "login.example.org", "clusters[0].ssh", "must be a mapping"),
    ("clusters", {"name": "alps"}, "clusters", "must be a list"),
    ("clusters", ["alps"], "clusters[0]", "must be a mapping"),
    ("auth", ..., "auth", "is required but missing"),
    ("app_debug", "perhaps", "app_debug", "must be true or false"),
    ("clusters/0/scheduler/version", 24.05, "clusters[0].scheduler.version", "must be text: put the value in quotes"),
    ("clusters/0/probing/services/disk", {}, "clusters[0].probing.services.disk", "must be 'ssh', 'scheduler'"),
    ("clusters/0/file_systems", [{"path": "home", "data_type": "users"}], None, "must be an absolute path"),
    ("clusters/0/file_systems", [{"path": "/h", "data_type": "disk"}], None, "must be 'users', 'store', 'archive'"),
    # What is written right but cannot be meant.
    ("auth/authentication/public_certs", ["ftp://idp/jwks"], "auth.authentication.public_certs[0]", "file://"),
    ("auth/authentication/public_certs", ["file://keys.json"], None, "file://"),
    ("auth/authentication/public_certs", "https://idp/jwks", "auth.authentication.public_certs", "must be a list"),
    ("auth/authentication/token_url", "idp/token", "auth.authentication.token_url", "begins with http://"),
    ("auth/authentication/username_pattern", "[a-z", "auth.authentication.username_pattern", "regular expression"),
    ("auth/authentication/jwk_algorithm", "HS256", "auth.authentication.jwk_algorithm", "must be one of RS256"),
    (f"{SSH}/proxy_port", 22, "clusters[0].ssh.proxy_port", "has no meaning without proxy_host"),
    (f"{SSH}/proxy_host_keys", [ED25519], "clusters[0].ssh.proxy_host_keys", "has no meaning without proxy_host"),
    (f"{SSH}/known_hosts", "/nowhere/known_hosts", "clusters[0].ssh.known_hosts", "No such file"),
    (f"{SSH}/known_hosts", "/tmp", "clusters[0].ssh.known_hosts", "Is a directory"),
    (f"{SSH}/strict_host_keys", True, "clusters[0].ssh.strict_host_keys", "nothing to verify against"),
    (f"{SSH}/host_keys", ["ssh-ed25519"], "clusters[0].ssh.host_keys[0]", "must be 'TYPE BASE64'"),
    (f"{SSH}/host_keys", ["ssh-dss AAAA"], "clusters[0].ssh.host_keys[0]", "with a type out of ssh-ed25519"),
    (f"{SSH}/host_keys", [ED25519, "ssh-ed25519 ~~~"], "clusters[0].ssh.host_keys[1]", "not base64"),
    (f"{SSH}/host_keys", [f"ssh-rsa {ED25519.split()[1]}"], None, "holds one of another type"),
    (f"{SSH}/host_keys", [f"ssh-ed25519 {ED25519.split()[1][:-8]}"], None, "it is cut short"),
    ("clusters/0/scheduler/type", "slrum", "clusters[0].scheduler.type", "did you mean 'slurm'?"),
    ("clusters/0/scheduler/type", ..., "clusters[0].scheduler.type", "is required but missing; it is one of"),
    ("clusters/0/scheduler/connection_mode", "rest", None, "api_url"),
    ("clusters/0/scheduler", None, "clusters[0].scheduler", "must be a mapping with the key 'type'"),
    ("ssh_credentials", {}, "ssh_credentials.type", "is required but missing"),
    ("ssh_credentials", {"type": "SSHStaticKeys", "keys": {}}, "ssh_credentials.keys", None),
    (TRANSFER, S3 | {"service_type": "ftp"}, "clusters[0].data_operation.data_transfer.service_type", "must be one of"),
    (TRANSFER, S3 | {"private_url": "objects"}, None, "http:// or https://"),
    (TRANSFER, S3 | {"ttl": 0}, "clusters[0].data_operation.data_transfer.ttl", "greater than 0"),
    (TRANSFER, [S3, S3], "clusters[0].data_operation.data_transfer", "has 's3' more than once"),
    (TRANSFER, [S3, {}], "clusters[0].data_operation.data_transfer[1].service_type", "is required but missing"),
    (TRANSFER, {"service_type": "streamer", "port_range": [9, 8]}, None, "the first and the last port"),
    # Words that are nearly one of those allowed.
    ("clusters/0/file_systems", [{"path": "/s", "data_type": "scrach"}], None, "; did you mean 'scratch'?"),
    ("clusters/0/scheduler/type", "slurmm", None, "; did you mean 'slurm'?"),
    (TRANSFER, S3 | {"service_type": "steamer"}, None, "; did you mean 'streamer'?"),
    ("auth/authentication/token_endpoint_auth_method", "client_secret_bsic", None, "'client_secret_basic'?"),
    ("auth/authentication/jwk_algorithm", "RS265", None, "; did you mean 'RS256'?"),
    ("auth/policy", {"rules": [{"name": "r", "operations": ["fs:raed"]}]}, None, "; did you mean 'fs:read'?"),
    ("auth/policy", {"rules": [{"name": "r", "effect": "alow"}]}, None, "; did you mean 'allow'?"),
    ("auth/policy", {"rules": [{"name": "r", "systems": ["alsp"]}]}, None, "no system 'alsp'; did you mean 'alps'?"),
    ("clusters/0/probing/services", {"schedular": {"timeout": 1}}, None, "; did you mean 'scheduler'?"),
    # Empty where something must be.
    ("auth/authentication/token_url", "", "auth.authentication.token_url", "must be a URL"),
    ("clusters/0/name", "", "clusters[0].name", "must not be empty"),
    (f"{SSH}/host", "", "clusters[0].ssh.host", "must not be empty"),
    ("app_version", "two", "app_version", "must be three numbers"),
    ("app_version", "2.0.0", "app_version", "2.2.8 or later"),
    ("apis_root_path", "api", "apis_root_path", "must begin with /"),
    ("clusters/0/name", "a/b", "clusters[0].name", "must match the regular expression ^[^/"),
    ("clusters/0/service_account/secret", "secret_file:/nowhere/x", "clusters[0].service_account.secret", "/nowhere/x"),
    ("clusters/0/service_account/secret", "secret_file:/tmp", None, "Is a directory"),
    # Empty where that would let more in.
    *(
        (where, value, None, "is empty, which would let more in")
        for where, value in (
            *(
                ("auth/policy", {"rules": [{"name": "a", name: value}]})
                for name in CONDITIONS
                for value in (("", [""], ["", None]) if name != "claims" else ("",))
            ),
            (
                "auth/api_keys",
                [
                    {
                        "name": "a",
                        "hash": f"sha256:{'0' * 64}",
                        "username": "u",
                        "expires": "2030-01-01T00:00:00Z",
                        "networks": [""],
                    }
                ],
            ),
            (f"{SSH}/host_keys", [""]),
            (f"{SSH}/host_keys", ""),
            ("ssh_credentials", {"type": "SSHService", "url": "https://keys", "ca_public_keys": [""]}),
            ("ssh_credentials", {"type": "LocalCA", "ca_key": "k", "source_address": [""]}),
        )
    ),
    # The older shapes: the key is the one in the file.
    ("clusters/0/probing", {"interval": 9, "timeout": "x"}, "clusters[0].probing.timeout", "must be a number"),
    ("clusters/0/datatransfer_jobs_directives", "#SBATCH", "clusters[0].datatransfer_jobs_directives", "a list"),
    ("data_operation", {"max_ops_file_size": -1}, "data_operation.max_ops_file_size", "greater than or equal to 0"),
    ("storage", S3 | {"ttl": "x"}, "storage.ttl", "must be a whole number"),
    ("storage", S3 | {"probing": {"period": 1}}, "storage.probing.period", "unknown key"),
    ("storage", "s3", "storage", "must be a mapping"),
    ("data_operation", {"data_transfer": {"service_type": "wormhole", "probing": 3}}, None, "must be a mapping"),
    ("ssh_credentials", {"ann": {"private_key": "k"}, "bob": {}}, "ssh_credentials.bob.private_key", "is required"),
]


@pytest.mark.parametrize(("where", "value", "key", "message"), ONE)
def test_one_mistake(where: str, value: Any, key: str | None, message: str | None, config: Writer) -> None:
    """One mistake is one message, with its key and what is wrong."""
    found = config.mistake(put(config.base(), where, value))
    assert key is None or found[0] == key
    assert message is None or message in found[1]


def test_the_same_key_in_both_spellings(config: Writer) -> None:
    document = put(put(config.base(), f"{SSH}/max_clients", 3), f"{SSH}/maxClients", 3)
    assert config.mistake(document) == (
        "clusters[0].ssh.maxClients",
        "is given twice, also as max_clients (system alps)",
    )


def test_good_host_keys_make_strictness_possible(config: Writer) -> None:
    document = put(put(config.base(), f"{SSH}/host_keys", [ED25519]), f"{SSH}/strict_host_keys", True)
    assert config.load(document).clusters[0].ssh.strict_host_keys
    key, message = config.mistake(put(document, f"{SSH}/proxy_host", "jump"))
    assert key == "clusters[0].ssh.strict_host_keys"
    assert "jump host" in message


@pytest.mark.parametrize("before", ["", "@cert-authority ", "login.example.org ", "@cert-authority *.example.org "])
def test_host_keys_as_known_hosts_has_them(before: str, config: Writer) -> None:
    assert config.load(put(config.base(), f"{SSH}/host_keys", [before + ED25519]))


def test_all_mistakes_in_one_go(config: Writer) -> None:
    document = config.base()
    put(document, "clusters/0/ssh/port", 99999)
    put(document, "clusters/0/ssh/proxy_port", 22)
    put(document, "clusters/0/ssh/colour", "red")
    put(document, "clusters/0/file_systems", [{"path": "/a", "data_type": "users", "default_work_dir": True}] * 2)
    put(document, "clusters/0/scheduler", {"type": "slurm"})
    put(document, "auth/authentication/token_url", 3)
    document["clusters"].append(document["clusters"][0] | {"name": "ALPS", "ssh": {"host": "h"}, "file_systems": []})
    assert {mistake.key for mistake in config.mistakes(document)} == {
        "clusters[0].ssh.port",
        "clusters[0].ssh.proxy_port",
        "clusters[0].ssh.colour",
        "clusters[0].file_systems",
        "clusters[0].scheduler.version",
        "clusters[1].scheduler.version",
        "clusters[1].name",
        "auth.authentication.token_url",
    }


def test_two_default_work_dirs_are_named(config: Writer) -> None:
    systems = [{"path": path, "data_type": "users", "default_work_dir": True} for path in ("/a", "/b")]
    key, message = config.mistake(put(config.base(), "clusters/0/file_systems", systems))
    assert key == "clusters[0].file_systems"
    assert "/a and /b" in message


def test_names_differ_by_more_than_case(config: Writer) -> None:
    document = config.base()
    document["clusters"].append(document["clusters"][0] | {"name": "Alps"})
    assert config.mistake(document)[0] == "clusters[1].name"


def test_a_shared_data_operation_is_reported_once(config: Writer) -> None:
    document = config.base()
    document["clusters"].append(document["clusters"][0] | {"name": "eiger"})
    document["data_operation"] = {"max_ops_file_size": "big"}
    assert config.mistake(document)[0] == "data_operation.max_ops_file_size"


def test_storage_beside_data_operation(config: Writer) -> None:
    document = config.base() | {"storage": S3, "data_operation": {}}
    assert config.mistake(document)[0] == "storage"


def test_directives_in_both_places(config: Writer) -> None:
    document = put(config.base(), "clusters/0/data_operation/datatransfer_jobs_directives", ["a"])
    document["clusters"][0]["datatransfer_jobs_directives"] = ["b"]
    key, message = config.mistake(document)
    assert key == "clusters[0].datatransfer_jobs_directives"
    assert "is given in data_operation too" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "must be a mapping of settings"),
        ("a: b: c\n", "is not YAML: mapping values are not allowed here, line 1, column 5"),
        ("auth:\n\t- x\n", "line 2"),
        ("a: 'open\n", "is not YAML"),
        ("a: &x {b: *x}\n", "refers to an anchor within itself"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
        ("a: \x07\n", "special characters are not allowed, line 1"),
        ("a: 2024-99-99\n", "is not YAML"),
        ("a: " + "[" * 1200, "is not YAML"),
        ("? {a: b}\n: c\n", "is not YAML"),
        ("a: *nobody\n", "found undefined alias"),
    ],
)
def test_text_that_is_no_configuration(text: str, message: str, config: Writer) -> None:
    (mistake,) = config.mistakes(text)
    assert mistake.file == config.path
    assert message in mistake.message


def test_a_syntax_error_does_not_quote_the_line(config: Writer) -> None:
    (mistake,) = config.mistakes("secret: hunter2: x\n")
    assert "hunter2" not in str(mistake)


def test_not_utf_8(config: Writer) -> None:
    """A file that is not UTF-8 is refused in so many words."""
    config.path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(config.path)


def test_duplicate_keys(config: Writer) -> None:
    """A key that is given twice is a mistake, with the line of the first."""
    text = yaml.safe_dump(config.base()).replace("port: 22", "port: 22\n    port: 23")
    ((key, message),) = [(mistake.key, mistake.message) for mistake in config.mistakes(text)]
    assert key == "clusters[0].ssh.port"
    assert message.startswith("is given twice, first in line ")


def test_keys_that_are_no_text(config: Writer) -> None:
    assert config.mistake(config.base() | {1: 2}) == ("[1]", "must be text: put the key in quotes")


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read, or was not named, is told of in one line."""
    with pytest.raises(ConfigError, match=r"config\.yaml: \(file\): cannot be read: No such file or directory"):
        load(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    monkeypatch.delenv("YAML_CONFIG_FILE", raising=False)
    monkeypatch.setenv("INPUT_YAML_CONFIG_FILE", "")
    with pytest.raises(ConfigError, match=r"^No configuration: give a file with --config, or .* YAML_CONFIG_FILE$"):
        load()


def test_mistakes_in_a_directory_name_that_file(example: Callable[[str], Path], tmp_path: Path) -> None:
    systems = tmp_path / "systems"
    systems.mkdir()
    good = "name: NAME\nssh: {host: h}\nscheduler: {type: slurm, version: 24.05.4}\n"
    (systems / "a.yaml").write_text(good.replace("NAME", "same") + "service_acount: {}\n")
    (systems / "b.yaml").write_text(good.replace("NAME", "Same"))
    (systems / "c.yaml").write_text("a: b: c")
    (systems / "d.yaml").write_text("[]")
    (systems / "e.yaml").write_text(good.replace("NAME", "e").replace("host", "hots"))
    (systems / "f.yaml").write_text(good + "probing: {timeout: no}\nprobing: {}\n")
    (systems / "g.txt").write_text("not a system")
    path = example("directory.yaml")
    text = path.read_text()
    path.write_text(text.split("path:")[0] + f'path:{systems}"\napp_debug: 7\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert {(Path(mistake.file).name, mistake.key) for mistake in caught.value.mistakes} == {
        ("directory.yaml", "app_debug"),
        ("a.yaml", "service_acount"),
        ("b.yaml", "name"),
        ("c.yaml", "(file)"),
        ("d.yaml", "(file)"),
        ("e.yaml", "ssh.host"),
        ("e.yaml", "ssh.hots"),
        ("f.yaml", "probing"),
    }
    path.write_text(text.split("path:")[0] + 'path:/nowhere/systems"\n')
    with pytest.raises(ConfigError, match="clusters: cannot list the directory /nowhere/systems: No such file"):
        load(path)


def test_an_error_prints_a_line_for_each_mistake() -> None:
    error = ConfigError([Mistake("a.yaml", "b[0].c", "is wrong"), Mistake("a.yaml", "d", "is worse")])
    assert str(error) == "a.yaml: b[0].c: is wrong\na.yaml: d: is worse"
