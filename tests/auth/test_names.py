"""From the claim to the local name, by template and by a file that changes."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from hpcgate.auth import TokenVerifier
from hpcgate.auth import names as names_module
from hpcgate.config.names import NoNames, parse_names
from hpcgate.config.watched import Watched
from hpcgate.errors import Forbidden, GatewayError, Unauthenticated

from .idp import claims, token

Verifier = Callable[..., Awaitable[TokenVerifier]]
Logs = list[MutableMapping[str, Any]]


async def name_of(verifier: TokenVerifier, claim: str, **others: Any) -> str:
    return (await verifier.principal(token(payload=claims(preferred_username=claim, **others)))).username


async def test_a_template(verifier: Verifier) -> None:
    """A template makes the local name of the groups of the whole claim's match."""
    match = r"(?P<local>[a-z]+)@(?P<site>\w+)\.example\.org"
    it = await verifier(username_match=match, username_template="{site}_{local}")
    assert await name_of(it, "anna@cscs.example.org") == "cscs_anna"
    for foreign in ("anna", "anna@cscs.example.org.evil.example", "x anna@cscs.example.org", "anna@cscs.example.org\n"):
        with pytest.raises(Forbidden, match="no local name"):
            await name_of(it, foreign)


async def test_a_template_of_the_claim_alone(verifier: Verifier) -> None:
    it = await verifier(username_template="x{claim}")
    assert await name_of(it, "anna") == "xanna"
    with pytest.raises(Forbidden):
        await name_of(it, "{claim}")


async def test_an_expression_alone(verifier: Verifier) -> None:
    """Without a template the claim itself is the name, if it matches."""
    it = await verifier(username_match="a.*")
    assert await name_of(it, "anna") == "anna"
    with pytest.raises(Forbidden):
        await name_of(it, "bert")


async def test_upper_case_where_the_idp_has_it(verifier: Verifier, tmp_path: Path) -> None:
    plain = await verifier()
    lower = await verifier(username_lowercase=True)
    with pytest.raises(Forbidden):
        await name_of(plain, "ANNA")
    for claim in ("ANNA", "Anna", "anna"):
        assert await name_of(lower, claim) == "anna"
    file = tmp_path / "names"
    file.write_text("anna@example.org anna2\n")
    assert await name_of(await verifier(username_lowercase=True, username_map=str(file)), "Anna@Example.ORG") == "anna2"
    template = await verifier(username_lowercase=True, username_match="(?P<who>[a-z]+)@X", username_template="{who}")
    with pytest.raises(Forbidden):
        await name_of(template, "ANNA@X")


@pytest.mark.parametrize("claim", ["\N{KELVIN SIGN}arl", "\N{LATIN SMALL LETTER LONG S}am", "ROOT", "Root"])
async def test_lower_case_makes_nobody_another(verifier: Verifier, claim: str) -> None:
    it = await verifier(username_lowercase=True)
    with pytest.raises(Forbidden):
        await name_of(it, claim)


@pytest.mark.parametrize("made", ["root", "-l", "../x", "a b", "", "Anna"])
async def test_a_local_name_is_held_to_the_same_rules(verifier: Verifier, tmp_path: Path, made: str) -> None:
    match = {"username_match": "id-(?P<local>.*)", "username_template": "{local}"}
    with pytest.raises(Forbidden):
        await name_of(await verifier(**match), f"id-{made}")
    if made:
        file = tmp_path / "names"
        file.write_text(f'anna "{made}"\n')
        with pytest.raises(Forbidden):
            await name_of(await verifier(username_map=str(file)), "anna")


async def test_a_file_that_changes(
    verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setattr(names_module, "LOOK", 0.0)
    file = tmp_path / "names"
    file.write_text('# who is who\n"CN=Anna A, C=CH" anna\nbert bert2\n')
    it = await verifier(username_map=str(file))
    text = token(payload=claims(preferred_username="bert"))
    assert (await it.principal(text)).username == "bert2"
    assert await name_of(it, "CN=Anna A, C=CH") == "anna"
    with pytest.raises(Forbidden, match="no local name"):
        await name_of(it, "anna")
    # Another name for a token that is remembered; in one step, as an operator should.
    (tmp_path / "new").write_text("bert bert3\n")
    os.replace(tmp_path / "new", file)
    assert (await it.principal(text)).username == "bert3"
    # What is no good changes nothing.
    file.write_text("bert\n")
    assert (await it.principal(text)).username == "bert3"
    file.unlink()
    for _ in range(3):
        assert (await it.principal(text)).username == "bert3"
    told = [event["reason"] for event in logs if event["event"] == "names.failed"]
    assert told == ["line 1 is not a value and a name", "FileNotFoundError"]
    file.write_text("anna anna\n")
    with pytest.raises(Forbidden):
        await it.principal(text)


async def test_a_file_that_hangs_holds_one_thread_and_nobody_for_long(
    verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setattr(names_module, "LOOK", 0.0)
    file = tmp_path / "names"
    file.write_text("bert bert2\n")
    it = await verifier(username_map=str(file))
    text = token(payload=claims(preferred_username="bert"))
    assert (await it.principal(text)).username == "bert2"
    monkeypatch.setattr(names_module, "PATIENCE", 0.1)
    asked, real = list[object](), Watched.read
    answers = threading.Event()

    def hanging(watched: Watched[Any]) -> Any:
        asked.append(watched)
        answers.wait()
        return real(watched)

    monkeypatch.setattr(Watched, "read", hanging)
    try:
        leaving = asyncio.create_task(it.principal(text))
        while not asked:
            await asyncio.sleep(0.01)
        leaving.cancel()
        for _ in range(5):
            assert (await it.principal(text)).username == "bert2"
        assert len(asked) == 1
        assert {event["reason"] for event in logs if event["event"] == "names.failed"} == {"TimeoutError"}
        file.write_text("bert bert3\n")
    finally:
        answers.set()
    while (await it.principal(text)).username != "bert3":
        await asyncio.sleep(0.01)


def test_files() -> None:
    """A file has one name and one local name a line; anything else in it is an error."""
    assert parse_names("") == {}
    assert parse_names("a b\n  \n# c d e\n'x y' z\n") == {"a": "b", "x y": "z"}
    for text in ("a", "a b c", "a b\na b", "'a b"):
        with pytest.raises(NoNames):
            parse_names(text)


@pytest.mark.parametrize(
    ("accepted", "typ", "good"),
    [
        (["at+jwt"], "at+jwt", True),
        (["at+jwt"], "application/AT+JWT", True),
        (["application/at+jwt", "JWT"], "jwt", True),
        (["at+jwt"], "JWT", False),
        (["at+jwt"], None, False),
        ([], None, True),
        ([], "anything", True),
    ],
)
async def test_types(verifier: Verifier, accepted: list[str], typ: str | None, good: bool) -> None:
    """Tokens of the accepted types count, and no others."""
    it = await verifier(token_types=accepted)
    if good:
        assert await it.principal(token(header={"typ": typ}))
    else:
        with pytest.raises(Unauthenticated, match="Token type not accepted"):
            await it.principal(token(header={"typ": typ}))


@pytest.mark.parametrize(
    ("required", "held", "error"),
    [
        ({"acr": "2"}, {"acr": "2"}, None),
        ({"acr": ["1", "2"], "amr": ["mfa"]}, {"acr": "1", "amr": ["pwd", "mfa"]}, None),
        ({"realm.roles": "hpc"}, {"realm": {"roles": ["hpc"]}}, None),
        ({"acr": []}, {"acr": 0}, None),
        ({"acr": []}, {}, Forbidden),
        ({"acr": "2"}, {"acr": 2}, Forbidden),
        ({"acr": "2", "amr": "mfa"}, {"acr": "2", "amr": ["pwd"]}, Forbidden),
        ({"email_verified": True}, {"email_verified": "true"}, Forbidden),
    ],
)
async def test_required_claims(
    verifier: Verifier, required: dict[str, Any], held: dict[str, Any], error: type[GatewayError] | None
) -> None:
    """A token without a required claim is refused."""
    it = await verifier(required_claims=required)
    text = token(payload=claims(**held))
    if error is None:
        assert await it.principal(text)
    else:
        with pytest.raises(error, match="lacks a required claim"):
            await it.principal(text)
