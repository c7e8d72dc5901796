"""What an SFTP server answers is read in one go, so that nothing is read that no server sends."""

from struct import pack
from typing import Any

import asyncssh
import pytest

from hpcgate.ssh.files.sftp_status import Answers

NAMES, REST = 80 * 1024, 8 * 1024
ROW = pack(">I1sII", 1, b"a", 0, 0)
LONG_ROW = pack(">I255sI345sI", 255, bytes(255), 345, bytes(345), 0)
ANSWERS = {
    # The message without its length, and whether it is one that a server may send.
    "a hundred of the longest names": (pack(">BII", 104, 1, 100) + LONG_ROW * 100, True),
    "as many names as are read": (pack(">BII", 104, 1, 2048) + ROW * 2048, True),
    "more names": (pack(">BII", 104, 1, 2049) + ROW * 2049, False),
    "more names than there are": (pack(">BII", 104, 1, 1 << 31), False),
    "one long name": (pack(">BII", 104, 1, 1) + bytes(NAMES), False),
    "content": (pack(">BI", 103, 1) + bytes(256 * 1024), True),
    "attributes": (pack(">BI", 105, 1) + bytes(REST - 5), True),
    "more attributes": (pack(">BI", 105, 1) + bytes(REST), False),
    "more words": (pack(">BII", 101, 1, 4) + bytes(REST), False),
    "more of a handle": (pack(">BI", 102, 1) + bytes(REST), False),
    "more of a version": (pack(">BI", 2, 3) + bytes(REST), False),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_that_takes_long_to_be_read_is_none(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message, fair = ANSWERS[answer]
    whole = len(message).to_bytes(4, "big") + message

    async def readexactly(_: Any, n: int) -> bytes:
        nonlocal whole
        part, whole = whole[:n], whole[n:]
        return part

    monkeypatch.setattr(asyncssh.SSHReader, "readexactly", readexactly)
    reader = object.__new__(Answers)
    assert await reader.readexactly(4) == len(message).to_bytes(4, "big")
    if fair:
        assert await reader.readexactly(len(message)) == message
    else:
        with pytest.raises(asyncssh.SFTPBadMessage):
            await reader.readexactly(len(message))
