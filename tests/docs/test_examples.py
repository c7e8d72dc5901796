"""Each example in a docstring gives what it says."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import hpcgate


def _modules_with_examples() -> list[str]:
    source = Path(hpcgate.__file__).parent
    found = [path for path in source.rglob("*.py") if re.search(r"^\s*>>> ", path.read_text(), re.MULTILINE)]
    return sorted(".".join(path.relative_to(source.parent).with_suffix("").parts) for path in found)


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples_give_what_they_say(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert (tried.failed, tried.attempted > 0) == (0, True)
