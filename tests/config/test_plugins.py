import json
import sys
from importlib.metadata import EntryPoint
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from hpcgate.config import Model, SchedulerSettings, Settings, plugin, plugins
from hpcgate.config.reference import schema

from .conftest import Writer


class Queue(Model):
    """A queue."""

    depth: int = Field(ge=1, description="How deep.")


class CronSettings(SchedulerSettings):
    """A scheduler from another package."""

    type: Literal["cron"] = Field(description="cron.")
    queues: tuple[Queue, ...] = Field((), description="Queues.")


class Cron:
    Settings: ClassVar = CronSettings


class Bare:
    Settings: ClassVar = dict


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {
        name: EntryPoint(name, value, "hpcgate.schedulers")
        for name, value in {
            "cron": f"{__name__}:Cron",
            "bare": f"{__name__}:Bare",
            "gone": "no_such_package.module:Class",
            "odd": f"{__name__}:NoSuchClass",
        }.items()
    }
    # By sys.modules, since the package's attribute of that name is the function.
    monkeypatch.setattr(
        sys.modules["hpcgate.config.plugins"],
        "plugins",
        lambda group: dict(plugins(group)) | (here if group == "hpcgate.schedulers" else {}),
    )


def test_own_entry_points() -> None:
    """The gateway's own plug-ins are found by their entry points."""
    assert {"s3", "streamer", "wormhole"} <= set(plugins("hpcgate.transfers"))
    assert plugin("hpcgate.transfers", "s3").method == "s3"
    with pytest.raises(KeyError):
        plugin("hpcgate.transfers", "pigeon")


def test_settings_are_the_plug_ins_own(config: Writer) -> None:
    document = config.base()
    document["clusters"][0]["scheduler"] = {"type": "cron", "version": "1", "queues": [{"depth": 2}]}
    settings = config.load(document)
    scheduler = settings.clusters[0].scheduler
    assert scheduler == CronSettings(type="cron", version="1", queues=(Queue(depth=2),))
    dumped = settings.model_dump()["clusters"][0]["scheduler"]
    assert dumped["queues"] == ({"depth": 2},)
    # What is validated already is taken as it is.
    again = Settings.model_validate(document | {"clusters": settings.clusters})
    assert again.clusters[0].scheduler is scheduler


def test_mistakes_keep_their_place_and_name_the_nearest_key(config: Writer) -> None:
    document = config.base()
    document["clusters"][0]["scheduler"] = {"type": "cron", "version": "1", "queues": [{"dept": 0}, {"depth": 0}]}
    assert [(mistake.key, mistake.message) for mistake in config.mistakes(document)] == [
        ("clusters[0].scheduler.queues[0].depth", "is required but missing (system alps)"),
        ("clusters[0].scheduler.queues[0].dept", "unknown key 'dept'; did you mean 'depth'? (system alps)"),
        ("clusters[0].scheduler.queues[1].depth", "must be greater than or equal to 1 (system alps)"),
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "the plug-in 'gone' (no_such_package.module:Class) cannot be loaded: ModuleNotFoundError"),
        ("odd", "cannot be loaded: AttributeError"),
        ("bare", "cannot be loaded: its Settings is not a pydantic model"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded(name: str, why: str, config: Writer) -> None:
    document = config.base()
    document["clusters"][0]["scheduler"] = {"type": name, "version": "1"}
    key, message = config.mistake(document)
    assert key == "clusters[0].scheduler.type"
    assert why in message


def test_the_schema_offers_what_can_be_loaded() -> None:
    text = json.dumps(schema())
    assert "A scheduler from another package." in text
    assert "How deep." in text
