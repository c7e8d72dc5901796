"""Both releases of OpenPBS in turn."""

from collections.abc import Callable

import pytest

from .recordings import RELEASES, Recorded, recorded


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shown(release: str) -> Callable[[str], Recorded]:
    """A function that returns what the release printed, by label."""
    return lambda label: recorded(release, label)
