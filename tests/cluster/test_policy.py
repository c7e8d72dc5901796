"""A policy that holds a user to one directory tree, on the real cluster: nothing gets out, by any endpoint or path."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.following import events_in
from tests.cluster.streaming import wait_until
from tests.path_requests import CHUNK, TUS, assert_denied, b64, requests
from tests.people import Person

ALL = ["fs:read", "fs:write", "compute:submit", "transfer"]
SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def tree(alice: Person) -> Iterator[Path]:
    """What the policy lets the first user touch: a directory with links that lead out of it."""
    home = alice.user.home
    tree, outside = home / "tree", home / "outside"
    alice.run("mkdir", "-p", f"{tree}/sub", str(outside), f"{home}/tree2")
    alice.run(
        "sh",
        "-c",
        'printf "%s" "$1" | tee "$2/secret" > "$3/secret"',
        "sh",
        SECRET.decode(),
        str(outside),
        f"{home}/tree2",
    )
    alice.run("ln", "-s", str(outside), f"{tree}/absolute")
    alice.run("ln", "-s", "../outside", f"{tree}/relative")
    alice.run("ln", "-s", "relative", f"{tree}/twice")
    alice.run("ln", "-s", f"{outside}/new", f"{tree}/dangling")
    alice.run("ln", "-s", f"{outside}/secret", f"{tree}/file")
    alice.run("sh", "-c", 'cd "$1" && echo inside > good && tar -czf good.tar.gz good', "sh", str(tree))
    yield tree
    for path in (tree, outside, home / "tree2"):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, alice: Person, bob: Person, tree: Path) -> Iterator[Gateway]:
    """A gateway with a policy."""
    rules = [
        {"name": "no-transfers", "effect": "deny", "users": [bob.user.name], "operations": ["transfer"]},
        {"name": "elsewhere", "effect": "deny", "networks": ["192.0.2.0/24"]},
        {"name": "free-client", "clients": ["free"], "networks": ["127.0.0.0/8"], "scopes": ["profile"]},
        {
            "name": "tree",
            "users": [alice.user.name],
            "operations": ALL,
            "paths": [f"{cluster.homes}/{{username}}/tree"],
        },
        {"name": "looking", "systems": ["demo"], "operations": ["status:read", "compute:read"]},
    ]
    transfer: dict[str, Any] = {"data_operation": {"data_transfer": {"service_type": "wormhole"}}}
    config = cluster.write_gateway_config(
        cluster.directory / "guarded-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", **transfer),
            cluster.cluster_settings("commands", ssh={"files": "commands"}, **transfer),
        ],
        auth={"policy": {"rules": rules}},
        audit={"to": str(cluster.directory / "guarded-audit.log")},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def held(guarded: Gateway, cluster: Cluster) -> Iterator[httpx.Client]:
    """The first user, held to the tree."""
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=600) as client:
        yield client


def test_links_in_the_last_place(held: httpx.Client, tree: Path) -> None:
    for name in ("file", "dangling", "relative"):
        for url in ("ops/stat", "ops/ls", "files/content"):
            assert_denied(held.get(f"/filesystem/demo/{url}", params={"path": f"{tree}/{name}"}), "tree")
        assert_denied(
            held.put("/filesystem/demo/files/content", params={"path": f"{tree}/{name}"}, content=b"evil"), "tree"
        )
        # An upload is about a directory; what counts is the file that it would write.
        part = {"file": (name, b"evil")}
        assert_denied(held.post("/filesystem/demo/ops/upload", params={"path": str(tree)}, files=part), "tree")
        begin = {**TUS, "Upload-Length": "4", "Upload-Metadata": f"filename {b64(name)}"}
        assert_denied(held.post("/filesystem/demo/files/uploads", params={"path": str(tree)}, headers=begin), "tree")
    # A directory takes the source in under its own name.
    copy = {"path": f"{tree}/sub/file", "targetPath": str(tree), "account": "x"}
    assert_denied(held.post("/filesystem/demo/transfer/cp", json=copy), "tree")
    assert os.listdir(tree.parent / "outside") == ["secret"]


def test_links_that_would_be_followed_on_the_way(held: httpx.Client, tree: Path) -> None:
    body = {"path": str(tree), "targetPath": f"{tree}/sub/to.tar", "compression": "none"}
    assert_denied(held.post("/filesystem/demo/ops/compress", json={**body, "dereference": True}), "tree")
    assert held.post("/filesystem/demo/ops/compress", json=body).status_code == 204
    listing: dict[str, Any] = {"path": str(tree), "recursive": True}
    assert_denied(held.get("/filesystem/demo/ops/ls", params={**listing, "dereference": True}), "tree")
    names = [entry["name"] for entry in held.get("/filesystem/demo/ops/ls", params=listing).json()["output"]]
    assert "relative" in names
    assert "relative/secret" not in names
    job = {"path": str(tree), "targetPath": f"{tree}/sub/to", "account": "x", "dereference": True}
    for name in ("cp", "compress"):
        assert_denied(held.post(f"/filesystem/demo/transfer/{name}", json=job), "tree")
    into = {"path": f"{tree}/good.tar.gz", "targetPath": str(tree), "compression": "gzip"}
    for top, more in (("ops", {}), ("transfer", {"account": "x"})):
        assert_denied(held.post(f"/filesystem/demo/{top}/extract", json={**into, **more}), "tree")
    assert_denied(held.put("/filesystem/demo/files/archive", params={"path": str(tree)}, content=b"\0" * 10240), "tree")


@pytest.mark.parametrize("system", ["demo", "commands"])
def test_what_is_followed_is_held_to_the_tree(held: httpx.Client, alice: Person, tree: Path, system: str) -> None:
    """A link that leads out is denied before the stream begins; a file that becomes one ends it, and is not read."""
    url = f"/filesystem/{system}/files/follow"
    for path in (f"{tree}/file", f"{tree}/relative/secret", f"{tree.parent}/outside/secret", f"{tree}/../outside/new"):
        assert_denied(held.get(url, params={"path": path}), "tree")
    log = tree / "sub" / f"log-{system}"
    alice.run("sh", "-c", f"echo inside > {log}")
    with held.stream("GET", url, params={"path": str(log)}) as answer:
        assert answer.status_code == 200
        events = events_in(answer.iter_bytes())
        assert next(events).data["text"] == "inside\n"
        alice.run("ln", "-sfn", "../../outside/secret", str(log))
        *others, last = events
    assert [event.name for event in others if event.name != "waiting"] == []
    assert (last.name, last.data["status"]) == ("failed", 403)
    alice.run("rm", str(log))


def test_a_link_that_leads_out_can_be_removed(held: httpx.Client, alice: Person, tree: Path) -> None:
    alice.run("ln", "-s", "../outside", f"{tree}/bad")
    assert_denied(held.delete("/filesystem/demo/ops/rm", params={"path": f"{tree}/bad/"}), "tree")
    assert_denied(held.delete("/filesystem/demo/ops/rm", params={"path": f"{tree}/bad/."}), "tree")
    assert held.delete("/filesystem/demo/ops/rm", params={"path": f"{tree}/bad"}).status_code == 204
    assert not os.path.lexists(tree / "bad")
    assert os.listdir(tree.parent / "outside") == ["secret"]


@pytest.mark.parametrize("system", ["demo", "commands"])
def test_what_lies_inside_works(held: httpx.Client, tree: Path, system: str) -> None:
    top = f"/filesystem/{system}"
    new = f"{tree}/sub/{system}"
    assert held.post(f"{top}/ops/mkdir", json={"path": f"{new}/a/b", "parent": True}).status_code == 201
    assert held.get(f"{top}/ops/ls", params={"path": f"{new}/a/../a"}).json()["output"][0]["name"] == "b"
    assert held.post(f"{top}/ops/upload", params={"path": new}, files={"file": ("f", b"data")}).status_code == 204
    link = {"path": f"{new}/f", "linkPath": f"{new}/l"}
    assert held.post(f"{top}/ops/symlink", json=link).status_code == 201
    assert held.get(f"{top}/ops/view", params={"path": f"{new}/l"}).json()["output"] == "data"
    assert held.put(f"{top}/files/content", params={"path": f"{new}/l"}, content=b"more").status_code == 204
    assert held.get(f"{top}/ops/download", params={"path": f"{new}/f"}).content == b"more"
    begin = {**TUS, **CHUNK, "Upload-Length": "4", "Upload-Metadata": f"filename {b64('t')}"}
    begun = held.post(f"{top}/files/uploads", params={"path": new}, headers=begin, content=b"tu")
    assert begun.status_code == 201
    patch = {**TUS, **CHUNK, "Upload-Offset": "2"}
    assert held.patch(begun.headers["location"], headers=patch, content=b"s!").status_code == 204
    assert Path(new, "t").read_bytes() == b"tus!"
    assert held.delete(f"{top}/ops/rm", params={"path": new}).status_code == 204


def submit(client: httpx.Client, tree: Path, **changes: Any) -> httpx.Response:
    job = {"name": "n", "workingDirectory": str(tree / "sub"), "script": "#!/bin/sh\necho done\n", **changes}
    return client.post("/compute/demo/jobs", json={"job": job})


def test_a_job_in_the_tree(held: httpx.Client, tree: Path) -> None:
    answer = submit(held, tree, standardOutput="out-%j-%x", standardError="/dev/null")
    assert answer.status_code == 201
    job_id = answer.json()["jobId"]
    output = tree / "sub" / f"out-{job_id}-n"
    assert wait_until(lambda: output.exists() and output.read_text() == "done\n")
    # Jobs are named by their id, so that paths do not matter; reading is what another rule allows.
    assert held.get(f"/compute/demo/jobs/{job_id}").status_code == 200
    assert held.delete(f"/compute/demo/jobs/{job_id}").status_code == 204


def test_the_output_of_a_job_is_held_to_the_tree(
    held: httpx.Client, alice: Person, bob: Person, guarded: Gateway, cluster: Cluster, tree: Path
) -> None:
    """A job that was submitted elsewhere may write anywhere; who may read no files sees no output at all."""

    def ended(person: Person, output: str) -> str:
        argv = ["sbatch", "--parsable", "--wait", "--chdir", str(person.user.home), "-o", output, "--wrap", "echo done"]
        return person.run(*argv).strip()

    outside = tree.parent / "outside" / "job.out"
    job_id = ended(alice, str(outside))
    for follow in ("false", "true"):
        assert_denied(held.get(f"/compute/demo/jobs/{job_id}/output", params={"follow": follow}), "tree")
    outside.unlink()
    raw = {"Accept": "application/octet-stream"}
    inside = ended(alice, f"{tree}/sub/job.out")
    answer = held.get(f"/compute/demo/jobs/{inside}/output", params={"follow": "true"}, headers=raw)
    assert (answer.status_code, answer.content) == (200, b"done\n")
    alice.run("rm", f"{tree}/sub/job.out")
    headers = {"Authorization": f"Bearer {cluster.token('bob')}"}
    url = f"{guarded.url}/compute/demo/jobs/{ended(bob, '/dev/null')}"
    assert httpx.get(url, headers=headers, timeout=600).status_code == 200
    assert_denied(httpx.get(f"{url}/output", headers=headers, timeout=600), "default")


OUTSIDE: list[dict[str, Any]] = [
    {"standardOutput": "../../outside/x"},
    {"standardError": "%x", "name": "../../outside/x"},
    {"standardError": "%10x", "name": "../../outside/x"},
    {"standardOutput": "%x", "name": None},
    {"standardOutput": ".\\./.\\./outside/x"},
    {"standardOutput": "login:/etc/x"},
    {"standardOutput": "%j/x"},
    {"standardInput": "../relative/secret"},
    {"env": {"SBATCH_OUTPUT": "/tmp/x"}},
    {"env": ["LD_PRELOAD=/tmp/x.so"]},
    {"env": {"SLURM_CONF": "/tmp/slurm.conf"}},
    {"script": None, "executable": "/bin/true"},
    {"script": None, "executable": "../../outside/x"},
    {"script": None, "executable": "true", "preLaunch": "/etc/profile"},
    {"script": None, "executable": "true", "postLaunch": "/etc/profile"},
    {"extra": {"slurm": {"bbf": "/etc/passwd"}}},
    {"extra": {"slurm": {"nodelist": "/etc/passwd"}}},
]
"""What a job says that leads out of the tree."""


@pytest.mark.parametrize("changes", OUTSIDE)
def test_jobs_that_name_what_lies_outside(held: httpx.Client, tree: Path, changes: dict[str, Any]) -> None:
    assert_denied(submit(held, tree, **changes), "tree")


def test_each_of_many_jobs_is_held_to_the_tree(held: httpx.Client, tree: Path) -> None:
    """Those that lead out are denied by themselves, and the one among them that does not is submitted."""
    good = {"name": "n", "workingDirectory": str(tree / "sub"), "script": "#!/bin/sh\ntrue\n"}
    bad = [
        *OUTSIDE,
        {"workingDirectory": str(tree.parent / "outside")},
        {"script": None, "scriptPath": str(tree.parent / "outside" / "secret")},
    ]
    jobs = [{"job": good}, *({"job": good | changes} for changes in bad)]
    answer = held.post("/compute/demo/jobs/bulk", json={"jobs": jobs})
    assert answer.status_code == 200, answer.text
    first, *others = answer.json()["jobs"]
    assert first["jobId"]
    for changes, one in zip(bad, others, strict=True):
        assert (one["jobId"], one["error"]["status"]) == (None, 403), (changes, one)
        assert "tree" in one["error"]["message"]


def test_a_dry_run_says_what_the_policy_says(held: httpx.Client, tree: Path) -> None:
    """Nothing is submitted, and the scheduler is not asked about what is not allowed."""
    job = {"workingDirectory": str(tree / "sub"), "executable": "true"}
    answer = held.post("/compute/demo/jobs?dryRun=true", json={"job": job})
    assert answer.status_code == 200, answer.text
    assert answer.json()["policy"] == {"allowed": True, "rule": "tree", "reason": None}
    answer = held.post("/compute/demo/jobs?dryRun=true", json={"job": job | {"preLaunch": "/etc/profile"}})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["tested"], answer.json()["policy"]["allowed"]) == (False, False)
    assert answer.json()["policy"]["rule"] == "tree"
    assert answer.json()["policy"]["reason"]


def test_rules_by_system_group_and_user(guarded: Gateway, cluster: Cluster, held: httpx.Client) -> None:
    bob = httpx.Client(base_url=guarded.url, headers={"Authorization": f"Bearer {cluster.token('bob')}"}, timeout=600)
    with bob:
        assert bob.get("/status/demo/nodes").status_code == 200
        assert bob.get("/compute/demo/jobs").status_code == 200
        assert_denied(bob.get("/status/commands/nodes"), "default")
        assert_denied(bob.get("/filesystem/demo/ops/ls", params={"path": "/"}), "default")
        assert_denied(bob.post("/compute/demo/jobs", json={"job": {"workingDirectory": "/", "script": "x"}}), "default")
        assert_denied(bob.delete("/filesystem/demo/transfer/rm", params={"path": "/x"}), "no-transfers")
        assert bob.get("/status/systems").status_code == 200
    assert held.get("/status/demo/userinfo").status_code == 200
    assert_denied(held.get("/status/commands/nodes"), "default")


def test_rules_by_claims(guarded: Gateway, cluster: Cluster) -> None:
    """Rules apply by client, scope and network of a request."""

    def asks(**claims: Any) -> httpx.Response:
        token = cluster.idp.mint(cluster.user("bob").name, **claims)
        path = str(cluster.user("bob").home)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{guarded.url}/filesystem/demo/ops/ls", params={"path": path}, headers=headers, timeout=600)

    assert asks(client_id="free").status_code == 200
    assert_denied(asks(client_id="free", scope="openid"), "default")
    assert_denied(asks(client_id="other"), "default")


def test_denials_are_audited(held: httpx.Client, guarded: Gateway, cluster: Cluster, tree: Path) -> None:
    """Each denial is written to the audit log with the rule and the request."""
    token = cluster.idp.mint(cluster.user("alice").name, jti="the-token", client_id="the-client")
    headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "the-request"}
    path = f"{tree}/relative/secret"
    assert_denied(held.get("/filesystem/demo/ops/view", params={"path": path}, headers=headers), "tree")

    audit = cluster.directory / "guarded-audit.log"

    def lines() -> list[dict[str, Any]]:
        every = map(json.loads, audit.read_text().splitlines())
        return [line for line in every if line["request_id"] == "the-request"]

    # The request is written down after its answer.
    assert wait_until(lambda: len(lines()) > 1)
    told, action = lines()
    assert told["event"] == "denied"
    assert (action["event"], action["outcome"]) == ("action", "denied")
    assert told["rule"] == "tree"
    assert told["user"] == cluster.user("alice").name
    assert told["client_id"] == "the-client"
    assert told["token_id"] == "the-token"
    assert told["source"] == "127.0.0.1"
    assert told["system"] == "demo"
    assert told["group"] == "fs:read"
    assert told["paths"] == [path]
    assert token not in audit.read_text() + guarded.log.read_text()


def test_every_endpoint_with_a_path_is_tried(guarded: Gateway) -> None:
    """A new endpoint must be added to `requests`, or have a test of its own here."""
    tried = {(method, url.replace("0" * 32, "{upload_id}")) for method, url, _ in requests("{system_name}", "/", "/")}
    without_paths = {
        ("GET", "/compute/{system_name}/jobs"),
        ("POST", "/compute/{system_name}/jobs/cancel"),
        ("GET", "/compute/{system_name}/events"),
        ("POST", "/compute/{system_name}/notifications"),
        ("GET", "/compute/{system_name}/submissions"),
        ("GET", "/compute/{system_name}/submissions/{key}"),
    }
    # test_what_is_followed_is_held_to_the_tree
    tried.add(("GET", "/filesystem/{system_name}/files/follow"))
    tried.add(("POST", "/compute/{system_name}/jobs/bulk"))  # test_each_of_many_jobs_is_held_to_the_tree
    document = httpx.get(f"{guarded.url}/openapi.json").json()
    for path, item in document["paths"].items():
        for method in item:
            one = (method.upper(), path)
            named = path.startswith("/compute/") and "{job_id}" not in path and one not in without_paths
            if named or (path.startswith("/filesystem/") and method != "options"):
                assert one in tried
