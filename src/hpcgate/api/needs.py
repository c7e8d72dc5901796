"""Which services of a system a route cannot do without."""

from functools import cache

from hpcgate.health.board import ServiceName

_BY_PATH: tuple[tuple[str, tuple[ServiceName, ...]], ...] = (
    ("/status/{system_name}/userinfo", ("ssh",)),
    ("/status/{system_name}/", ("scheduler",)),
    ("/compute/{system_name}/", ("scheduler",)),
    ("/filesystem/{system_name}/transfer/", ("ssh", "scheduler")),
    ("/filesystem/{system_name}/", ("ssh",)),
)


@cache
def needs(route: str, *, scheduler_by_ssh: bool) -> tuple[ServiceName, ...]:
    """Return the services, those that others stand on first.

    File systems are not among them: which one it is the request's path tells (`System.admit`).

    Args:
        route: The path of the route, with its parameters' names.
        scheduler_by_ssh: Whether the scheduler is reached through the login node.
    """
    services: tuple[ServiceName, ...] = next((found for start, found in _BY_PATH if route.startswith(start)), ())
    if scheduler_by_ssh and services == ("scheduler",):
        return ("ssh", "scheduler")
    return services
