"""What of a request is not used: a header of its answer names it, whatever the answer is."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote_plus

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import AliasChoices, BaseModel
from starlette.routing import BaseRoute
from starlette.types import Scope

from hpcgate.api.errors import MAX_NAME, MAX_NAMED
from hpcgate.errors import BadRequest
from hpcgate.http.envelope import REMARKS

MAX_PARAMETERS = 100
"""Most parameters of a query that are looked at: those of a longer one are not all told."""

_NAMES = "__hpcgate_query__"


def remark(scope: Scope, remarks: Sequence[str]) -> None:
    """Say in a header of the answer what of a request is not used."""
    if remarks:
        scope["state"].setdefault(REMARKS, []).extend(remarks)


def reads(model: type[BaseModel], endpoint: Any) -> Any:
    """Declare that an endpoint reads a model from its query by itself, and return it."""
    setattr(endpoint, _NAMES, frozenset(_accepted(model)))
    return endpoint


def _accepted(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        yield from (choice for choice in choices if isinstance(choice, str))


class Queries:
    """Finds the parameters of queries that their routes do not know, and has the answers name them.

    To which clients and proxies add: they are told of, and not refused, but for those that would have nothing done.
    """

    def __init__(self) -> None:
        # By identity, as routes cannot be keys; they live as long as the application does.
        self._known: dict[int, frozenset[bytes] | None] = {}

    def look(self, scope: Scope, route: BaseRoute) -> None:
        """Look at the query of one request.

        Raises:
            BadRequest: It can be read in two ways, or asks in vain for nothing to be done.
        """
        query: bytes = scope["query_string"]
        if not query:
            return
        try:
            known = self._known[id(route)]
        except KeyError:
            known = self._known[id(route)] = _known_to(route)
        if known is not None:
            names = _unknown(query, known)
            if names and scope["method"] not in ("GET", "HEAD"):
                refuse_dry_runs(names)
            # As JSON writes them, names are what a header can hold.
            remark(scope, [f"{json.dumps(name)} is not a parameter that is known here" for name in names])


def _unknown(query: bytes, known: frozenset[bytes]) -> list[str]:
    found: dict[str, None] = {}
    seen: dict[bytes, bytes] = {}
    for number, pair in enumerate(query.split(b"&")):
        name, _, value = pair.partition(b"=")
        if not pair:
            continue
        if name not in known:
            name = unquote_plus(name.decode("latin-1")).encode()
        if name in known:
            if seen.setdefault(name, value) != value:
                raise BadRequest(f"{name.decode()}: the query has it twice, with different values")
        elif number < MAX_PARAMETERS and len(found) < MAX_NAMED:
            text = name.decode()
            found[text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."] = None
    return list(found)


def refuse_dry_runs(names: Iterable[str]) -> None:
    """Refuse a request that changes something if what it does not know is a wish that nothing be done.

    Raises:
        BadRequest: One of the names means ``dryRun``.
    """
    for name in names:
        if re.sub("[^a-z]", "", name.lower()) == "dryrun":
            raise BadRequest(f"{json.dumps(name)} is not known here: it would be done. POST jobs has ?dryRun=true")


def _known_to(route: BaseRoute) -> frozenset[bytes] | None:
    """Return the names of the parameters of a route's query, None where it does not say."""
    if not isinstance(route, APIRoute):
        return None
    names = set(_asked(route.dependant))
    names |= getattr(route.endpoint, _NAMES, frozenset())
    described = (route.openapi_extra or {}).get("parameters", ())
    names |= {parameter["name"] for parameter in described if parameter["in"] == "query"}
    return frozenset(name.encode() for name in names)


def _asked(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _asked(inner)
