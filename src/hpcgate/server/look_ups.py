"""Names that are looked up while others are."""

import os

LOOK_UPS = 64
"""Names that may be looked up at a time: a DNS server that is slow for one of them must not keep others waiting."""


def make_room_for_look_ups() -> None:
    """Have threads for as many look-ups; libuv has four by default. To be called before the first one."""
    # libuv gives look-ups half of its threads (uv__slow_work_thread_threshold).
    os.environ.setdefault("UV_THREADPOOL_SIZE", str(2 * LOOK_UPS))
