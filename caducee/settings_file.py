"""Writes `caducee.toml` with every key, its meaning and its value, from the settings model itself: never out of date."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from pydantic import BaseModel

from caducee.settings import Settings

_HEAD = """\
# Caducée: settings of this operator. `caducee config check` verifies them, `caducee config show` prints those in force.
# Each key may be overridden by the environment: CADUCEE_<SECTION>__<KEY>, such as CADUCEE_LISTEN__IMAPS=20993.
"""


def settings_file(settings: Settings) -> str:
    """The settings as commented TOML (UTF-8), readable by `load_settings`."""
    blocks = [_HEAD]
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            blocks.append(_section(name, value))
        else:
            lines = [*_comment(field.description or ""), f"[{name}]"]
            lines += [f"{_key(key)} = {_toml(item)}" for key, item in value.items()] or ["# (aucune / none)"]
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _section(name: str, section: BaseModel) -> str:
    lines = [*_comment(type(section).__doc__ or ""), f"[{name}]"]
    for key, field in type(section).model_fields.items():
        lines += _comment(field.description or "")
        lines.append(f"{key} = {_toml(getattr(section, key))}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 116)]


def _key(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _toml(value: object) -> str:
    """The few value types the settings use; JSON strings and numbers are TOML strings and numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, BaseModel):
        return _toml(value.model_dump())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
