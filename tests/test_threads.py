"""Threads that may hang: what is asked of them is done beside them, and the process ends though they do not."""

import asyncio
import subprocess
import sys
import threading
from functools import partial

import pytest

from hpcgate.threads import Threads


async def test_a_loop_uses_them_for_what_would_hold_it_up() -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads("test", 2))
    gate = threading.Event()
    hanging = asyncio.create_task(asyncio.to_thread(gate.wait))
    names = {await asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(20)}
    assert names <= {"test_0", "test_1"}
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(divmod, 1, 0)
    gate.set()
    assert await hanging


def test_there_are_so_many_and_no_more() -> None:
    pool, gate = Threads("many", 3), threading.Event()
    held = [pool.submit(gate.wait) for _ in range(10)]
    assert sum(thread.name.startswith("many_") for thread in threading.enumerate()) == 3
    dropped = [pool.submit(print) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(one.cancelled() for one in dropped)
    with pytest.raises(RuntimeError):
        pool.submit(print)
    gate.set()
    assert all(one.result() for one in held if not one.cancelled())
    pool.shutdown()
    for thread in pool._begun:
        thread.join(120)
        assert not thread.is_alive()


def test_one_that_rests_is_used_again() -> None:
    pool = Threads("again", 10)
    pool.submit(partial(divmod, 7, 2)).result()
    resting = pool._resting
    while not resting.acquire(blocking=False):
        pass
    resting.release()
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    assert len(pool._begun) == 1
    pool.shutdown()


@pytest.mark.parametrize("loop", ["asyncio.run", "uvloop.run"])
def test_the_process_ends_though_one_hangs(loop: str) -> None:
    """A file of keys on a file system whose server is gone is read by a thread for good."""
    program = f"""
import asyncio, threading, uvloop
from hpcgate import threads
threads.PATIENCE = 0.1
async def serve():
    asyncio.get_running_loop().set_default_executor(threads.Threads("test", 4))
    begun = threading.Event()
    hanging = asyncio.ensure_future(asyncio.to_thread(lambda: (begun.set(), threading.Event().wait())))
    await asyncio.to_thread(begun.wait)
{loop}(serve())
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "ended\n"
