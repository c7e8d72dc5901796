"""A start that takes long: SIGTERM ends it at once, and says what it was waiting for."""

import ctypes
import os
import signal
import threading
from types import FrameType

_DEFAULT = 0
"""SIG_DFL."""


class Starting:
    """Watches for SIGTERM until the server does so by itself. For the main thread.

    A handler in Python would wait for what the main thread waits for, a file system or a name server: a thread of its
    own is told by the interpreter's wake-up descriptor.

    Attributes:
        doing: What is under way, for the words.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.signal(signal.SIGTERM, _leave_to_the_thread)
        self._descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="starting", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Starting {self.doing}>"

    def over(self) -> None:
        """Leave signals to who comes next."""
        signal.set_wakeup_fd(self._descriptor)
        signal.signal(signal.SIGTERM, self._before)
        os.close(self._writer)

    def _watch(self) -> None:
        while told := os.read(self._reader, 64):
            if signal.SIGTERM in told:
                os.write(2, f"hpcgate: ended by SIGTERM while {self.doing}\n".encode())
                # By the signal, as who has sent it expects. Python sets handlers in the main thread alone.
                ctypes.CDLL(None).signal(signal.SIGTERM, _DEFAULT)
                os.kill(os.getpid(), signal.SIGTERM)
        os.close(self._reader)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing here."""
