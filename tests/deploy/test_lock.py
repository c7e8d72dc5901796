"""What requirements.lock names can be installed by the oldest Python that the README promises, Debian 12's."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
OLDEST = "3.11.2"


def _oldest(package: Distribution) -> str:
    said = package.metadata.get_all("Requires-Python")
    return said[0] if said else ""


def test_every_locked_package_takes_the_oldest_python() -> None:
    """The versions that are installed are those of the lock; what nothing asks for any more is not installed."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    installed = [one for one in distributions() if locked.get(one.name) == one.version]
    assert len(installed) > 100
    wanted = {f"{one.name}=={one.version}": _oldest(one) for one in installed}
    assert {name: text for name, text in wanted.items() if not SpecifierSet(text).contains(OLDEST)} == {}
    assert re.fullmatch(r"\d+\..*", locked["async-timeout"]), "redis wants it before Python 3.11.3"
