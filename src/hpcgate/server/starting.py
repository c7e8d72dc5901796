"""A start that takes long: SIGTERM ends it at once, and says what it was waiting for."""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

LONG = 10.0
"""Seconds that it takes to open everything where nothing is wrong, many times over."""
PATIENCE = 2.0
"""Seconds from a signal on in which what is opened may end by itself."""
_LOOK = 0.1
_FRAMES = 3
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


class Opening:
    """Watches, from a thread, over what is opened on the event loop: a plug-in may block that.

    A context manager, for the main thread. What takes `LONG` is told of once, with where the main thread is. What
    blocks the loop sees no signal either: the process ends `PATIENCE` after one, and says where it was.

    Args:
        cut: Says whether a signal has come.
    """

    def __init__(self, cut: Callable[[], bool]) -> None:
        self._cut = cut
        self._over = threading.Event()
        self._main = threading.get_ident()

    def __repr__(self) -> str:
        return f"<Opening {'over' if self._over.is_set() else 'under way'}>"

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, name="opening", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        began, told, asked = time.monotonic(), False, None
        while not self._over.wait(_LOOK):
            now = time.monotonic()
            if not told and now - began >= LONG:
                told = True
                log.warning("server.start_takes_long", seconds=LONG, where=self._where())
            if self._cut():
                asked = now if asked is None else asked
                if now - asked >= PATIENCE:
                    os.write(2, f"hpcgate: ended by a signal while opening the gateway, in {self._where()}\n".encode())
                    # By the signal, as who has sent it expects. Python sets handlers in the main thread alone.
                    ctypes.CDLL(None).signal(signal.SIGTERM, _DEFAULT)
                    os.kill(os.getpid(), signal.SIGTERM)

    def _where(self) -> str:
        """Return the main thread's innermost frames."""
        frames = traceback.extract_stack(sys._current_frames().get(self._main))[-_FRAMES:]
        return " < ".join(f"{frame.filename}:{frame.lineno} ({frame.name})" for frame in reversed(frames))
