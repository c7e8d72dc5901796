"""Limits of users: what one request with many in it counts as."""

import pytest

from hpcgate.auth import Principal
from hpcgate.config.groups import Group
from hpcgate.config.rates import RateLimitSettings
from hpcgate.errors import RateLimited
from hpcgate.rates.limits import RateLimits

ALICE = Principal("alice", "token-a")
BURST = 3


@pytest.mark.parametrize("many", [BURST + 1, BURST + 2])
async def test_more_at_once_than_a_bucket_ever_holds_are_refused_for_good(many: int) -> None:
    """Nobody is told to try again later what can never be let through."""
    limits = RateLimits(
        RateLimitSettings.model_validate({"per_user": {"compute:submit": {"rate": 0.0001, "burst": BURST}}})
    )
    await limits.take(ALICE, Group.COMPUTE_SUBMIT)
    with pytest.raises(RateLimited, match=rf"^{many} at once .* at most {BURST} at a time") as refusal:
        await limits.take(ALICE, Group.COMPUTE_SUBMIT, many - 1, counted=1)
    assert "Retry-After" not in refusal.value.headers
    await limits.take(ALICE, Group.COMPUTE_SUBMIT, BURST - 1, counted=1)
