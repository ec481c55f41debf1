"""HTML that cannot be injected into: text is escaped unless it was made by these functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape


class Markup(str):
    """HTML that was made here, and is not escaped again."""

    __slots__ = ()


# Embeddings, overrides and isolates: with one in it a name reads backwards, and so what follows.
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSHOWN = dict.fromkeys((*_TURNING, *range(0xD800, 0xE000)), "\ufffd")  # and no UTF-8
_EMPTY = frozenset({"img", "meta", "link", "wbr"})


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Markup:
    """Return element `name`; children that are not `Markup` are escaped.

    An underscore at an attribute's end is dropped (`class_`), others become hyphens; an
    attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_written(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Return `children` one after another; those that are not `Markup` are escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _written(child) for child in children)
    )


def table(
    caption: str,
    heads: Iterable[str],
    groups: Iterable[tuple[str | None, Iterable[Iterable[str]]]],
    identifier: str,
) -> Markup:
    """Return a captioned table in a box that scrolls alone.

    A group is lines under a name that spans the table, or under none. The first cell of a line
    names it. The box takes the keyboard's focus, so that it scrolls without a pointer.
    """
    columns = [tag("th", text, scope="col") for text in heads]
    bodies = []
    for name, lines in groups:
        rows = []
        if name is not None:
            head = tag("th", breakable(name), scope="rowgroup", colspan=len(columns))
            rows.append(tag("tr", head, class_="group"))
        for first, *rest in lines:
            cells = (tag("td", cell) for cell in rest)
            rows.append(tag("tr", tag("th", first, scope="row"), *cells))
        bodies.append(tag("tbody", *rows))
    whole = tag(
        "table",
        tag("caption", tag("span", caption), id=identifier),
        tag("thead", tag("tr", *columns)),
        *bodies,
    )
    return tag("div", whole, class_="scroll", role="region", aria_labelledby=identifier, tabindex=0)


def breakable(name: str) -> Markup:
    """Return a file's name with places to break the line after its separators."""
    pieces = re.split(r"(?<=[_./-])", name)
    return Markup(str(tag("wbr")).join(_written(piece) for piece in pieces))


def definitions(pairs: Iterable[tuple[str, str]], class_: str) -> Markup:
    """Return a description list of terms and what they are."""
    return tag(
        "dl",
        *(tag("div", tag("dt", term), tag("dd", value)) for term, value in pairs),
        class_=class_,
    )


def _written(text: str) -> str:
    """Return `text` escaped, and in the order it has."""
    return escape(text.translate(_UNSHOWN))
