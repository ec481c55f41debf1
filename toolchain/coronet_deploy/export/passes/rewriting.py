"""What a pass is, and the base of those that visit one node at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from coronet_deploy.export.graph import Edit, Graph, Node, rewrite
from coronet_deploy.export.operators import Padding, Slice


class Pass(Protocol):
    """One rewrite: the graph it returns draws the same pictures, exactly or as float16 rounds."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph:
        """Return `graph` rewritten."""


class Rewrite(ABC):
    """A pass that looks at each node in order."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph:
        """Return `graph` with every node replaced that `visit` replaces."""
        return rewrite(graph, self.visit)

    @abstractmethod
    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the value that stands for `node`, emitted into `edit`; None keeps the node."""


def cropped(edit: Edit, x: str, around: Padding) -> tuple[str, Padding]:
    """Return `x` without the lines that a negative padding takes off, and what is left to add."""
    ends = around.top, around.bottom, around.left, around.right
    top, bottom, left, right = (max(-lines, 0) for lines in ends)
    if any((top, bottom, left, right)):
        n, height, width, channels = edit.shapes[x]
        size = n, height - top - bottom, width - left - right, channels
        x = edit.emit(Slice((0, top, left, 0), size), x)
    return x, Padding(*(max(lines, 0) for lines in ends))
