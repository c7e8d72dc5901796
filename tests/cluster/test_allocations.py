"""What is left of accounts and file systems, by HTTP: of Slurm with a database and without, and where nobody tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.processes import wait_until
from hpcgate.demo.slurm import Slurm
from hpcgate.demo.sshd import Sshd

LEFT = {"cpu": 1_000_000, "gres/gpu": 500}
"""Minutes that the account `demo` may use."""
OWN = 70
"""Minutes of CPUs that alice may use of the account `extra`."""


def quota(*command: str, **settings: Any) -> dict[str, Any]:
    return {"command": list(command), **settings}


def printing(*lines: str) -> list[str]:
    """Return a command that prints lines in which the placeholders are filled in; arguments, for nothing reads them."""
    return ["printf", "%s\\n", *lines]


REST = {"connection_mode": "rest", "api_url": "http://127.0.0.1:1", "api_version": "0.0.42"}
PBS = {"type": "pbs", "version": "23.06.06", "connection_mode": None}
HANGS = "sleep 600 & echo $! >quota-pid; wait"
TOLD = '{"name": "{username}", "source": "{path}", "used": 5, "limit": 7}'


@pytest.fixture(scope="module")
def http(
    cluster: Cluster, plain: tuple[Slurm, Sshd], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    slurm, sshd = plain

    def system(name: str, homes: Any = None, scratch: Any = None, **others: Any) -> dict[str, Any]:
        return cluster.cluster_settings(
            name,
            file_systems=[
                {"path": str(cluster.homes), "data_type": "users", "quota": homes},
                {"path": str(cluster.scratch), "data_type": "scratch", "quota": scratch},
            ],
            probing={"services": None},
            **others,
        )

    config = cluster.write_gateway_config(
        tmp_path_factory.mktemp("allocations") / "gateway.yaml",
        clusters=[
            system("demo", quota(*printing(TOLD)), quota("sh", "-c", HANGS, timeout=1)),
            system("plain", slurm=slurm, sshd=sshd),
            system("rest", scheduler=REST),
            system("pbs", scheduler=PBS),
            system(
                "pbs with quotas",
                quota("no-such-quota", "-u", "{username}"),
                quota(*printing('used=1 name="{username} $(id)"'), format="pairs"),
                scheduler=PBS,
            ),
        ],
    )
    gateway: Gateway = cluster.start_gateway(config)
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as client:
        yield client
    gateway.stop()


@pytest.fixture
def limits(cluster: Cluster) -> Iterator[None]:
    """Limits of an account and of a user in another one, as far as the controller has been told."""
    user = ("user", "where", f"name={cluster.user('alice').name}", "account=extra")

    def limit(minutes: Mapping[str, int], own: int) -> None:
        words = ",".join(f"{name}={number}" for name, number in minutes.items())
        cluster.slurm.sacctmgr("modify", "account", "demo", "set", f"GrpTRESMins={words}")
        cluster.slurm.sacctmgr("modify", *user, "set", f"GrpTRESMins=cpu={own}")

    def told(*words: str) -> bool:
        shown = cluster.slurm.scontrol("show", "assoc_mgr", "accounts=demo,extra", "flags=assoc")
        return all(word in shown for word in words)

    try:
        limit(LEFT, OWN)
        wait_until(lambda: told(f"cpu={LEFT['cpu']}(", f"cpu={OWN}("), "the controller knows the limits", 120)
        yield
    finally:
        limit(dict.fromkeys(LEFT, -1), -1)
        wait_until(lambda: not told(f"cpu={LEFT['cpu']}("), "the controller has forgotten the limits", 120)


def ask(http: httpx.Client, system: str, status: int = 200) -> Any:
    answer = http.get(f"/status/{system}/allocations")
    assert answer.status_code == status, answer.text
    return answer.json()


def resources(allocations: list[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[Any, Any, Any]]:
    return {
        (one["account"], each["scope"], each["resource"]): (each["limit"], each["used"], each["left"])
        for one in allocations
        for each in one["resources"]
    }


@pytest.mark.usefixtures("limits")
def test_limits_are_those_of_the_controller(http: httpx.Client) -> None:
    found = ask(http, "demo")["allocations"]
    assert [(one["account"], one["default"]) for one in found] == [("demo", True), ("extra", False)]
    shown = resources(found)
    for name, minutes in LEFT.items():
        limit, used, left = shown["demo", "account", name]
        assert (limit, left) == (minutes, minutes - used)
    limit, used, left = shown["extra", "user", "cpu"]
    assert (limit, left) == (OWN, max(0, OWN - used))


def test_a_slurm_without_a_database_has_no_accounts(http: httpx.Client) -> None:
    assert ask(http, "plain") == {"allocations": [], "quotas": None}


@pytest.mark.parametrize(("system", "words"), [("rest", "slurmrestd alone"), ("pbs", "PBS does not record")])
def test_where_it_is_not_recorded(http: httpx.Client, system: str, words: str) -> None:
    """It is 501, and says why."""
    assert words in ask(http, system, 501)["message"]


def test_quotas_are_those_that_the_command_tells_of(cluster: Cluster, http: httpx.Client) -> None:
    """One that hangs keeps nobody from the others, and is ended."""
    user = cluster.user("alice")
    homes, scratch = ask(http, "demo")["quotas"]
    told = {"resource": "bytes", "scope": "user", "name": user.name, "source": str(cluster.homes)}
    numbers = {"used": 5, "limit": 7, "softLimit": None, "left": 2}
    assert homes == {"path": str(cluster.homes), "resources": [told | numbers], "error": None}
    assert (scratch["path"], scratch["resources"], scratch["error"]["status"]) == (str(cluster.scratch), [], 408)
    pid = int((user.home / "quota-pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "what the command has started has ended", 120)


def test_quotas_are_told_where_the_scheduler_tells_nothing(cluster: Cluster, http: httpx.Client) -> None:
    found = ask(http, "pbs with quotas")
    assert found["allocations"] is None
    homes, scratch = found["quotas"]
    assert (homes["resources"], homes["error"]["status"]) == ([], 501)
    assert "no-such-quota" in homes["error"]["message"]
    assert scratch["resources"][0]["name"] == f"{cluster.user('alice').name} $(id)"


def test_the_command_is_nobodys_to_see(http: httpx.Client) -> None:
    assert "no-such-quota" not in http.get("/status/systems").text
