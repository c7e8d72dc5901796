"""Whatever happens to a file, loading it ends in settings or in mistakes that name keys, never otherwise."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpcgate.config import ConfigError, Mistake, Settings, load
from hpcgate.config.check import report

from .conftest import BASE, EXAMPLES, SECRETS

NAMES = [
    "static-keys-s3.yaml",
    "ssh-service-hybrid-streamer.yaml",
    "ssh-ca-pbs-wormhole.yaml",
    "oldest.yaml",
    "systems.d/10-eiger.yaml",
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["path:/nowhere", "secret_file:/nowhere", "secret_file:", "http://[", "2.x.x", "~", "s3", "slurm"]),
    st.dates(),
    st.binary(max_size=4),
)
KEYS = st.sampled_from(
    ["type", "service_type", "probing", "services", "timeout", "storage", "data_operation", "url", "keys", "x", 1, None]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
DAMAGE = st.lists(
    st.tuples(st.sampled_from(["delete", "rename", "replace", "nest", "add", "double"]), st.integers(0, 500), VALUES),
    min_size=1,
    max_size=4,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """List each container of a document with each of its keys."""
    places: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        places += [(value, key), *_places(item)]
    return places


def _damage(document: Any, kind: str, where: int, value: Any) -> None:
    places = _places(document)
    if not places:
        return
    holder, key = places[where % len(places)]
    if kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}{'s' if where % 2 else ''}".swapcase()] = holder.pop(key)
    elif kind == "nest":
        holder[key] = [holder[key]]
    elif kind == "add" and isinstance(holder, dict):
        holder["storage" if where % 3 else "probing"] = value
    elif kind == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = value


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage")
    for name in (*SECRETS, "alice-cert.pub"):
        (path / name).write_text(name)
    return path


def _mistakes(path: Path) -> tuple[Mistake, ...]:
    try:
        assert isinstance(load(path), Settings)
    except ConfigError as error:
        return error.mistakes or (Mistake(path, "", "an error without mistakes"),)
    return ()


def _loads_or_names_keys(path: Path) -> None:
    mistakes = _mistakes(path)
    assert all(mistake.key and mistake.message for mistake in mistakes)
    assert report(path)[1] == (1 if mistakes else 0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), damage=DAMAGE)
@example(name="oldest.yaml", damage=[("replace", 0, {1: 2})])
def test_damaged_documents(name: str, damage: list[tuple[str, int, Any]], directory: Path) -> None:
    """A damaged document loads, or its mistakes name keys."""
    document = yaml.safe_load((EXAMPLES / name).read_text().replace("@SECRETS@", str(directory)))
    if name.startswith("systems.d"):
        document = yaml.safe_load(BASE) | {"clusters": [document]}
    for kind, where, value in damage:
        _damage(document, kind, where, value)
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    _loads_or_names_keys(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(NAMES),
    cuts=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 30), st.text(max_size=5)), min_size=1, max_size=3),
)
def test_damaged_text(name: str, cuts: list[tuple[int, int, str]], directory: Path) -> None:
    """A damaged text loads, or its mistakes name keys."""
    text = (EXAMPLES / name).read_text().replace("@SECRETS@", str(directory))
    for position, length, inserted in cuts:
        text = text[:position] + inserted + text[position + length :]
    path = directory / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _loads_or_names_keys(path)
