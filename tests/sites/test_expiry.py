"""Accounts that PAM refuses after sshd has taken the key: 424 that says so, and nothing is held against the node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.errors import CredentialRefused
from tests.sites.operations import VERBS
from tests.sites.test_shells import outcomes
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes", "sshd"]


@pytest.fixture(scope="module")
def with_pam(nodes: LoginNodes) -> Iterator[Sshd]:
    node = nodes.start(extra="UsePAM yes")
    yield node
    node.stop()


@contextmanager
def aged(user: User, *options: str) -> Iterator[None]:
    """Change when an account and its password expire."""
    subprocess.run(["chage", *options, user.name], check=True)
    try:
        yield
    finally:
        subprocess.run(["chage", "-E", "-1", "-I", "-1", "-M", "-1", "-d", "20000", user.name], check=True)


EXPIRED = {
    "the account": ("-E", "0"),
    "the password": ("-M", "1", "-I", "1", "-d", "1"),
}


@pytest.mark.parametrize("case", EXPIRED)
async def test_an_account_that_has_expired(make_pool: MakePool, with_pam: Sshd, nodes: LoginNodes, case: str) -> None:
    pool = make_pool(with_pam)
    with aged(nodes.bob, *EXPIRED[case]):
        with pytest.raises(
            CredentialRefused, match=f"took the SSH key of {nodes.bob.name} and ended the login"
        ) as told:
            async with pool.lease(principal(nodes.bob)):
                pass
        assert "expired" in told.value.message
        # The node is as good as before for everybody else.
        async with pool.lease(principal(nodes.alice)) as session:
            assert (await session.run(["echo", "here"])).stdout == b"here\n"
    await pool.close()


@pytest.mark.parametrize("files", ["auto", "commands"])
async def test_a_password_that_must_be_changed(
    make_pool: MakePool, with_pam: Sshd, nodes: LoginNodes, files: str
) -> None:
    with Account(nodes) as account, aged(account.user, "-d", "0"):
        found = await outcomes(make_pool, with_pam, account, files)
    for name in VERBS:
        assert found[name].startswith("424 "), (name, found[name])
        assert "Password change required" in found[name]
