"""The Helm chart: rendered and linted by Helm's own library, held against Kubernetes' schemas, and its command run."""

import functools
import json
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import helm_python
import httpx
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, SecretStr

import hpcgate
from hpcgate.config.check import report
from hpcgate.config.loading import load
from hpcgate.config.models import Settings
from hpcgate.config.plugins import plugins
from tests.transfers.servers import free_port, wait_for_port

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "hpcgate"
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text()
DOCS = Path(__file__).parents[2] / "docs" / "operations" / "deployment.md"
VALUES = ("minimal", "everything")
KUBERNETES = ("1.27", "1.34", "1.37")
CUSTOM = {"HTTPRoute", "BackendTrafficPolicy", "ServiceMonitor", "PrometheusRule"}
"""Kinds that come with others' software, whose schemas are not at hand."""

Manifest = dict[str, Any]


def values(name: str, **changes: Any) -> dict[str, Any]:
    """Return values of the chart's directory `ci` with some replaced; keys of dictionaries are merged."""
    found: dict[str, Any] = helm_python.values_from_yaml((CHART / "ci" / f"{name}-values.yaml").read_text())
    return merged(found, changes)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = deepcopy(dict(old))
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def rendered(given: Mapping[str, Any], release: str = "hpcgate") -> dict[str, str]:
    """Return what Helm makes of each template; the schema of the values is applied as `helm template` does."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(given))
        return chart.render(dict(given), name=release, namespace="gateways")


def manifests(given: Mapping[str, Any], release: str = "hpcgate") -> list[Manifest]:
    texts = rendered(given, release)
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def one(found: list[Manifest], kind: str, ending: str = "") -> Manifest:
    (manifest,) = (it for it in found if it["kind"] == kind and it["metadata"]["name"].endswith(ending))
    return manifest


def container(found: list[Manifest]) -> Manifest:
    (only,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    return only  # type: ignore[no-any-return]


@functools.cache
def of(name: str) -> list[Manifest]:
    return manifests(values(name))


def configuration(found: list[Manifest], directory: Path) -> Path:
    """Write what the pod would find, with the directories of the pod below another one; return the configuration."""
    data = one(found, "ConfigMap")["data"]
    text = (
        data["config.yaml"].replace("/etc/hpcgate/", f"{directory}/").replace("/run/secrets/", f"{directory}/secrets/")
    )
    for file in re.findall(rf"secret_file:({directory}/secrets/\S+)", text):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("redis://user:password@127.0.0.1/0" if "redis" in file else "a secret")
    for name, content in data.items():
        (directory / name).write_text(text if name == "config.yaml" else content)
    return directory / "config.yaml"


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    found = helm_python.lint(CHART, values(name), strict=True, namespace="gateways")
    assert found["errors"] == []
    assert [it["error"] for it in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", VALUES)
def test_the_manifests_are_what_kubernetes_takes(name: str, kubernetes: str) -> None:
    unknown = set()
    for manifest in of(name):
        try:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(manifest["kind"])
    assert unknown <= CUSTOM
    assert (unknown == CUSTOM) is (name == "everything")


def test_all_kinds_are_there() -> None:
    plain = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert {it["kind"] for it in of("minimal")} == plain
    assert {it["kind"] for it in of("everything")} == plain | CUSTOM | {"HorizontalPodAutoscaler", "Ingress"}


@pytest.mark.parametrize("name", VALUES)
def test_the_configuration_is_a_good_one(name: str, tmp_path: Path) -> None:
    lines, status = report(configuration(of(name), tmp_path))
    assert status == 0, lines
    assert lines[0] == "ok: 1 system"
    assert [line for line in lines if "public_certs" in line or "known_hosts" in line] == []


@pytest.mark.parametrize("name", VALUES)
def test_the_pod_is_shut_in_as_the_image_is_made(name: str) -> None:
    pod = one(of(name), "Deployment")["spec"]["template"]["spec"]
    user = int(re.findall(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)[-1])
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (user, user, True)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(of(name))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert one(of(name), "ServiceAccount")["automountServiceAccountToken"] is False
    assert container(of(name))["args"] == json.loads(re.findall(r"^CMD (.*)$", CONTAINERFILE, re.MULTILINE)[-1])
    assert all(mount.get("readOnly") for mount in container(of(name))["volumeMounts"] if mount["name"] != "state")


@pytest.mark.parametrize("name", VALUES)
def test_ports_and_labels_lead_to_the_pod(name: str, tmp_path: Path) -> None:
    found = of(name)
    deployment = one(found, "Deployment")
    ports = {it["name"]: it["containerPort"] for it in container(found)["ports"]}
    settings = load(configuration(found, tmp_path))
    exposed = int(re.findall(r"^EXPOSE (\d+)$", CONTAINERFILE, re.MULTILINE)[0])
    assert ports == {"http": exposed, "metrics": settings.metrics.port}
    assert settings.metrics.host == "0.0.0.0"
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selecting = [it["spec"]["selector"] for it in found if it["kind"] == "Service"]
    selecting += [it["spec"]["selector"]["matchLabels"] for it in found if it["kind"] == "PodDisruptionBudget"]
    selecting += [it["spec"]["podSelector"]["matchLabels"] for it in found if it["kind"] == "NetworkPolicy"]
    assert len(selecting) == 4
    for selector in (deployment["spec"]["selector"]["matchLabels"], *selecting):
        assert selector.items() <= labels
    targets = {it["targetPort"] for service in found if service["kind"] == "Service" for it in service["spec"]["ports"]}
    assert targets == set(ports)
    allowed = [port["port"] for rule in one(found, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert allowed == ["http", "metrics"]


def test_routes_and_monitors_lead_to_the_services() -> None:
    found = of("everything")
    api, metrics = one(found, "Service", "gateway"), one(found, "Service", "-metrics")
    (path,) = one(found, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": api["metadata"]["name"], "port": {"name": "http"}}
    (rule,) = one(found, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": api["metadata"]["name"], "port": api["spec"]["ports"][0]["port"]}]
    assert [it["name"] for it in api["spec"]["ports"]] == ["http"]
    (target,) = one(found, "BackendTrafficPolicy")["spec"]["targetRefs"]
    assert (target["kind"], target["name"]) == ("HTTPRoute", one(found, "HTTPRoute")["metadata"]["name"])
    monitor = one(found, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert not monitor["selector"]["matchLabels"].items() <= api["metadata"]["labels"].items()
    assert metrics["metadata"]["labels"][monitor["jobLabel"]] == "hpcgate"
    assert monitor["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]


@pytest.mark.parametrize("name", VALUES)
def test_a_pod_may_go_and_another_one_stays(name: str) -> None:
    found = of(name)
    scaling = [it["spec"]["minReplicas"] for it in found if it["kind"] == "HorizontalPodAutoscaler"]
    fewest = scaling[0] if scaling else one(found, "Deployment")["spec"]["replicas"]
    assert fewest - one(found, "PodDisruptionBudget")["spec"]["maxUnavailable"] >= 1
    assert ("replicas" in one(found, "Deployment")["spec"]) is not bool(scaling)
    assert one(found, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize(
    ("http", "seconds"),
    [
        ({}, 55),
        ({"drain": 0}, 45),
        ({"drain": 2.5, "graceful_stop": 3600}, 3618),
        ({"gracefulStop": 7}, 32),
        ({"drain": 0, "graceful_stop": 0}, 15),
    ],
)
def test_the_gateway_has_the_time_to_stop(http: dict[str, Any], seconds: int, tmp_path: Path) -> None:
    found = manifests(values("minimal", config={"http": http}))
    assert one(found, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds
    settings = load(configuration(found, tmp_path)).http
    assert seconds > settings.drain + settings.graceful_stop + 5


def test_the_image_is_this_release() -> None:
    assert container(of("minimal"))["image"] == f"hpcgate:{hpcgate.__version__}"
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == hpcgate.__version__
    assert container(of("everything"))["image"].startswith("registry.example.org/hpc/hpcgate@sha256:")


def test_a_changed_configuration_makes_new_pods() -> None:
    def checksum(**config: Any) -> str:
        found = manifests(values("minimal", config=config))
        return str(one(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum() != checksum(logger={"level": "warning"})


def test_secrets_come_by_their_names_alone() -> None:
    found = of("everything")
    assert not [it for it in found if it["kind"] == "Secret"]
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    mounts = {it["name"]: it["mountPath"] for it in container(found)["volumeMounts"]}
    given = {
        mounts[it["name"]]: (it["secret"]["secretName"], it["secret"]["defaultMode"])
        for it in pod["volumes"]
        if "secret" in it
    }
    names = ("hpcgate-keys", "hpcgate-health", "hpcgate-redis", "hpcgate-traces")
    assert given == {f"/run/secrets/{name}": (name, 0o440) for name in names}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    referred = re.findall(r"secret_file:(/run/secrets/[\w-]+)/", one(found, "ConfigMap")["data"]["config.yaml"])
    assert set(referred) == set(given)
    assert container(found)["envFrom"] == [{"secretRef": {"name": "hpcgate-environment"}}]
    assert all("value" in it for it in container(found)["env"])


def secret_fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """Yield the names of all fields of a model, and of those below it, that hold a secret themselves."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        kinds = [field.annotation]
        while kinds:
            kind = kinds.pop()
            if kind is SecretStr:
                yield name
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_fields(kind, seen)
            else:
                kinds.extend(get_args(kind))


def test_no_secret_can_stand_in_the_values() -> None:
    models = [Settings]
    for group in ("credentials", "schedulers", "transfers"):
        models += [plugin.Settings for plugin in map(loaded, plugins(f"hpcgate.{group}").values())]
    names = {name for model in models for name in secret_fields(model, set())}
    assert {"private_key", "secret_access_key", "client_secret", "pkcs11_pin", "headers"} <= names
    for name in names - {"headers", "url", "private_url"}:
        spellings = {name, re.sub(r"_(\w)", lambda found: found[1].upper(), name)}
        for spelling in spellings:
            with pytest.raises(helm_python.HelmError, match="a secret must not stand in the values"):
                rendered(values("minimal", config={"a": [{"b": {spelling: "plain"}}]}))
            rendered(values("minimal", config={"a": [{"b": {spelling: "secret_file:/run/secrets/x/y"}}]}))
    with pytest.raises(helm_python.HelmError, match=r"config\.tracing\.headers\.key: a secret must not"):
        rendered(values("minimal", config={"tracing": {"headers": {"key": "plain"}}}))
    for url in ("redis://:password@redis:6379/0", "https://user:password@s3.example.org"):
        with pytest.raises(helm_python.HelmError, match="a URL with a password must not"):
            rendered(values("minimal", config={"rate_limits": {"redis": {"url": url}}}))


def loaded(plugin: Any) -> Any:
    return plugin.load() if hasattr(plugin, "load") else plugin


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"image": {"repo": "x"}},
        {"image": {"repository": ""}},
        {"image": {"digest": "sha256:short"}},
        {"config": {"auth": None}, "without": "auth"},
        {"config": {"metrics": {"port": 9100}}},
        {"files": {"config.yaml": "x"}},
        {"files": {"sub/file": "x"}},
        {"replicaCount": 0},
        {"replicaCount": "2"},
        {"metrics": {"port": 8000}},
        {"metrics": {"port": 70000}},
        {"config": {"http": {"graceful_stop": 60}}, "terminationGracePeriodSeconds": 70},
        {"secretFiles": ["Not A Name"]},
        {"envFromSecrets": [{"name": "x"}]},
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        {"terminationGracePeriodSeconds": 40},
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
        {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
        {"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}},
        {"ingress": {"enabled": True}},
        {"httpRoute": {"enabled": True}},
        {"service": {"type": "ExternalName"}},
        {"networkPolicy": {"egressPorts": ["ssh"]}},
        {"networkPolicy": {"ingressFrom": [{"namespace": "x"}]}},
        {"fullnameOverride": "Not_a_name"},
    ],
    ids=lambda changes: json.dumps(changes),
)
def test_bad_values_are_refused(changes: dict[str, Any]) -> None:
    changes = dict(changes)
    given = values("minimal")
    if missing := changes.pop("without", None):
        del given["config"][missing]
        changes = {}
    with pytest.raises(helm_python.HelmError):
        rendered(merged(given, changes))


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    section = DOCS.read_text().partition("\n## Helm\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"^```yaml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    given = helm_python.values_from_yaml(example)
    assert helm_python.lint(CHART, given, strict=True)["errors"] == []
    found = manifests(given)
    assert {"Ingress", "ServiceMonitor", "PrometheusRule"} <= {it["kind"] for it in found}
    lines, status = report(configuration(found, tmp_path))
    assert status == 0, lines
    (secret,) = re.findall(r"create secret generic (\S+) --from-file=key=", section)
    assert f"secret_file:/run/secrets/{secret}/key" in one(found, "ConfigMap")["data"]["config.yaml"]
    for version in KUBERNETES:
        assert version in section


def test_what_the_chart_says_without_values_is_that_it_needs_them() -> None:
    with pytest.raises(helm_python.HelmError, match="auth"):
        rendered({})


def test_every_value_is_in_the_schema_and_in_the_file() -> None:
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load(text)) == set(schema["properties"]) - {"global"}

    def compare(defaults: Mapping[str, Any], known: Mapping[str, Any], at: str) -> None:
        for key, value in defaults.items():
            if isinstance(value, dict) and "properties" in known[key] and value:
                properties = known[key]["properties"]
                assert known[key]["additionalProperties"] is False
                missing = set(properties) - set(value) - {"claims"}
                assert not missing, f"{at}{key}: {missing}"
                compare(value, properties, f"{at}{key}.")

    compare(yaml.safe_load(text), schema["properties"], "")


def test_ingress_nginx_is_told_what_the_configuration_of_nginx_says() -> None:
    plain = manifests(values("minimal", ingress={"enabled": True, "host": "hpcgate.example.org"}))
    nginx = re.sub(r"#.*", "", (DEPLOY / "nginx" / "hpcgate.conf").read_text())
    directives = {name: value.removesuffix("s") for name, value in re.findall(r"(\w+) ([^;{}]+);", nginx)}
    others = {"proxy_body_size": "client_max_body_size", "upstream_hash_by": "hash"}
    annotations = one(plain, "Ingress")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/upstream-hash-by"] == "$http_authorization"
    assert len(annotations) == 12
    for name, value in annotations.items():
        directive = name.removeprefix("nginx.ingress.kubernetes.io/").replace("-", "_")
        said = directives[others.get(directive, directive)].removesuffix(" consistent")
        assert (directive, value) == (directive, said)
    changed = one(of("everything"), "Ingress")["metadata"]["annotations"]
    assert changed["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "300"
    assert changed["cert-manager.io/cluster-issuer"] == "site"
    assert set(annotations) < set(changed)


def test_envoy_gateway_is_told_what_the_configuration_of_envoy_says() -> None:
    policy = one(of("everything"), "BackendTrafficPolicy")["spec"]
    resources = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())["static_resources"]
    (cluster,) = resources["clusters"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]
    hashed = policy["loadBalancer"]["consistentHash"]["header"]["name"]
    assert policy["loadBalancer"]["type"] == "ConsistentHash"
    assert route["hash_policy"] == [{"header": {"header_name": hashed.lower()}}]
    assert policy["retry"]["numRetries"] == route["retry_policy"]["num_retries"]
    assert policy["retry"]["retryOn"] == {"triggers": [route["retry_policy"]["retry_on"]]}
    check, (theirs,) = policy["healthCheck"]["active"], cluster["health_checks"]
    assert check["http"]["path"] == theirs["http_health_check"]["path"]
    assert (check["timeout"], check["interval"]) == (theirs["timeout"], theirs["interval"])
    assert policy["timeout"]["tcp"]["connectTimeout"] == cluster["connect_timeout"]
    (rule,) = one(of("everything"), "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"]["request"] == route["timeout"]


def test_the_alerts_are_those_of_the_project() -> None:
    assert (CHART / "files" / "alerts.yaml").read_bytes() == (DEPLOY / "prometheus" / "alerts.yaml").read_bytes()
    rules = one(of("everything"), "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())


@pytest.mark.parametrize(
    ("release", "name"), [("hpcgate", "hpcgate"), ("my-hpcgate", "my-hpcgate"), ("a", "a-hpcgate")]
)
def test_names_come_from_the_release(release: str, name: str) -> None:
    found = manifests(values("minimal"), release)
    assert {it["metadata"]["name"] for it in found} == {name, f"{name}-metrics"}


def test_metrics_can_be_left_out(tmp_path: Path) -> None:
    found = manifests(values("minimal", metrics={"enabled": False}))
    assert [it["metadata"]["name"] for it in found if it["kind"] == "Service"] == ["hpcgate"]
    assert load(configuration(found, tmp_path)).metrics.port is None


def test_the_notes_say_how_to_reach_it() -> None:
    assert "port-forward service/hpcgate 8000:80" in rendered(values("minimal"))["hpcgate/templates/NOTES.txt"]
    assert "https://hpcgate.example.org" in rendered(values("everything"))["hpcgate/templates/NOTES.txt"]


def test_a_package_of_it_is_whole(tmp_path: Path) -> None:
    with helm_python.Chart.load(CHART) as chart:
        archive = chart.save(tmp_path)
    with tarfile.open(archive) as packed:
        names = set(packed.getnames())
    assert {"hpcgate/values.schema.json", "hpcgate/files/alerts.yaml", "hpcgate/templates/_helpers.tpl"} <= names
    assert not [name for name in names if "/ci/" in name]
    with helm_python.Chart.load(archive) as chart:
        again = chart.render(values("everything"), name="hpcgate", namespace="gateways")
    assert again == rendered(values("everything"))


def test_the_pod_runs_as_it_is_told_and_its_probes_are_answered(tmp_path: Path) -> None:
    """The container's own command, with other ports; no image is built for that."""
    port, metrics = free_port(), free_port()
    found = manifests(values("minimal", metrics={"port": metrics}, config={"http": {"drain": 0}}))
    config = configuration(found, tmp_path)
    changed = {"/etc/hpcgate/config.yaml": str(config), "8000": str(port)}
    argv = [changed.get(word, word) for word in container(found)["args"]]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([Path(sys.executable).with_name("hpcgate"), *argv], stdout=log, stderr=log)
    try:
        wait_for_port(port, process)
        told = {
            kind: httpx.get(f"http://127.0.0.1:{port}{container(found)[f'{kind}Probe']['httpGet']['path']}").status_code
            for kind in ("startup", "liveness", "readiness")
        }
        # The identity provider does not exist.
        assert told == {"startup": 200, "liveness": 200, "readiness": 503}
        assert "hpcgate_ready 0.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        process.send_signal(signal.SIGTERM)
        # The end of a process that has stopped in good order tells the signal.
        assert process.wait(120) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
