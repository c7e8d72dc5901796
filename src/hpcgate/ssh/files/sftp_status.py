"""What an SFTP server says of one request (draft-ietf-secsh-filexfer-02, section 7), apart from what is said of it.

Three of the protocol's codes are about the conversation, and asyncssh raises the same exceptions when it cannot read
an answer, or has lost the server. Said by a server they are no more than its answer to one request: OpenSSH's sends
SSH_FX_BAD_MESSAGE for ENAMETOOLONG and EINVAL (``errno_to_portable`` in its sftp-server.c), and the other two are not
for servers to send at all. So all three are taken for SSH_FX_FAILURE, which says that something failed, not why.
"""

from collections.abc import Callable
from typing import Final

import asyncssh

_STATUS: Final = 101
_FAILURE: Final = 4
_OF_THE_CONVERSATION: Final = frozenset({5, 6, 7})
"""SSH_FX_BAD_MESSAGE, SSH_FX_NO_CONNECTION and SSH_FX_CONNECTION_LOST."""
_CODE: Final = slice(5, 9)
"""Where a status has its code, behind its kind and the number of the request."""
_LENGTH: Final = 4
_NAME: Final = 104
_DATA: Final = 103
MAX_NAMES: Final = 2048
"""Names in one answer: asyncssh reads all of them in one go. OpenSSH sends 100, and others as many or one more."""
_NAMES: Final = 80 * 1024
"""Bytes of them: 100 of the longest, each of which stands there twice."""
_REST: Final = 8 * 1024
"""Bytes of an answer that is neither names nor the content of a file."""
_ERRORS: Final[dict[int, Callable[[str], asyncssh.SFTPError]]] = {
    1: asyncssh.SFTPEOFError,
    2: asyncssh.SFTPNoSuchFile,
    3: asyncssh.SFTPPermissionDenied,
    8: asyncssh.SFTPOpUnsupported,
}


def _is_short(message: bytes) -> bool:
    """Say whether an answer takes no more than a moment to be read."""
    if message[0] == _NAME:
        return len(message) <= _NAMES and int.from_bytes(message[_CODE], "big") <= MAX_NAMES
    return message[0] == _DATA or len(message) <= _REST


def failed(code: int, words: str) -> asyncssh.SFTPError:
    """Return the error for a status that a server answers a request with."""
    return _ERRORS.get(code, asyncssh.SFTPFailure)(words)


class Answers(asyncssh.SSHReader[bytes]):
    """What asyncssh's client reads from a server: what that says of a request does not look like asyncssh's own."""

    async def readexactly(self, n: int) -> bytes:
        """Return the length of a message, or all of it behind that.

        Raises:
            asyncssh.SFTPBadMessage: It would take long to be read, and is none that a server sends.
        """
        message = await super().readexactly(n)
        if n > _LENGTH and not _is_short(message):
            raise asyncssh.SFTPBadMessage("The SFTP server's answer is too long")
        if message[:1] == bytes([_STATUS]) and int.from_bytes(message[_CODE], "big") in _OF_THE_CONVERSATION:
            return message[: _CODE.start] + _FAILURE.to_bytes(4, "big") + message[_CODE.stop :]
        return message
