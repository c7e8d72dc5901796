"""Tools that say what they say, but for one thing: whatever a user's own tools print, each route has an answer.

The user's tools are the real ones behind a filter, so that what they print keeps its form and no sense: each mark and
each row is where a parser looks for it. The files are asked for by each way that there is.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User
from tests.cluster.test_odd_values import filled
from tests.pbs.standin import COMMANDS, Standin
from tests.routes import at

TOOLS = (
    "perl", "python3", "stat", "ls", "dd", "tail", "head", "cat", "getent", "id", "realpath", "readlink", "sha256sum",
    "file", "tar", "find", "df", "wc", "quota", "sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr",
    "sdiag", "srun", *COMMANDS,
)  # fmt: skip
TWISTS = {
    # What becomes of each piece of output, as perl has it.
    "numbers that no machine has": r"s/\d+/99999999999999999999999/g",
    "numbers of nineteen nines": r"s/\d+/9999999999999999999/g",
    "the largest number of 64 bits": r"s/\d+/18446744073709551615/g",
    "the largest number of 63 bits": r"s/\d+/9223372036854775807/g",
    "the year 10000": r"s/\d{9,}/253402300800/g",
    "numbers below zero": r"s/\d+/-1/g",
    "numbers far below zero": r"s/\d+/-99999999999999999999/g",
    "nothing but zeros": r"s/\d+/0/g",
    "no numbers": r"s/\d+//g",
    "digits of another script": r"s/\d/\xd9\xa3/g",
    "digits with lines between": r"s/\d+/1_000/g",
    "not a number": r"s/\d+/NaN/g",
    "a number without end": r"s/\d+/1e999/g",
    "numbers of 4000 digits": r"s/\d+/'7' x 4000/ge",
    "letters that are no text": r"s/[a-z]/\xff/g",
    "capital letters for small ones": r"tr/a-z/A-Z/",
    "small letters for capital ones": r"tr/A-Z/a-z/",
    "everything twice": r"$_ .= $_",
    "no separators": r"tr!:|,;=/!      !",
    "NULs for blanks": r"tr/ /\0/",
    "blanks for NULs": r"tr/\0/ /",
    "lines for blanks": r"tr/ /\n/",
    "carriage returns": r"s/\n/\r\n/g",
    "names that no terminal shows": r"s/[a-z]{3,}/\e[31m\x{9b}/g",
    "long words": r"s/([A-Za-z]{4,})/$1 x 3000/ge",
    "the beginning": r"$_ = substr $_, 0, length($_) / 2",
    "JSON that is deep": r"s/\{/'{\"a\":' x 500 . '{'/ge",
    "quotes": r"tr/a-z/\"/",
    "backslashes": r"tr/a-z/\\\\/",
}
SHORT = ("numbers below zero", "letters that are no text")
"""All others are for `make test-deep`: each takes a quarter of a minute."""
FILTER = """\
#!/bin/bash
PATH=${PATH//"$HOME/lies:"/}
"${0##*/}" "$@" | /usr/bin/perl "$HOME/lies/.filter"
exit "${PIPESTATUS[0]}"
"""
TWIST = "$| = 1; while (sysread STDIN, $_, 65536) { %s; print }\n"
SYSTEMS = ("demo", "commands", "ruled", "pbs")
PATIENCE = 3


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway whose users' tools lie, with a system for each way that they are asked."""
    impatient: dict[str, Any] = {"timeout": {"command_execution": PATIENCE}, "start_up_timeout": 60}
    config = cluster.write_gateway_config(
        cluster.directory / "twisted-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", ssh=impatient),
            cluster.cluster_settings("commands", ssh={**impatient, "files": "commands", "helper": False}),
            cluster.cluster_settings("ruled", ssh=impatient),
            cluster.cluster_settings("pbs", **Standin.install(cluster, "twisted-pbs").settings()),
        ],
        auth={
            "policy": {
                "rules": [
                    {"name": "ruled", "systems": ["ruled"], "paths": [f"{cluster.homes}/{{username}}"]},
                    {"name": "free", "systems": ["demo", "commands", "pbs"]},
                ]
            }
        },
        streams={"max_streams_per_user": 64, "max_follow": 0.5},
        metrics={"path": "/metrics"},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@contextmanager
def twisted(user: User, twist: str) -> Iterator[None]:
    """Have a user find the tools behind a filter first."""
    directory, start_up = user.home / "lies", user.home / ".bashrc"
    directory.mkdir()
    (directory / ".filter").write_text(TWIST % twist)
    for name in TOOLS:
        (directory / name).write_text(FILTER)
        (directory / name).chmod(0o755)
    start_up.write_text('PATH="$HOME/lies:$PATH"\n')
    try:
        yield
    finally:
        start_up.unlink()
        shutil.rmtree(directory)


def requests(spec: Any, user: User, job: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and what is sent, of all that the API has."""
    kept, nowhere = str(user.home / "kept"), f"{user.home}/not/there"
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            query = {
                one["name"]: kept if one["schema"].get("type", "string") == "string" else "1"
                for one in operation.get("parameters", ())
                if one["in"] == "query" and one.get("required")
            }
            target = at(path, system_name="{system}", upload_id="0" * 32, job_id=job)
            if schema := content.get("application/json", {}).get("schema"):
                text = json.dumps(filled(spec, schema, str(user.home))).replace(nowhere, kept)
                yield method, target, {"params": query, "data": text, "headers": {"Content-Type": "application/json"}}
            elif content:
                kind = next(iter(content))
                yield method, target, {"params": query, "data": b"content", "headers": {"Content-Type": kind}}
            else:
                yield method, target, {"params": query}
    home = str(user.home)
    for more in ({"recursive": "true"}, {"limit": "2"}, {"showHidden": "true", "dereference": "true"}):
        yield "get", "/filesystem/{system}/ops/ls", {"params": {"path": home, **more}}
    yield (
        "get",
        "/filesystem/{system}/ops/ls",
        {"params": {"path": home}, "headers": {"Accept": "application/x-ndjson"}},
    )
    yield "get", "/filesystem/{system}/files/content", {"params": {"path": kept}, "headers": {"Range": "bytes=3-9"}}
    yield "get", "/filesystem/{system}/files/archive", {"params": {"path": home}}
    yield "put", "/filesystem/{system}/files/content", {"params": {"path": f"{home}/new"}, "data": b"content"}
    for more in ({"allusers": "true"}, {"limit": "2"}, {"state": "RUNNING"}):
        yield "get", "/compute/{system}/jobs", {"params": more}
    yield "get", "/compute/{system}/jobs/" + f"{job},1,2", {}


PROBLEM = {"errorType", "message", "causedBy", "data", "user"}


async def wrong(session: aiohttp.ClientSession, method: str, path: str, sent: dict[str, Any]) -> str:
    """Ask, and return what is wrong with the answer; nothing if all is well."""
    try:
        async with asyncio.timeout(600), session.request(method, path, **sent) as answer:
            size = 0
            body = b""
            async for block in answer.content.iter_any():
                size += len(block)
                body += block[: 4096 - len(body)]
                if size > 64_000_000:
                    return f"{method} {path}: no end"
    except aiohttp.ClientPayloadError:
        return ""  # What has been begun cannot be refused any more.
    except (TimeoutError, aiohttp.ClientError) as error:
        return f"{method} {path}: {error!r}"
    well = b"Internal server error" not in body
    if answer.status >= 400 and method != "head":
        with suppress(ValueError):
            well = well and json.loads(body).keys() == PROBLEM
    return "" if well else f"{answer.status} {method} {path} {sent}: {body[:300]!r}"


@pytest.mark.parametrize(
    "twist", [pytest.param(twist, marks=[] if twist in SHORT else [pytest.mark.deep]) for twist in TWISTS]
)
async def test_whatever_tools_print_each_route_has_an_answer(gateway: Gateway, cluster: Cluster, twist: str) -> None:
    bob = cluster.user("bob")
    kept = bob.home / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.unlink(missing_ok=True)
    kept.write_text("some lines\n" * 100)
    shutil.chown(kept, bob.name)
    headers = {"Authorization": f"Bearer {cluster.token(bob)}", "Tus-Resumable": "1.0.0"}
    job = cluster.as_user(bob, ["sbatch", "--parsable", "--hold", "--wrap", "true"]).stdout.strip().partition(";")[0]
    found: list[str] = []
    async with aiohttp.ClientSession(base_url=gateway.url, headers=headers) as session:
        async with session.get("/openapi.json") as answer:
            spec = await answer.json()
        with twisted(bob, TWISTS[twist]):
            room = asyncio.Semaphore(6)

            async def ask(system: str, method: str, path: str, sent: dict[str, Any]) -> None:
                async with room:
                    found.append(await wrong(session, method, path.replace("{system}", system), sent))

            await asyncio.gather(*(ask(system, *request) for system in SYSTEMS for request in requests(spec, bob, job)))
        async with session.get("/metrics") as answer:
            counted = [line for line in (await answer.text()).splitlines() if line.startswith("hpcgate_internal_err")]
    cluster.as_user(bob, ["scancel", "-u", bob.name], check=False)
    assert list(filter(None, found)) == []
    assert [line for line in counted if not line.endswith(" 0") and not line.endswith(" 0.0")] == []
