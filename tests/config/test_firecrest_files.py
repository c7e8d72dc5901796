"""FirecREST files of every age load unchanged and mean what they meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from hpcgate.config import Settings, load

from .conftest import EXAMPLES, Writer, put

Example = Callable[[str], Path]


def test_static_keys_and_s3(example: Example) -> None:
    settings = load(example("static-keys-s3.yaml"))
    assert settings.app_version == "2.6.0"
    assert settings.apis_root_path == "/hpc/v2"
    assert settings.doc_servers == ({"url": "https://gateway.example.org/hpc/v2", "description": "Production"},)
    oidc = settings.auth.authentication
    assert oidc.username_claim == "uid"
    assert oidc.token_endpoint_auth_method == "client_secret_post"
    assert oidc.min_token_ttl == 30
    assert oidc.scopes == {"openid": "Who you are"}
    assert oidc.public_certs[1] == "file:///etc/hpcgate/partner-keys.json"
    assert settings.auth.authorization is not None
    assert settings.auth.authorization.max_connections == 0
    keys: Any = settings.ssh_credentials
    assert keys.keys["alice"].passphrase.get_secret_value() == "the secret of alice-passphrase"
    assert keys.keys["alice"].public_cert == "ssh-ed25519-cert-v01@openssh.com AAAA alice"
    assert keys.keys["build_bot"].private_key.get_secret_value() == "the secret of bot"
    (rigi,) = settings.clusters
    assert rigi.ssh.max_clients == 250
    assert rigi.ssh.timeout.model_dump() == {
        "connection": 4,
        "login": 6,
        "command_execution": 20,
        "idle_timeout": 120,
        "keep_alive": 15,
    }
    assert rigi.service_account is not None
    assert rigi.service_account.secret.get_secret_value() == "the secret of health"
    assert rigi.probing.interval_check == 90
    assert rigi.probing.startup_grace_period == 600
    assert rigi.probing.services is not None
    assert {name: probe.timeout for name, probe in rigi.probing.services.items()} == {
        "ssh": 5,
        "scheduler": 12,
        "filesystem": 12,
        "s3": 8,
    }
    assert [(system.path, system.data_type, system.default_work_dir) for system in rigi.file_systems] == [
        ("/users", "users", True),
        ("/scratch", "scratch", False),
    ]
    assert rigi.data_operation.max_ops_file_size == 10 * 1024**2
    assert rigi.data_operation.datatransfer_jobs_directives[1] == "#SBATCH --account={account}"
    s3: Any
    (s3,) = rigi.data_operation.data_transfer
    assert s3.private_url.get_secret_value() == "http://objects.internal:9000"
    assert s3.secret_access_key.get_secret_value() == "the secret of s3"
    assert s3.tenant == "hpc"
    assert s3.multipart.model_dump() == {
        "use_split": True,
        "max_part_size": 512 * 1024**2,
        "parallel_runs": 4,
        "tmp_folder": "parts",
    }
    assert s3.bucket_lifecycle_configuration.days == 3
    assert settings.logger.enable_tracing_log
    assert settings.logger.loggable_request_headers[0].output == "user_agent"


def test_service_hybrid_and_streamer(example: Example) -> None:
    settings = load(example("ssh-service-hybrid-streamer.yaml"))
    credentials: Any = settings.ssh_credentials
    assert (credentials.type, credentials.max_connections) == ("SSHService", 500)
    (daint,) = settings.clusters
    scheduler: Any = daint.scheduler
    assert (scheduler.connection_mode, scheduler.api_version) == ("hybrid", "0.0.42")
    assert (daint.ssh.proxy_host, daint.ssh.proxy_port) == ("bastion.example.net", 22)
    assert daint.service_account is not None
    assert daint.service_account.secret.get_secret_value() == ""
    assert daint.probing.interval_check == 60
    assert daint.probing.services is not None
    assert set(daint.probing.services) == {"scheduler", "filesystem"}
    streamer: Any
    (streamer,) = daint.data_operation.data_transfer
    assert streamer.port_range == (5665, 5670)
    assert streamer.public_ips == ("192.0.2.7", "192.0.2.8")
    assert streamer.wait_timeout == 43200
    assert streamer.inbound_transfer_limit == 2**31


def test_ca_pbs_wormhole_and_one_data_operation_for_all(example: Example) -> None:
    settings = load(example("ssh-ca-pbs-wormhole.yaml"))
    assert settings.ssh_credentials.type == "SSHCA"
    titlis, test = settings.clusters
    assert titlis.scheduler.type == "pbs"
    assert titlis.data_operation.max_ops_file_size == 1048576
    assert titlis.data_operation.datatransfer_jobs_directives == ("#PBS -l select=1:ncpus=1",)
    assert titlis.data_operation.data_transfer[0].service_type == "wormhole"
    assert titlis.probing.services is not None
    assert {name: probe.timeout for name, probe in titlis.probing.services.items()} == {
        "ssh": 10,
        "scheduler": 20,
        "s3": 15,
    }
    assert test.data_operation.max_ops_file_size == 2048
    assert test.data_operation.data_transfer == ()
    assert test.probing.services is None


def test_the_oldest_shape(example: Example) -> None:
    """FirecREST's oldest shape of a file means what it meant."""
    settings = load(example("oldest.yaml"))
    credentials: Any = settings.ssh_credentials
    assert credentials.type == "SSHStaticKeys"
    assert set(credentials.keys) == {"fire", "srv"}
    assert credentials.keys["fire"].passphrase.get_secret_value() == "the secret of fire-passphrase"
    (one,) = settings.clusters
    assert one.probing.services is not None
    assert {name: probe.timeout for name, probe in one.probing.services.items()} == {
        "ssh": 10,
        "scheduler": 10,
        "filesystem": 10,
        "s3": 7,
    }
    assert one.probing.startup_grace_period == 30
    assert one.data_operation.max_ops_file_size == 1048576
    assert one.data_operation.datatransfer_jobs_directives == ("#SBATCH --nodes=1",)
    s3: Any
    (s3,) = one.data_operation.data_transfer
    assert (s3.service_type, s3.name, s3.ttl) == ("s3", "s3-storage", 604800)


def test_a_directory_of_systems(example: Example) -> None:
    settings = load(example("directory.yaml"))
    assert [cluster.name for cluster in settings.clusters] == ["eiger", "pilatus"]
    assert settings.ssh_credentials.type == "SSHService"
    methods = [transfer.service_type for transfer in settings.clusters[0].data_operation.data_transfer]
    assert methods == ["wormhole", "streamer"]


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {to_camel(key): _camel(item) for key, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["ssh-service-hybrid-streamer.yaml", "ssh-ca-pbs-wormhole.yaml", "oldest.yaml"])
def test_camel_case_means_the_same(name: str, example: Example, config: Writer) -> None:
    import yaml

    path = example(name)
    assert config.load(_camel(yaml.safe_load(path.read_text()))) == load(path)


def test_defaults_are_firecrests(config: Writer) -> None:
    """Where FirecREST has a default, it is ours."""
    settings = config.load(config.base())
    assert settings.auth.authentication.username_claim == "preferred_username"
    assert settings.auth.authentication.token_endpoint_auth_method == "client_secret_basic"
    (alps,) = settings.clusters
    assert alps.ssh.max_clients == 100
    assert list(alps.ssh.timeout.model_dump().values()) == [5, 5, 5, 60, 5]
    assert alps.scheduler.timeout == 10
    assert alps.probing.interval_check == 120
    assert alps.data_operation.max_ops_file_size == 5242880
    document = config.base()
    document["clusters"][0]["data_operation"] = {
        "data_transfer": [
            {"service_type": "streamer"},
            {
                "service_type": "s3",
                "name": "s",
                "private_url": "http://a",
                "public_url": "http://b",
                "access_key_id": "",
                "secret_access_key": "",
                "region": "r",
                "ttl": 1,
            },
        ]
    }
    streamer: Any
    s3: Any
    streamer, s3 = config.load(document).clusters[0].data_operation.data_transfer
    assert (streamer.host, streamer.port_range, streamer.public_ips) == (None, (5665, 5675), None)
    assert (streamer.wait_timeout, streamer.inbound_transfer_limit) == (86400, 5368709120)
    assert list(s3.multipart.model_dump().values()) == [False, 2147483648, 3, "tmp"]
    assert s3.bucket_lifecycle_configuration.days == 10


def test_null_leaves_the_default(config: Writer) -> None:
    document = config.base()
    document["logger"] = None
    document["doc_servers"] = None
    document["auth"]["authentication"]["scopes"] = None
    document["clusters"][0] |= {"file_systems": None, "data_operation": None, "probing": None}
    document["clusters"][0]["ssh"] |= {"timeout": None, "max_clients": None, "proxy_port": None}
    assert config.load(document) == config.load(config.base())


def test_an_empty_text_leaves_the_default(config: Writer) -> None:
    document = config.base()
    document |= {"logger": "", "doc_servers": "", "app_version": "", "state_directory": "", "metrics": ""}
    document["auth"]["authentication"] |= {
        "scopes": "", "audience": "", "issuer": "", "username_map": "", "jwk_algorithm": "", "leeway": "",
        "required_scopes": "", "usernamePattern": "", "introspection": "",
    }  # fmt: skip
    document["auth"]["policy"] = ""
    document["clusters"][0] |= {"file_systems": "", "data_operation": "", "probing": "", "maintenance": ""}
    document["clusters"][0]["ssh"] |= {"timeout": "", "max_clients": "", "proxy_host": "", "proxyPort": "", "port": ""}
    assert config.load(document) == config.load(config.base())


@pytest.mark.parametrize(
    ("where", "given", "same_as"),
    [
        ("auth/authentication/public_certs", ["", "https://idp/jwks"], ["https://idp/jwks"]),
        ("auth/authentication/required_scopes", ["firecrest", "", None], ["firecrest"]),
        ("auth/authentication/required_scopes", [""], ...),
        ("auth/authentication/tokenTypes", ["", ""], ...),
        ("auth/authentication/denied_users", [""], ...),
        ("auth/policy", {"rules": [None, {"name": "a", "users": ["ann", ""]}]},
            {"rules": [{"name": "a", "users": ["ann"]}]}),
        ("doc_servers", [None], ...),
        ("http", {"trusted_proxies": [""]}, {}),
        ("http", {"trusted_proxies": ["10.0.0.0/8", ""]}, {"trusted_proxies": ["10.0.0.0/8"]}),
        ("clusters/0/ssh/host", ["", "login.example.org"], ["login.example.org"]),
        ("clusters/0/ssh/path", ["", "/opt/slurm/bin"], ["/opt/slurm/bin"]),
        ("clusters/0/file_systems", [None, {"path": "/h", "data_type": "users"}],
            [{"path": "/h", "data_type": "users"}]),
        ("clusters/0/data_operation", {"datatransfer_jobs_directives": ["", "#SBATCH -n1"]},
            {"datatransfer_jobs_directives": ["#SBATCH -n1"]}),
        ("clusters/0/data_operation", {"data_transfer": ["", {"service_type": "wormhole"}]},
            {"data_transfer": [{"service_type": "wormhole"}]}),
        ("clusters/0/data_operation", {"data_transfer": [""]}, {}),
        ("clusters/0/maintenance", [""], ...),
    ],
)  # fmt: skip
def test_empty_items_of_a_list_are_left_out(where: str, given: Any, same_as: Any, config: Writer) -> None:
    assert config.load(put(config.base(), where, given)) == config.load(put(config.base(), where, same_as))


def test_null_that_means_something_stays(config: Writer) -> None:
    document = config.base()
    document["auth"]["authorization"] = {"url": "http://fga/check", "timeout": None}
    authorization = config.load(document).auth.authorization
    assert authorization is not None
    assert authorization.timeout is None


def test_anchors_and_merges(config: Writer) -> None:
    """Anchors and merge keys of YAML are followed."""
    settings = config.load(
        """
auth:
  authentication: {token_url: "https://idp/token", public_certs: ["https://idp/jwks"]}
ssh_credentials: {type: SSHService, url: "https://keys"}
clusters:
  - &alps
    name: alps
    ssh: {host: a}
    scheduler: {type: slurm, version: 24.05.4}
  - <<: *alps
    name: eiger
"""
    )
    assert [(cluster.name, cluster.ssh.host) for cluster in settings.clusters] == [("alps", "a"), ("eiger", "a")]


def test_the_environment_names_the_file(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example("directory.yaml")
    monkeypatch.setenv("YAML_CONFIG_FILE", str(path))
    assert load() == load(path)


def test_the_environment_names_the_file_as_in_firecrests_images(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = example("directory.yaml")
    monkeypatch.setenv("YAML_CONFIG_FILE", "")
    monkeypatch.setenv("INPUT_YAML_CONFIG_FILE", str(path))
    assert load() == load(path)
    monkeypatch.setenv("INPUT_YAML_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("YAML_CONFIG_FILE", str(path))
    assert load() == load(path)


def test_examples_are_all_tested() -> None:
    tested = Path(__file__).read_text()
    assert all(path.name in tested for path in EXAMPLES.glob("*.yaml"))


def test_settings_are_frozen(config: Writer) -> None:
    """Nothing changes settings once they are loaded."""
    settings: Settings = config.load(config.base())
    with pytest.raises(ValueError, match="frozen"):
        settings.app_debug = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.auth.authentication.scopes["a"] = "b"  # type: ignore[index]
