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
_ERRORS: Final[dict[int, Callable[[str], asyncssh.SFTPError]]] = {
    1: asyncssh.SFTPEOFError,
    2: asyncssh.SFTPNoSuchFile,
    3: asyncssh.SFTPPermissionDenied,
    8: asyncssh.SFTPOpUnsupported,
}


def failed(code: int, words: str) -> asyncssh.SFTPError:
    """Return the error for a status that a server answers a request with."""
    return _ERRORS.get(code, asyncssh.SFTPFailure)(words)


class Answers(asyncssh.SSHReader[bytes]):
    """What asyncssh's client reads from a server: what that says of a request does not look like asyncssh's own."""

    async def readexactly(self, n: int) -> bytes:
        """Return the length of a message, or all of it behind that."""
        message = await super().readexactly(n)
        if message[:1] == bytes([_STATUS]) and int.from_bytes(message[_CODE], "big") in _OF_THE_CONVERSATION:
            return message[: _CODE.start] + _FAILURE.to_bytes(4, "big") + message[_CODE.stop :]
        return message
