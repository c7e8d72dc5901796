"""Plug-ins by entry point: schedulers, credential sources, transfer methods and operations."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def plugin(group: str, name: str) -> Any:
    """Load the plug-in of that name.

    Raises:
        KeyError: There is none.
    """
    return plugins(group)[name].load()


def plugin_settings(group: str, key: str, value: Any) -> Any:
    """Validate the settings of a plug-in against the model that it brings, chosen by `value`'s `key`."""
    if not isinstance(value, dict):
        return value
    names = plugins(group)
    chosen = value.get(key)
    if chosen not in names:
        raise ValueError(f"{key} must be one of {', '.join(sorted(names))}")
    return names[chosen].load().Settings.model_validate(value)
