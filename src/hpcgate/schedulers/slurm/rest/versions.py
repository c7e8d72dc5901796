"""The data versions of slurmrestd's interface, and what a client must do differently for each.

What an answer looks like is told by its own shape, not by this table: states may be a string or a list, a number may be
``null`` or ``{set, infinite, number}``, whatever the version; `values` reads them all. This table is about requests.

========  ===================  ================================================================================
version   served by            what is particular
========  ===================  ================================================================================
v0.0.38   22.05 to 23.02       The environment of a job is an object, its options are written as for sbatch. The
                               history takes no ``users``, and no Unix time but as ``uts<seconds>``. Numbers are
                               plain, null stands for none and for unlimited; states are strings; ``exit_code`` of a
                               live job is the status of wait(2), that of the history says SUCCESS whatever the exit
                               status was. Failures are 500, of the database also 200 with ``errors``; a refused token
                               looks like a controller that is down. Cancelling a finished job is 200.
v0.0.39   23.02 to 24.05       The environment is a list, limits are ``{set, infinite, number}``, the history takes
                               ``users``. Warnings beside errors. Job states are still strings.
v0.0.40   23.11 to 24.11       States and exit statuses are lists; ``return_code`` and ``signal.id`` are objects. The
                               history takes a parameter for each state (seen of 24.11), not a text with commas.
v0.0.41   24.05 to 25.05       As v0.0.40 for what is used here.
v0.0.42   24.11 on             Flags of a listing are documented (``flags=ALL``). 26.05's slurmrestd answers failures
                               with 404, 422, 502 and 511; a cancellation that failed is 200, and ``status[].error``
                               says why.
v0.0.43   25.05 on             As v0.0.42.
v0.0.44   25.11 on             As v0.0.42.
v0.0.45   26.05 on             As v0.0.42, but a ping no longer has ``mode`` and ``pinged``: it has ``responding``.
========  ===================  ================================================================================

https://slurm.schedmd.com/rest_release_notes.html, https://slurm.schedmd.com/rest.html#openapi_compatibility
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ApiVersion:
    """What requests of one data version look like.

    Attributes:
        number: The last number of ``v0.0.<number>``.
        environment_list: The environment is a list of ``NAME=value``, not an object.
        sbatch_values: Options are written as sbatch's own (``2G``, ``00:10:00``), not as typed fields.
        history_users: The history can be asked for the jobs of one user.
        listing_flags: Jobs and partitions take ``flags=ALL``.
        shared_list: ``shared`` is a list, with which a job asks for whole nodes.
        states_joined: The history takes states as one text with commas, not as a parameter for each.
        changes: A job can be changed, and released once it is held: v0.0.38 answers 200 and leaves the name as it was.
        signals_all: A signal reaches the batch script, too.
    """

    number: int
    environment_list: bool = True
    sbatch_values: bool = False
    history_users: bool = True
    listing_flags: bool = True
    shared_list: bool = True
    states_joined: bool = False
    changes: bool = True
    signals_all: bool = False

    @property
    def name(self) -> str:
        """The version as it stands in a path."""
        return f"v0.0.{self.number}"


VERSIONS: Mapping[int, ApiVersion] = MappingProxyType(
    {
        version.number: version
        for version in (
            ApiVersion(
                38,
                environment_list=False,
                sbatch_values=True,
                history_users=False,
                listing_flags=False,
                shared_list=False,
                states_joined=True,
                changes=False,
                signals_all=True,
            ),
            ApiVersion(39, listing_flags=False, shared_list=False),
            ApiVersion(40, listing_flags=False, shared_list=False),
            ApiVersion(41, listing_flags=False, shared_list=False),
            ApiVersion(42),
            ApiVersion(43),
            ApiVersion(44),
            ApiVersion(45),
        )
    }
)

OLDEST, NEWEST = min(VERSIONS), max(VERSIONS)


def api_version(text: str) -> ApiVersion:
    """Return the version that ``0.0.38`` or ``v0.0.38`` names.

    One that is newer than all that are known is taken to be like the newest, under its own name.

    Raises:
        ValueError: It is older than the oldest that is known, or no version.
    """
    match = re.fullmatch(r"v?0\.0\.(\d{1,4})", text)
    number = int(match[1]) if match else 0
    if number < OLDEST:
        raise ValueError(f"api_version {text} is not supported: v0.0.{OLDEST} to v0.0.{NEWEST} are")
    return VERSIONS.get(number) or ApiVersion(number)
