"""The page and the JSON Schema say what the models say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from hpcgate.config import Settings
from hpcgate.config.plugins import plugins, settings_model
from hpcgate.config.reference import INTRODUCTION, page, schema

from .conftest import Writer

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {to_camel(key): _camel(item) for key, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m hpcgate.config.reference > docs/configuration.md"


PLUGINS = [
    (group, name)
    for group in ("hpcgate.credentials", "hpcgate.schedulers", "hpcgate.transfers")
    for name, point in sorted(plugins(group).items())
    if point.value.startswith("hpcgate.")
]


@pytest.mark.parametrize(("group", "name"), [("", ""), *PLUGINS])
def test_every_key_has_a_description_and_is_on_the_page(group: str, name: str) -> None:
    model: type[BaseModel] = settings_model(group, name) if group else Settings
    text = PAGE.read_text()
    for key, field in model.model_fields.items():
        assert field.description, key
        assert f"| `{key}` |" in text
        assert field.description.replace("|", "\\|") in text


def test_the_example_on_the_page_loads(config: Writer, tmp_path: Path) -> None:
    text = INTRODUCTION.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "known_hosts").write_text("")
    text = text.replace("/run/secrets/health", str(tmp_path / "known_hosts"))
    settings = config.load(text.replace("/etc/hpcgate/known_hosts", str(tmp_path / "known_hosts")))
    assert settings.clusters[0].scheduler.version == "24.05.4"


@pytest.mark.parametrize("spelling", [lambda value: value, _camel], ids=["snake_case", "camelCase"])
@pytest.mark.parametrize("name", ["ssh-service-hybrid-streamer.yaml", "static-keys-s3.yaml", "directory.yaml"])
def test_examples_fit_the_schema(name: str, spelling: Callable[[Any], Any], example: Callable[[str], Path]) -> None:
    document = yaml.safe_load(example(name).read_text())
    document["ssh_credentials"].setdefault("type", "SSHService")
    for cluster in document["clusters"] if isinstance(document["clusters"], list) else []:
        old = cluster.pop("probing_services", None)
        if old:
            cluster["probing"] = {"interval_check": old["interval"]}
        if "storage" in cluster.get("probing", {}).get("services", {}):
            cluster["probing"]["services"]["s3"] = cluster["probing"]["services"].pop("storage")
    assert [str(error) for error in jsonschema_rs.validator_for(schema()).iter_errors(spelling(document))] == []


def test_the_schema_refuses_what_loading_refuses(config: Writer) -> None:
    validator = jsonschema_rs.validator_for(schema())
    assert validator.is_valid(config.base())
    damages: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda cluster: cluster.pop("name"),
        lambda cluster: cluster["ssh"].pop("host"),
        lambda cluster: cluster["ssh"].update(port=0),
        lambda cluster: cluster["ssh"].update(max_client=1),
        lambda cluster: cluster["scheduler"].update(type="lsf"),
    )
    for damage in damages:
        document = config.base()
        damage(document["clusters"][0])
        assert not validator.is_valid(document)
        assert config.mistakes(document)
