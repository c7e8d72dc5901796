"""The status calls of the clients."""

import grp
from typing import Any

from hpcgate.demo.cluster import Cluster
from tests.clients.clients import Site
from tests.people import Person


def test_systems(client: Any, cluster: Cluster) -> None:
    """The client lists the systems."""
    systems = {system["name"]: system for system in client.systems()}
    assert set(systems) == {"demo", "commands", "plain"}
    assert systems["demo"]["ssh"]["port"] == cluster.sshd.port
    assert systems["demo"]["scheduler"]["type"] == "slurm"
    assert systems["demo"]["fileSystems"][0]["path"] == str(cluster.homes)
    assert systems["demo"]["dataOperation"]["max_ops_file_size"] == 5 * 1024 * 1024


def test_server_version(client: Any) -> None:
    """The client is told the version of the interface."""
    assert client.server_version() == "2.6.0"


def test_nodes(client: Any, site: Site) -> None:
    """The client lists the nodes of a system."""
    nodes = {node["name"]: node for node in client.nodes(site.name)}
    assert set(nodes) == set(site.slurm.nodes)
    for node in nodes.values():
        assert node["cpus"] == site.slurm.options.cpus_per_node
        assert set(node["state"]) <= {"IDLE", "MIXED", "ALLOCATED", "COMPLETING"}


def test_partitions(client: Any, site: Site) -> None:
    """The client lists the partitions of a system."""
    partitions = {partition["name"]: partition for partition in client.partitions(site.name)}
    assert set(partitions) == {"normal", "debug"}
    assert partitions["normal"]["partition"] == "UP"
    assert partitions["normal"]["totalNodes"] == len(site.slurm.nodes)


def test_reservations(client: Any, site: Site) -> None:
    """The client lists the reservations of a system."""
    assert client.reservations(site.name) == []
    name = site.slurm.reserve("clients-status", [site.user.name], start="now+2hours")
    try:
        (reservation,) = client.reservations(site.name)
    finally:
        site.slurm.release(name)
    assert reservation["name"] == name
    assert reservation["state"] == "inactive"
    assert reservation["endTime"] - reservation["startTime"] == 3600
    assert reservation["nodeList"] in site.slurm.nodes


def test_userinfo(client: Any, site: Site, alice: Person) -> None:
    """The client is told who its user is on a system."""
    answer = client.userinfo(site.name)
    user = alice.user
    assert answer["user"] == {"id": str(user.uid), "name": user.name}
    assert answer["group"] == {"id": str(user.gid), "name": user.groups[0]}
    assert {group["name"]: group["id"] for group in answer["groups"]} == {
        name: str(grp.getgrnam(name).gr_gid) for name in user.groups
    }
    assert [group["name"] for group in answer["groups"] if group["default"]] == [user.groups[0]]
    if site.slurm.options.accounting:
        accounts = {account["name"]: account["default"] for account in answer["accounts"]}
        assert accounts == {"demo": True, "extra": False}


def test_sessions_can_be_closed_and_opened(client: Any) -> None:
    client.close_session()
    assert client.is_session_closed
    client.create_new_session()
    assert not client.is_session_closed
    assert client.systems()
