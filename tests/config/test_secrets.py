"""A secret shows in no rendering of the settings, and in no mistake."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config import ConfigError, Settings

from .conftest import Writer

HIDDEN = "hunter2"


def _everywhere(path: Path, config: Writer) -> Any:
    """Put the hidden text into every secret of an example."""
    document = yaml.safe_load(path.read_text())
    document["ssh_credentials"]["keys"] = {
        "alice": {"private_key": HIDDEN, "passphrase": f"secret_file:{config.path.parent / 'hidden'}"}
    }
    (config.path.parent / "hidden").write_text(HIDDEN)
    cluster = document["clusters"][0]
    cluster["serviceAccount"]["secret"] = HIDDEN
    cluster["dataOperation"]["data_transfer"] |= {
        "private_url": f"http://{HIDDEN}:9000",
        "access_key_id": HIDDEN,
        "secret_access_key": HIDDEN,
    }
    return document


@pytest.fixture
def document(example: Callable[[str], Path], config: Writer) -> Any:
    return _everywhere(example("static-keys-s3.yaml"), config)


def test_secrets_can_be_read(document: Any, config: Writer) -> None:
    settings = config.load(document)
    keys: Any = settings.ssh_credentials
    assert keys.keys["alice"].passphrase.get_secret_value() == HIDDEN


def _renderings(settings: Settings) -> dict[str, str]:
    return {
        "repr": repr(settings),
        "str": str(settings),
        "format": f"{settings.clusters[0].data_operation.data_transfer[0]}",
        "dump": str(settings.model_dump()),
        "dump for JSON": str(settings.model_dump(mode="json")),
        "JSON": settings.model_dump_json(),
        "JSON by alias": settings.model_dump_json(by_alias=True),
        "items": str(dict(settings)),
    }


def test_no_rendering_shows_them(document: Any, config: Writer) -> None:
    renderings = _renderings(config.load(document))
    assert "Rigi" in renderings["JSON"]
    assert [name for name, text in renderings.items() if HIDDEN in text] == []


def _texts(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    assert error.__context__ is None
    return "".join(lines) + repr(error) + str(error) + repr(error.args)


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document["clusters"][0]["ssh"].update(port=0),
        lambda document: document["clusters"][0]["serviceAccount"].update(secret=[HIDDEN]),
        lambda document: document["clusters"][0]["serviceAccount"].update(secrets=HIDDEN),
        lambda document: document["clusters"][0].update(serviceAccount=HIDDEN),
        lambda document: document["clusters"][0]["dataOperation"]["data_transfer"].update(private_url=HIDDEN),
        lambda document: document["clusters"][0]["dataOperation"]["data_transfer"].update(service_type=HIDDEN),
        lambda document: document["clusters"][0]["dataOperation"]["data_transfer"].update(ttl=HIDDEN),
        lambda document: document["clusters"][0]["dataOperation"].update(data_transfer=[HIDDEN]),
        lambda document: document["ssh_credentials"].update(keys=HIDDEN),
        lambda document: document["ssh_credentials"].update(keys={"alice": HIDDEN}),
        lambda document: document["ssh_credentials"].update(type=HIDDEN),
        lambda document: document["auth"]["authentication"].update(tokenUrl=HIDDEN),
        lambda document: document["auth"]["authentication"].update(token_url=HIDDEN),
        lambda document: document["clusters"].append(HIDDEN),
        lambda document: document.update(clusters=HIDDEN),
        lambda document: document.update(storage=HIDDEN),
    ],
)
def test_no_mistake_shows_them(damage: Callable[[Any], None], document: Any, config: Writer) -> None:
    damage(document)
    with pytest.raises(ConfigError) as caught:
        config.load(document)
    assert HIDDEN not in _texts(caught.value)


def test_direct_validation_hides_them_too(document: Any) -> None:
    document["clusters"][0]["serviceAccount"]["secret"] = [HIDDEN]
    with pytest.raises(ValueError, match="secret") as caught:
        Settings.model_validate(document)
    assert HIDDEN not in str(caught.value)


def test_a_secret_file_is_read_without_the_blanks_around_it(tmp_path: Path, config: Writer) -> None:
    (tmp_path / "health").write_text("\n  sesame \r\n")
    document = config.base()
    document["clusters"][0]["service_account"]["secret"] = f"secret_file:{tmp_path}/health"
    account = config.load(document).clusters[0].service_account
    assert account is not None
    assert account.secret.get_secret_value() == "sesame"


@pytest.mark.parametrize(("content", "why"), [(b"\xff\xfe\x00", "not UTF-8 text"), (None, "No such file")])
def test_a_secret_file_that_cannot_be_read(content: bytes | None, why: str, tmp_path: Path, config: Writer) -> None:
    path = tmp_path / "health"
    if content is not None:
        path.write_bytes(content)
    document = config.base()
    document["clusters"][0]["service_account"]["secret"] = f"secret_file:{path}"
    key, message = config.mistake(document)
    assert key == "clusters[0].service_account.secret"
    assert message.startswith(f"cannot read the secret file {path}: {why}")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a\0b"])
def test_a_secret_file_that_cannot_be_a_path(path: str, config: Writer) -> None:
    document = config.base()
    document["clusters"][0]["service_account"]["secret"] = f"secret_file:{path}"
    assert config.mistake(document)[0] == "clusters[0].service_account.secret"
