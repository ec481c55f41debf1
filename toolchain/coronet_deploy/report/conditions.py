"""The page's account of how runs were measured: the command, the machine, its state, the versions.

What a run file keeps of its conditions is shown whole, whatever keys another version wrote: nested
tables in words, states before and after side by side, lists of tables as a table.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from coronet_deploy.report import figures
from coronet_deploy.report.markup import Markup, definitions, join, table, tag
from coronet_deploy.vocabulary import Launch, Run

_UNITS = {
    "cpu": "CPU", "cpus": "CPUs", "gpu": "GPU", "mb": "MB", "mhz": "MHz", "percent": "%",
    "ms": "ms", "s": "s", "c": "C", "soc": "SoC", "abi": "ABI", "api": "API",
}  # fmt: skip
_STATES = ("before", "after")
# Shown elsewhere on the page, or said by its absence.
_LEFT_OUT = {"notes", "throttled", "interrupted", "lost", "emulated_because", "settings"}
_SHORT = 3


def method_section(runs: Sequence[Run]) -> Markup:
    """Return how each run was measured."""
    told = tag(
        "p",
        "Each launch is a process of its own: it loads the artifact, warms up until the times "
        "settle, and times single inferences by the monotonic clock. Rounds go forth and back "
        "over all artifacts, so that drift falls on all alike.",
    )
    parts = [told]
    for number, run in enumerate(runs):
        if len(runs) > 1:
            parts.append(tag("h3", f"Run {run.id}"))
        parts += _run_parts(run, f"conditions-{number}")
    return join(parts)


def _run_parts(run: Run, key: str) -> list[Markup]:
    conditions = {name: one for name, one in run.conditions.items() if name not in _LEFT_OUT}
    states = {name: conditions.pop(name, None) for name in _STATES}
    tables = {name: one for name, one in conditions.items() if _is_table(one)}
    settings = run.conditions.get("settings")
    pairs = [
        ("Command", tag("code", shlex.join(run.command) or "not recorded")),
        *_pairs({name: one for name, one in conditions.items() if name not in tables}),
        *_pairs({"settings": settings} if settings else {}),
        *_launch_pairs(run.launches),
        ("Versions", ", ".join(f"{tool} {version}" for tool, version in run.tools.items())),
    ]
    if run.emulated:
        because = run.conditions.get("emulated_because")
        pairs.insert(1, ("Emulated", str(because) if because else "yes"))
    parts = [definitions(pairs, "facts")]
    if any(isinstance(state, Mapping) for state in states.values()):
        parts += _state_tables(states, f"{key}-states")
    parts += [
        _list_table(name, rows, f"{key}-{place}")
        for place, (name, rows) in enumerate(tables.items())
    ]
    return parts


def _state_tables(states: Mapping[str, object], key: str) -> list[Markup]:
    """Return the machine's state before and after the launches; unreadable values are left out."""
    sides = {name: state if isinstance(state, Mapping) else {} for name, state in states.items()}
    lines, parts = [], []
    for name in dict.fromkeys(name for side in sides.values() for name in side):
        values = [side.get(name) for side in sides.values()]
        if any(_is_table(value) for value in values):
            same = values[0] == values[1]
            for when, value in list(zip(sides, values, strict=True))[: 1 if same else None]:
                if not _is_table(value):  # one side alone could be read
                    continue
                told = name if same else f"{name}, {when}"
                parts.append(_list_table(told, value, f"{key}-{name}-{when}"))
        elif name != "unavailable":
            cells = [_plain(value) for value in values]
            if any(cell not in {"unknown", "none"} for cell in cells):
                lines.append([_title(name), *cells])
    caption = "The machine before the first launch and after the last."
    heads = ("", *(when.capitalize() for when in sides))
    parts.insert(0, table(caption, heads, [(None, lines)], key))
    missing = [side.get("unavailable") for side in sides.values()]
    reasons = {k: v for one in missing if isinstance(one, Mapping) for k, v in one.items()}
    if reasons:
        told = "; ".join(f"{_words(str(name))}: {why}" for name, why in reasons.items())
        parts.append(tag("p", f"Could not be read: {told}."))
    return parts


def _list_table(name: str, rows: object, key: str) -> Markup:
    """Return a list of tables, such as a phone's clusters, as one table."""
    items = (
        [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []
    )
    heads = list(dict.fromkeys(str(head) for row in items for head in row))
    lines = [[_plain(row.get(head)) for head in heads] for row in items]
    return table(f"{_title(name)}.", [_title(head) for head in heads], [(None, lines)], key)


def _launch_pairs(launches: Sequence[Launch]) -> Iterable[tuple[str, str]]:
    """Yield what the launches' own records tell of the phone meanwhile."""
    for name, key, digits in (
        ("Skin, C", "skin_c", 1),
        ("Battery, C", "battery_c", 1),
        ("Canary, ms", "canary_ms", 2),
        ("Waited to cool, s", "waited_s", 0),
    ):
        values = [
            float(one.details[key])
            for one in launches
            if isinstance(one.details.get(key), int | float)
        ]
        if values:
            yield f"{name}, at launches", f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    again = [
        f"{count}, because {why}"
        for key, why in (
            ("throttled_launches", "the phone throttled"),
            ("crashed_launches", "of a crash"),
        )
        if (count := sum(map(len, _lists(launches, key))))
    ]
    if again:
        yield "Launches made again", f"{'; '.join(again)}; not averaged in"


def _lists(launches: Sequence[Launch], key: str) -> list[Sequence[object]]:
    """Return the lists that the launches' records hold under `key`."""
    told = (one.details.get(key) for one in launches)
    return [one for one in told if isinstance(one, list | tuple)]


def _is_table(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(one, Mapping) for one in value)
    )


def _pairs(conditions: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """Yield conditions as words, nested ones on one line, leaving out what was not readable."""
    for key, value in conditions.items():
        if isinstance(value, Mapping):
            parts = (f"{_words(str(one))} {_plain(v)}" for one, v in value.items() if v is not None)
            if told := ", ".join(parts):
                yield _title(key), told
        elif value is not None:
            yield _title(key), _plain(value)


def _title(key: str) -> str:
    words = _words(key)
    return words[:1].upper() + words[1:]


def _words(key: str) -> str:
    """Return a condition's key as words, units and all: "memory MB"."""
    return " ".join(_UNITS.get(word, word) for word in key.split("_") if word) or key


def _plain(value: object) -> str:
    """Return a condition's value in words."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(key))} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return _listed(value)
    return f"{value:g}" if isinstance(value, float) else figures.printable(str(value))


def _listed(values: Sequence[object]) -> str:
    """Return a list in words: "0 to 3" for many numbers in a row."""
    numbers = [one for one in values if type(one) is int]
    if len(numbers) == len(values) > _SHORT and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    separator = "; " if any(isinstance(one, Mapping) for one in values) else ", "
    return separator.join(map(_plain, values)) or "none"
