"""What a difference between two clocks means."""

import email.utils
from dataclasses import dataclass

from hpcgate.ssh.survey import Finding

_NEGLIGIBLE = 2.0
"""Seconds that no one notices."""
_MUCH = 60.0
"""Seconds from which on certificates, which are valid from a minute ago on, may be refused."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How another machine's clock stands against ours.

    Attributes:
        ahead: Seconds by which it is ahead; negative is behind.
        within: The most by which that may be wrong, in seconds.
    """

    ahead: float
    within: float

    @property
    def words(self) -> str:
        """What a person reads."""
        return f"{abs(self.ahead):.1f} s {'ahead of' if self.ahead > 0 else 'behind'} this machine's"

    @property
    def certain(self) -> float:
        """The least by which they differ for certain, in seconds."""
        return max(0.0, abs(self.ahead) - self.within)


def of_date(header: str, asked: float, answered: float) -> Reading | None:
    """Read a Date header (RFC 9110, section 6.6.1), which tells whole seconds.

    Args:
        header: Its value.
        asked: When the request was sent, Unix seconds by our clock.
        answered: When the answer came.
    """
    try:
        there = email.utils.parsedate_to_datetime(header).timestamp()
    except (TypeError, ValueError):
        return None
    return Reading(there + 0.5 - (asked + answered) / 2, 0.5 + (answered - asked) / 2)


def of_idp(name: str, reading: Reading, leeway: float) -> Finding:
    """Judge the IdP's clock: tokens that it has just issued must not be of the future here."""
    text = f"the clock of {name} is {reading.words}"
    if reading.ahead > 0 and reading.certain > leeway:
        return Finding(
            False,
            f"{text}: fresh tokens are refused as not yet valid",
            "set both clocks by NTP; auth.authentication.leeway allows for some seconds",
            "clock",
        )
    if reading.certain > _NEGLIGIBLE:
        return Finding(None, text, "set both clocks by NTP", "clock")
    return Finding(True, f"the clocks of {name} and of this machine agree to {_agreement(reading)}", check="clock")


def of_node(reading: Reading) -> Finding:
    """Judge a login node's clock: certificates and job times stand on it."""
    text = f"the login node's clock is {reading.words}"
    if reading.certain > _MUCH:
        return Finding(
            False,
            f"{text}: certificates may not be valid there yet, or no longer, and times of jobs and files mislead",
            "set both clocks by NTP",
            "clock",
        )
    if reading.certain > _NEGLIGIBLE:
        return Finding(None, text, "set both clocks by NTP", "clock")
    return Finding(True, f"the login node's clock and this machine's agree to {_agreement(reading)}", check="clock")


def _agreement(reading: Reading) -> str:
    return f"{abs(reading.ahead) + reading.within:.1f} s"
