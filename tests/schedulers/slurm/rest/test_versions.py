"""The table of data versions, and the setting that names one."""

import inspect

import pytest
from pydantic import ValidationError

from hpcgate.schedulers.slurm import SlurmSettings
from hpcgate.schedulers.slurm.rest import versions
from hpcgate.schedulers.slurm.rest.versions import VERSIONS, ApiVersion, api_version


def test_every_version_from_38_to_45_is_known_and_documented() -> None:
    assert sorted(VERSIONS) == list(range(38, 46))
    documentation = inspect.getdoc(versions) or ""
    for number, version in VERSIONS.items():
        assert version.number == number
        assert f"\n{version.name} " in documentation


@pytest.mark.parametrize("text", ["0.0.38", "v0.0.38"])
def test_a_version_is_named_with_and_without_v(text: str) -> None:
    assert api_version(text).name == "v0.0.38"


def test_what_differs() -> None:
    """Each version of the API is known by what it takes and gives."""
    old = api_version("0.0.38")
    assert not old.environment_list
    assert old.sbatch_values
    assert not old.history_users
    for number in range(39, 46):
        version = VERSIONS[number]
        assert version.environment_list
        assert version.history_users
        assert not version.sbatch_values
    assert [number for number, version in VERSIONS.items() if version.listing_flags] == [42, 43, 44, 45]
    assert [number for number, version in VERSIONS.items() if version.shared_list] == [42, 43, 44, 45]


def test_a_newer_version_is_taken_to_be_like_the_newest() -> None:
    newest = VERSIONS[45]
    assert api_version("v0.0.51") == ApiVersion(
        51,
        newest.environment_list,
        newest.sbatch_values,
        newest.history_users,
        newest.listing_flags,
        newest.shared_list,
    )


@pytest.mark.parametrize("text", ["0.0.37", "v0.0.1", "1.0.38", "", "0.0.x", "0.0.38.1"])
def test_older_ones_and_nonsense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not supported"):
        api_version(text)


def _settings(**more: object) -> SlurmSettings:
    values = {"type": "slurm", "version": "22.05.8", "api_url": "http://localhost", **more}
    return SlurmSettings.model_validate(values)


@pytest.mark.parametrize("mode", ["rest", "hybrid"])
def test_the_configuration_is_refused_with_a_version_that_is_too_old(mode: str) -> None:
    assert _settings(connection_mode=mode, api_version="v0.0.41").api_version == "v0.0.41"
    with pytest.raises(ValidationError, match=r"api_version 0\.0\.37 is not supported: v0\.0\.38 to v0\.0\.45 are"):
        _settings(connection_mode=mode, api_version="0.0.37")
    with pytest.raises(ValidationError, match="api_version"):
        _settings(connection_mode=mode)
    assert _settings(connection_mode="ssh", api_version="0.0.37").connection_mode == "ssh"
