import json

import pytest

from hpcgate.api.models.jobs import DryRunResponse, PolicyVerdict
from hpcgate.api.responses import encoded, encoded_in_part

TEXTS = {
    "a byte that is not UTF-8": ("/x\udcff", "/x\N{REPLACEMENT CHARACTER}"),
    "half of a pair": ("\ud83d!", "\N{REPLACEMENT CHARACTER}!"),
    "half of a pair beside a whole one": ("\udc00\N{GRINNING FACE}", "\N{REPLACEMENT CHARACTER}\N{GRINNING FACE}"),
    "plain": ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_whatever_text_an_answer_echoes_it_can_be_written(name: str) -> None:
    """A body may hold what stands for bytes of a file's name, and a dry run shows the script and the directory."""
    given, shown = TEXTS[name]
    answer = DryRunResponse(
        script=given, options=[f"--chdir={given}"], tested=False, warnings=[], policy=PolicyVerdict(allowed=False)
    )
    for body in (encoded(answer), encoded_in_part(answer, None)):
        assert json.loads(body)["script"] == shown
        assert json.loads(body)["options"] == [f"--chdir={shown}"]
