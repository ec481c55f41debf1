"""What `train --set KEY=VALUE` puts into a recipe's tables, before they are checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from coronet_deploy.errors import BadInput


def override(table: dict[str, Any], line: str, recipe: type[BaseModel]) -> None:
    """Set one dotted key of `table`; the value is TOML, or else a string; ".5" is 0.5 too.

    Where `recipe` has a text, 2024 is one too. Spaces around the two count as little as in TOML.

    Raises:
        BadInput: `line` is no KEY=VALUE, or would put a key into what is no table.

    """
    key, equals, text = line.partition("=")
    keys, text = _keys(key), text.strip()
    if not equals or not all(keys):
        raise BadInput(f"--set {line}: not KEY=VALUE")
    *tables, last = keys
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {line}: {name!r} is not a table")
    value = _value(text)
    table[last] = text if _is_text(keys, recipe) and not isinstance(value, str) else value


def set_by(told: str, lines: Sequence[str]) -> str | None:
    """Return which of `lines` set a key that the complaint `told` names; else None.

    The recipe's file may hold another value there, and nothing to mend.
    """
    for line in reversed(lines):  # the last one counts
        key = re.escape(".".join(_keys(line.partition("=")[0])))
        if re.search(rf"(?<![\w.]){key}(?!\w)", told):
            return f"set by --set {line}"
    return None


def _keys(key: str) -> list[str]:
    return [one.strip() for one in key.split(".")]


def _value(text: str) -> object:
    try:
        number = f"0{text}" if re.match(r"\.\d", text) else text
        return tomllib.loads(f"value = {number}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _is_text(keys: Sequence[str], recipe: type[BaseModel]) -> bool:
    """Tell whether the recipe has a text by the key `keys`."""
    kind: Any = recipe
    for key in keys:
        tables = [one for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")]
        field = tables[0].model_fields.get(key) if tables else None
        kind = field.annotation if field else None
    return kind is str
