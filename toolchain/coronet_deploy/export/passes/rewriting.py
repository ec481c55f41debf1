"""What a pass is, and the base of those that visit one node at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from coronet_deploy.export.graph import Edit, Graph, Node, rewrite


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
