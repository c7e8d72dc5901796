"""What a request takes of the event loop, measured while it runs."""

import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sized
from typing import Any

from hpcgate.admission.askers import Asker, User
from hpcgate.admission.queue import Admission


class Metered:
    """Awaits a stranger's request and measures what it takes of the event loop, until it turns out to be a user's."""

    def __init__(self, request: Coroutine[Any, Any, None], state: Mapping[str, Any], known: Callable[[str], None]):
        self.cost = 0.0
        self._request = request
        self._state = state
        self._known = known

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._request.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waits_for = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration:
                return
            finally:
                thrown = None  # its traceback leads here
                self.cost += time.thread_time() - began
                if name := self._state.get("username"):
                    self._known(name)
            sent = None
            try:
                sent = yield waits_for
            except BaseException as error:  # which is the request's to deal with
                thrown = error


def counted(admission: Admission, asker: Asker, app: Any, tasks: Sized) -> Any:
    """Return an application that counts as a caller's request, and what a stranger's costs until it is a user's.

    Args:
        admission: Lets the next one in when the request has ended.
        asker: Whose request it is.
        app: The application.
        tasks: The requests that are served.
    """
    turn = admission.begin(asker)

    async def count(scope: Any, receive: Any, send: Any) -> None:
        cost = 0.0
        try:
            if isinstance(turn.asker, User):
                await app(scope, receive, send)
            else:
                request = app(scope, receive, send)
                metered = Metered(request, scope["state"], lambda name: admission.verified(turn, name))
                try:
                    await metered
                finally:
                    cost = metered.cost
        finally:
            admission.end(turn, cost)
            if admission.waiting:
                admission.feed(len(tasks) - 1)

    return count


def counted_once_begun(admission: Admission, asker: Asker, app: Any, tasks: Sized) -> Any:
    """Return the same for a task that may never begin: it counts from when it does."""

    async def count(scope: Any, receive: Any, send: Any) -> None:
        await counted(admission, asker, app, tasks)(scope, receive, send)

    return count
