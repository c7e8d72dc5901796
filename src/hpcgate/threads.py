"""Threads that the end of the process does not wait for: one may hang, in a file system or a library, for good."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

MANY: Final = 1000
"""Jobs, or the like, from which on what goes through them all is left to a thread."""
PATIENCE = 1.0
"""Seconds that a shutdown waits for what is under way."""


class Threads(ThreadPoolExecutor):
    """A pool whose threads neither its shutdown nor the interpreter's end waits for without end.

    The interpreter joins each thread of a ThreadPoolExecutor; event loops take no other class for their default
    executor. Only its default number of threads is used.

    Args:
        name: The beginning of their names.
        most: How many threads there may be; None is as many as an event loop has by default.
    """

    def __init__(self, name: str, most: int | None = None) -> None:
        super().__init__(most, name)
        self._most = self._max_workers
        self._name = name
        self._lock = threading.Lock()
        self._resting = threading.Semaphore(0)
        self._begun: list[threading.Thread] = []
        self._over = False
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Have a function called by the next thread that rests.

        Raises:
            RuntimeError: The pool was shut down.
        """
        with self._lock:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[T] = Future()
            self._work.put((future, partial(fn, *args, **kwargs)))
            if not self._resting.acquire(blocking=False) and len(self._begun) < self._most:
                name = f"{self._name}_{len(self._begun)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._begun.append(thread)
                thread.start()
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once nothing is left to do, and wait for that for `PATIENCE` seconds at most."""
        with self._lock:
            self._over = True
            if cancel_futures:
                with suppress(Empty):
                    while True:
                        if (work := self._work.get_nowait()) is not None:
                            work[0].cancel()
            self._work.put(None)
        until = time.monotonic() + PATIENCE
        for thread in self._begun if wait else ():
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get_nowait()
            except Empty:
                self._resting.release()
                work = self._work.get()
            if work is None:
                self._work.put(None)  # for the others
                return
            _call(*work)
            del work  # what it holds is not kept while the thread rests


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a function returns that may hang, from a thread of its own, which is left to itself if it does.

    Args:
        seconds: How long it may take.
        call: The function. What it raises is raised here.

    Raises:
        TimeoutError: It takes longer.
    """
    future = _begun(call)
    # A thread that waits for a future can be interrupted by a signal.
    done, _ = wait((future,), seconds)
    if not done:
        raise TimeoutError
    return future.result()


async def alone(call: Callable[[], T]) -> T:
    """Return what a function returns that may hang for good, from a thread of its own: it takes no thread of others'.

    Who calls sees to it that there is one at a time of a kind.
    """
    return await asyncio.wrap_future(_begun(call))


async def off_loop(things: int, call: Callable[[], T]) -> T:
    """Return what a function returns that goes through so many things: in a thread if the event loop would wait for it.

    What it goes through must not change meanwhile.
    """
    return call() if things < MANY else await asyncio.to_thread(call)


def _begun(call: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    threading.Thread(target=_call, args=(future, call), name="alone", daemon=True).start()
    return future


def _call(future: "Future[Any]", call: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = call()
        except BaseException as error:  # it belongs to who asked
            future.set_exception(error)
        else:
            future.set_result(result)
