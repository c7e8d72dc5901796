"""Both ways to reach files, on a real sshd."""

from tests.filesystem.remote import files, keys, nodes, place, session, sshd

__all__ = ["files", "keys", "nodes", "place", "session", "sshd"]
