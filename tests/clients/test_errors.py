"""What the clients make of answers that are not what they hoped for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import firecrest
import pytest
from firecrest.FirecrestException import ClientsCredentialsException, UnexpectedStatusException

from hpcgate.demo.cluster import Cluster
from tests.clients.clients import Make
from tests.people import Person


class Token:
    """A source of one token, as pyfirecrest takes it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_access_token(self) -> str:
        return self.token


def refused(call: Callable[[], Any], status: int, *words: str) -> UnexpectedStatusException:
    """Call and return the failure, which must be of this status with these words in its message and its text."""
    with pytest.raises(firecrest.FirecrestException) as failure:
        call()
    # All refusals are of this one type in the v2 clients, 401 and 404 too.
    assert type(failure.value) is UnexpectedStatusException
    (answer,) = failure.value.responses
    assert answer.status_code == status
    for word in words:
        assert word in answer.json()["message"]
        assert word in str(failure.value)
    return failure.value


def test_bad_token(make_client: Make) -> None:
    """A token that is not one is 401 for the client."""
    failure = refused(make_client(authorization=Token("a.b.c")).systems, 401)
    assert failure.responses[-1].headers["www-authenticate"].startswith("Bearer")


def test_token_of_nobody_here(make_client: Make, cluster: Cluster) -> None:
    client = make_client(authorization=Token(cluster.idp.mint("nobody-knows")))
    assert client.systems()
    with pytest.raises(UnexpectedStatusException) as failure:
        client.userinfo("demo")
    assert failure.value.responses[-1].status_code in (403, 424)


def test_wrong_client_secret(make_client: Make, cluster: Cluster, alice: Person) -> None:
    """The client's own error tells of a wrong secret."""
    login = firecrest.ClientCredentialsAuth(alice.user.client_id, "wrong", cluster.idp.token_url)
    with pytest.raises(ClientsCredentialsException):
        make_client(authorization=login).systems()


def test_unknown_system(client: Any) -> None:
    """A system that does not exist is 404 for the client."""
    refused(lambda: client.nodes("nowhere"), 404, "System not found")
    refused(lambda: client.list_files("nowhere", "/"), 404, "System not found")
    refused(lambda: client.job_info("nowhere"), 404, "System not found")


def test_missing_file(client: Any, system: str, place: Path, tmp_path: Path) -> None:
    """A file that does not exist is 404 for each method of the client."""
    path = str(place / "missing")
    missing = "No such file or directory"
    refused(lambda: client.list_files(system, path), 404, missing)
    refused(lambda: client.stat(system, path), 404, missing)
    refused(lambda: client.head(system, path), 404, missing)
    refused(lambda: client.tail(system, path), 404, missing)
    refused(lambda: client.view(system, path), 404, missing)
    refused(lambda: client.checksum(system, path), 404, missing)
    refused(lambda: client.chmod(system, path, "600"), 404, missing)
    refused(lambda: client.rm(system, path), 404, missing)
    refused(lambda: client.compress(system, path, path + ".tgz"), 404, missing)
    refused(lambda: client.extract(system, path, str(place)), 404, missing)
    with pytest.raises(FileNotFoundError, match="missing"):
        client.download(system, path, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert list(place.iterdir()) == []


def test_forbidden(client: Any, system: str, bob: Person, tmp_path: Path) -> None:
    """What a user may not read is 403 for the client."""
    secret = bob.user.home / "secret"
    bob.run("sh", "-c", f"umask 077; mkdir -p {secret}; echo secret > {secret}/file")
    (tmp_path / "file").write_bytes(b"mine")
    denied = "Permission denied"
    refused(lambda: client.list_files(system, str(secret)), 403, denied)
    refused(lambda: client.view(system, str(secret / "file")), 403, denied)
    refused(lambda: client.download(system, str(secret / "file"), tmp_path / "fetched"), 403, denied)
    refused(lambda: client.upload(system, tmp_path / "file", str(secret), "file"), 403, denied)
    refused(lambda: client.rm(system, str(secret)), 403)
    assert (secret / "file").read_text() == "secret\n"


def test_already_there(client: Any, system: str, place: Path) -> None:
    """A name that is taken is 400 for the client."""
    refused(lambda: client.mkdir(system, str(place)), 400, "File exists")
    refused(lambda: client.symlink(system, str(place.parent), str(place)), 400, "File exists")


def test_bad_mode(client: Any, system: str, place: Path) -> None:
    """A mode that is not one is 400 for the client."""
    before = place.stat().st_mode
    refused(lambda: client.chmod(system, str(place), "999"), 400)
    assert place.stat().st_mode == before


@pytest.mark.parametrize("name", ["demo", "plain"])
def test_unknown_job(client: Any, name: str) -> None:
    """A job that does not exist is 404 for the client."""
    refused(lambda: client.job_info(name, "999999"), 404, "Job not found")
    refused(lambda: client.job_metadata(name, "999999"), 404, "Job not found")
    refused(lambda: client.cancel_job(name, "999999"), 404, "Job not found")
    refused(lambda: client.wait_for_job(name, "999999", not_found_timeout=-1), 404, "Job not found")


def test_refused_submission(client: Any, place: Path) -> None:
    """What the scheduler refuses is 400 for the client."""
    script = "#!/bin/bash\ntrue\n"
    refused(lambda: client.submit("demo", str(place), script_str=script, partition="nowhere"), 400, "partition")
    refused(lambda: client.submit("demo", str(place), script_str="true"), 400, "#!")


def test_an_error_can_be_found_again_by_its_ids(client: Any, place: Path) -> None:
    with firecrest.correlation_id("night shift 7"):
        failure = refused(lambda: client.stat("demo", str(place / "missing")), 404)
    headers = failure.responses[-1].headers
    assert failure.request_id
    assert headers["x-request-id"] == failure.request_id
    assert headers["x-correlation-id"] == failure.correlation_id == "night shift 7"
