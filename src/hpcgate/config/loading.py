"""Load the settings from YAML, or say all that is wrong with the files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hpcgate.config.document import read_document
from hpcgate.config.files import in_time
from hpcgate.config.mistakes import WHOLE_FILE, ConfigError, Location, Mistake, did_you_mean, dotted
from hpcgate.config.models import Model, Settings, repeated_names, unknown_systems
from hpcgate.config.old_format import Translation
from hpcgate.config.plugins import Plugin, settings_model

ENVIRONMENT_VARIABLES = ("YAML_CONFIG_FILE", "INPUT_YAML_CONFIG_FILE")
"""The first that is not empty names the file. FirecREST's own images set the second."""
NO_FILE = f"give a file with --config, or name it in the environment variable {ENVIRONMENT_VARIABLES[0]}"
DIRECTORY_PREFIX = "path:"

_QUOTED = re.compile(r"'([^']*)'")
_WANTED = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "invalid_key": "must be text: put the key in quotes",
    "list_type": "must be a list",
    "mapping_type": "must be a mapping",
    "missing": "is required but missing",
    "model_attributes_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def load(path: Path | None = None) -> Settings:
    """Return the settings of a file, by default the one that an environment variable names.

    Raises:
        ConfigError: Something is wrong; it holds every mistake of every file.
    """
    return load_and_remark(path)[0]


def load_and_remark(path: Path | None = None) -> tuple[Settings, list[Mistake]]:
    """Return the settings of a file as `load` does, and what was passed over in it, which is not a mistake.

    Raises:
        ConfigError: Something is wrong; it holds every mistake of every file.
    """
    if path is None:
        name = next(filter(None, map(os.environ.get, ENVIRONMENT_VARIABLES)), None)
        if name is None:
            raise ConfigError([Mistake("No configuration", WHOLE_FILE, NO_FILE)])
        path = Path(name)
    settings, mistakes, remarks = _read(path)
    # Raised here and not in an except clause, so that no validation error, which holds values, is its context.
    if settings is None or mistakes:
        raise ConfigError(mistakes)
    return settings, remarks


def _read(path: Path) -> tuple[Settings | None, list[Mistake], list[Mistake]]:
    document, mistakes = read_document(path)
    if document is None and mistakes:
        return None, mistakes, []
    if not isinstance(document, dict):
        return None, [*mistakes, Mistake(path, WHOLE_FILE, "must be a mapping of settings")], []
    files, more = _gather(path, document)
    mistakes += more
    translation = Translation(document)
    places = _Places(path, files, translation)
    mistakes += [places.mistake_at(location, what) for location, what in translation.mistakes]
    clusters = translation.data.get("clusters")
    if isinstance(clusters, list):
        names = [cluster.get("name") if isinstance(cluster, dict) else None for cluster in clusters]
        mistakes += [
            places.mistake(("clusters", index, "name"), "is the name of an earlier system; case makes no difference")
            for index, _ in repeated_names(names)
        ]
    settings = None
    remarks: list[Mistake] = []
    try:
        settings = Settings.model_validate(translation.data)
    except ValidationError as error:
        mistakes += [
            places.mistake(*_explained(details, translation.data))
            for details in error.errors(include_url=False)
            if details["type"] != "repeated_name"
        ]
    else:
        mistakes += [
            places.mistake(
                location,
                f"there is no system {name!r}{did_you_mean(name, [cluster.name for cluster in settings.clusters])}",
            )
            for location, name in unknown_systems(settings)
        ]
        remarks = [places.mistake(location, what) for location, what in _emptied(translation.data)]
    return settings, list(dict.fromkeys(mistakes)), remarks


def _emptied(data: Any) -> Iterator[tuple[Location, str]]:
    """Yield each setting that an empty text leaves unset, and what it would have been."""
    for location in _empty_texts(data, ()):
        if isinstance(location[-1], int):
            yield location, "is empty, so it is left out"
            continue
        model = model_at(location[:-1], data)
        name = model.accepted_names().get(str(location[-1])) if model is not None else None
        if model is not None and name is not None and not model.model_fields[name].is_required():
            yield location, f"is empty, so it is unset: {model.model_fields[name].description}"


def _empty_texts(value: Any, location: Location) -> Iterator[Location]:
    if value == "":
        yield location
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _empty_texts(inner, (*location, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _empty_texts(inner, (*location, index))


def _gather(path: Path, document: dict[Any, Any]) -> tuple[dict[int, Path], list[Mistake]]:
    """Put the clusters of a directory into the document; return which file each is from."""
    value = document.get("clusters")
    if not (isinstance(value, str) and value.startswith(DIRECTORY_PREFIX)):
        return {}, []
    clusters: list[Any] = []
    document["clusters"] = clusters
    name = value.removeprefix(DIRECTORY_PREFIX)
    try:
        directory = Path(name).expanduser()
        found = in_time(lambda: sorted(file for file in directory.iterdir() if file.suffix == ".yaml"))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        return {}, [Mistake(path, "clusters", f"cannot list the directory {name}: {reason}")]
    files: dict[int, Path] = {}
    mistakes: list[Mistake] = []
    for file in found:
        cluster, wrong = read_document(file)
        mistakes += wrong
        if isinstance(cluster, dict):
            files[len(clusters)] = file
            clusters.append(cluster)
        elif not wrong:
            mistakes.append(Mistake(file, WHOLE_FILE, "must be the mapping of one system"))
    return files, mistakes


class _Places:
    """Where, in which file, a location of the gathered and translated document stands."""

    def __init__(self, path: Path, files: Mapping[int, Path], translation: Translation) -> None:
        self._path = path
        self._files = files
        self._translation = translation

    def mistake(self, location: Location, what: str) -> Mistake:
        return self.mistake_at(self._translation.origin(location), what)

    def mistake_at(self, location: Location, what: str) -> Mistake:
        """Make a mistake at a location of the gathered document."""
        if len(location) < 2 or location[0] != "clusters" or not isinstance(location[1], int):
            return Mistake(self._path, dotted(location), what)
        if location[1] in self._files:
            return Mistake(self._files[location[1]], dotted(location[2:]), what)
        cluster = self._translation.data["clusters"][location[1]]
        name = cluster.get("name") if isinstance(cluster, dict) else None
        return Mistake(self._path, dotted(location), f"{what} (system {name})" if isinstance(name, str) else what)


def _explained(details: ErrorDetails, data: Any) -> tuple[Location, str]:
    """Say in a person's words what pydantic found, and where."""
    location = tuple(part for part in details["loc"] if part != "[key]")
    kind = details["type"]
    if kind == "extra_forbidden":
        return location, _unknown(location, data)
    if kind in _WANTED:
        return location, _WANTED[kind]
    context = details.get("ctx", {})
    if kind == "string_type":
        quotes = ": put the value in quotes" if isinstance(details["input"], int | float) else ""
        return location, f"must be text{quotes}"
    if kind in ("literal_error", "enum"):
        expected = context["expected"]
        return location, f"must be {expected}{did_you_mean(details['input'], _QUOTED.findall(expected))}"
    if kind == "string_pattern_mismatch":
        return location, f"must match the regular expression {context['pattern']}"
    if kind == "value_error":
        return location, str(context["error"])
    return location, details["msg"].replace("Input should", "must")


def _unknown(location: Location, data: Any) -> str:
    name = str(location[-1])
    model = model_at(location[:-1], data)
    if model is None:
        return "unknown key"
    accepted = model.accepted_names()
    if name in accepted:
        return f"is given twice, also as {next(other for other in accepted if accepted[other] == accepted[name])}"
    if hint := did_you_mean(name, accepted, 0.5):
        return f"unknown key {name!r}{hint}"
    return f"unknown key {name!r}; known here are {', '.join(dict.fromkeys(accepted.values()))}"


def model_at(location: Location, data: Any) -> type[Model] | None:
    """Return the model of what stands at a location of the settings, None if there is none."""
    annotation: Any = Settings
    marks: Sequence[Any] = ()
    for part in (*location, None):
        annotation, marks = _present(annotation, marks, data)
        if part is None:
            break
        model = annotation if isinstance(annotation, type) and issubclass(annotation, Model) else None
        if model is not None:
            name = model.accepted_names().get(str(part))
            if name is None:
                return None
            annotation, marks = model.model_fields[name].annotation, model.model_fields[name].metadata
        elif not any(isinstance(mark, Plugin) for mark in marks):
            # The items of a tuple or the values of a mapping; a plug-in's list keeps its mark for the items.
            annotation, marks = next((item for item in reversed(get_args(annotation)) if item is not ...), None), ()
        data = _child(data, part)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Model) else None


def _present(annotation: Any, marks: Sequence[Any], data: Any) -> tuple[Any, Sequence[Any]]:
    """Strip what wraps the type that a value must have; choose the plug-in's model by the value."""
    while hasattr(annotation, "__metadata__") or type(None) in get_args(annotation):
        if hasattr(annotation, "__metadata__"):
            marks = annotation.__metadata__
        annotation = next(item for item in get_args(annotation) if item is not type(None))
    for mark in marks:
        if isinstance(mark, Plugin) and isinstance(data, Mapping):
            try:
                return settings_model(mark.group, mark.name(data)), ()
            except (KeyError, TypeError, ValueError):
                return None, ()
    return annotation, marks


def _child(data: Any, part: int | str) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None
