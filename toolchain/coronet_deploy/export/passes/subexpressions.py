"""Common subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

from typing import ClassVar

from coronet_deploy.export.graph import Edit, Graph, Node, rewrite
from coronet_deploy.export.operators import Operator


class ShareSubexpressions:
    """Replaces a node by an earlier one with the same operator and inputs."""

    name: ClassVar[str] = "share_subexpressions"

    def run(self, graph: Graph) -> Graph:
        """Return `graph` without repetitions."""
        seen: dict[tuple[Operator, tuple[str, ...]], str] = {}

        def visit(edit: Edit, node: Node) -> str:
            key = node.op, node.inputs
            if key not in seen:
                value = edit.emit(node.op, *node.inputs, name=node.output)
                seen[key] = edit.rename(value, node.output)
            return seen[key]

        return rewrite(graph, visit)
