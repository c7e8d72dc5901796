"""Describe the settings: a page of Markdown for people and a JSON Schema for editors, both made from the models.

``python -m hpcgate.config.reference`` prints the page.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel, SecretStr
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from hpcgate.config.models import Settings
from hpcgate.config.plugins import Plugin, plugins, settings_model

INTRODUCTION = """\
# Configuration

hpcgate reads one YAML file: the one given on the command line (`--config`), or the one that the environment variable
`YAML_CONFIG_FILE` names, or else `INPUT_YAML_CONFIG_FILE`, as with FirecREST. A file for FirecREST v2 works as it is.
`hpcgate check FILE` lists every mistake at once, each with its file and its key; `hpcgate config schema` prints a JSON
Schema for editors.

- **Keys** may be written in snake_case or in camelCase. An unknown key is a mistake, and so is a key given twice.
- **Null**, a key without a value, and the empty text `""` leave the default: a Helm chart renders a value that is not
  there so. Items of a list that are empty are left out, and a list of nothing else leaves the default, too. What must
  be given must not be empty, nor what keeps somebody out: conditions of a policy's rules, networks, authorities.
- **Secrets** may be given as they are, or as `secret_file:/path/to/file`; blanks around the file's text are dropped.
  They show in no log, no message and no answer.
- **Systems** stand in the list `clusters`, or as `clusters: path:/directory`, one system in each `*.yaml` file of that
  directory, in the order of the file names. A relative path starts at the working directory of the process.
- **Durations** are seconds, **sizes** are bytes.
- The environment overrides nothing: what the file says is what runs.

## Host keys

FirecREST does not verify login nodes, so its files say nothing of host keys. Without `host_keys` and `known_hosts`,
hpcgate trusts the first key that it sees of a login node for as long as the process lives, and says so at start; name
the keys as soon as you can, and set `strict_host_keys` then.

## Older files

These shapes of earlier FirecREST releases are read too:

| old | now |
|---|---|
| `ssh_credentials: {url: ...}` without `type` | `type: SSHService` |
| `ssh_credentials: {user: {private_key: ...}}` | `type: SSHStaticKeys`, the users within `keys` |
| `data_operation` at the top of the file | in each system; it serves all systems without their own |
| `storage` at the top of the file | `data_operation.data_transfer` with `service_type: s3` in each system |
| `datatransfer_jobs_directives` of a system | `data_operation.datatransfer_jobs_directives` |
| `probing_services`, `interval` | `probing`, `interval_check` |
| `probing: {interval, timeout}` | `probing.services`, each with that `timeout` |
| `probing` within `data_operation` or `data_transfer` | `probing.services.s3` |
| services `filesystems`, `storage` | `filesystem`, `s3` |
| `app_version: 2.x.x` | `2.6.0` |

## Example

```yaml
auth:
  authentication:
    token_url: https://login.example.org/token
    public_certs: [https://login.example.org/jwks]
ssh_credentials:
  type: SSHService
  url: https://keys.example.org
clusters:
  - name: alps
    ssh:
      host: login.alps.example.org
      known_hosts: /etc/hpcgate/known_hosts
      strict_host_keys: true
    scheduler: {type: slurm, version: 24.05.4}
    service_account: {client_id: health, secret: "secret_file:/run/secrets/health"}
    probing:
      services: {ssh: {timeout: 5}, scheduler: {timeout: 10}}
    file_systems:
      - {path: /home, data_type: users, default_work_dir: true}
```
"""


def page() -> str:
    """Return the reference as Markdown."""
    parts = [INTRODUCTION]
    parts += [_section(title, model) for title, model in _sections(Settings, ())]
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield (f"`{'.'.join(path)}`" if path else "The whole file"), model
    for name, field in model.model_fields.items():
        here = (*path, name)
        mark = _plugin(field)
        if mark is not None:
            for plugin_name in sorted(plugins(mark.group)):
                # Those of other packages are described by them.
                if plugins(mark.group)[plugin_name].value.startswith("hpcgate."):
                    for title, inner in _sections(settings_model(mark.group, plugin_name), here):
                        yield f"{title} with `{mark.key}: {plugin_name}`", inner
            continue
        for inner, suffix in _models(field.annotation, ""):
            yield from _sections(inner, (*path, name + suffix))


def _models(annotation: Any, suffix: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    origin = get_origin(annotation)
    if origin is tuple:
        suffix += "[]"
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        suffix += ".NAME"
        yield from _models(get_args(annotation)[1], suffix)
        return
    for argument in get_args(annotation):
        yield from _models(argument, suffix)


def _section(title: str, model: type[BaseModel]) -> str:
    lines = [f"## {title}", "", (model.__doc__ or "").strip(), ""]
    lines += ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {_cell(_kind(field.annotation, field))} | {_default(field)} | {_meaning(field)} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _meaning(field: FieldInfo) -> str:
    return _cell(field.description or "")


def _plugin(field: FieldInfo) -> Plugin | None:
    return next((mark for mark in field.metadata if isinstance(mark, Plugin)), None)


def _kind(annotation: Any, field: FieldInfo | None = None) -> str:
    mark = _plugin(field) if field else None
    if mark is not None:
        return "a mapping, or a list of mappings" if mark.many else "a mapping"
    if hasattr(annotation, "__metadata__"):
        return _kind(annotation.__origin__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if NoneType in arguments:
        return _kind(next(argument for argument in arguments if argument is not NoneType))
    if origin in (Union, UnionType):
        return ", or ".join(map(_kind, arguments))
    if origin is tuple:
        if ... in arguments:
            return f"a list: {_kind(arguments[0])}"
        return f"a list of {len(arguments)}: {_kind(arguments[0])}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a mapping"
    names: dict[Any, str] = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        SecretStr: "secret",
        AwareDatetime: "date and time",
        NoneType: "null",
    }
    return names.get(annotation, "anything")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "all defaults"
    if value is None or value in ((), {}) or (isinstance(value, Mapping) and not value):
        return "none"
    return _cell(f"`{json.dumps(value, default=str)}`")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file, keys in snake_case and in camelCase."""
    document = Settings.model_json_schema()
    _accept_camel_case(document, set())
    clusters = document["properties"]["clusters"]
    by_directory = {"type": "string", "pattern": "^path:", "description": "A directory with one file for each system."}
    document["properties"]["clusters"] = {"anyOf": [clusters, by_directory]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _accept_camel_case(part: Any, seen: set[int]) -> None:
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, list):
        for item in part:
            _accept_camel_case(item, seen)
    if not isinstance(part, dict):
        return
    for item in list(part.values()):
        _accept_camel_case(item, seen)
    properties = part.get("properties")
    if not isinstance(properties, dict) or part.get("type") != "object":
        return
    spellings = {name: list(dict.fromkeys((name, to_camel(name)))) for name in properties}
    for name, names in spellings.items():
        properties |= dict.fromkeys(names, properties[name])
    # In JSON Schema `required` cannot say "one of these".
    choices = [{"anyOf": [{"required": [name]} for name in spellings[needed]]} for needed in part.pop("required", [])]
    if choices:
        part["allOf"] = choices


if __name__ == "__main__":
    sys.stdout.write(page())
