"""What the nodes of a traced network say of themselves."""

from __future__ import annotations

from typing import Any

from torch import fx

from coronet_deploy.export.aten.names import ALIASES


def shares_memory(node: fx.Node) -> bool:
    """Return whether an operator gives the memory that it takes."""
    schema: Any = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
    return any(given.alias_info is not None for given in schema.returns)


def writes_memory(node: fx.Node) -> bool:
    """Return whether an operator changes the memory that it takes."""
    schema: Any = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
    return any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


def name_of(node: fx.Node) -> str:
    """Return what an operator is called, "aten.relu_.default"."""
    schema = hasattr(node.target, "_schema")
    return str(node.target) if schema else getattr(node.target, "__name__", str(node.target))


def operator_of(node: fx.Node) -> str:
    """Return the operator without its overload, "aten.relu", in place or not, by its first name."""
    name = name_of(node).rpartition(".")[0].rstrip("_")
    return ALIASES.get(name, name)


def given_by(graph: fx.Graph) -> Any:  # noqa: ANN401 - whatever torch lists
    """Return what a graph gives, in order."""
    return next(node for node in graph.nodes if node.op == "output").args[0]


def is_module(argument: object) -> bool:
    """Return whether an argument is a part of the network, and not what it computes."""
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def wrapped_by(node: fx.Node) -> fx.GraphModule | None:
    """Return the part of the network that a node runs under another mode, if it does."""
    name = next((a for a in node.args if is_module(a)), None)
    if node.op != "call_function" or name is None:
        return None
    part = getattr(node.graph.owning_module, name.target)  # type: ignore[union-attr, arg-type]
    return part if isinstance(part, fx.GraphModule) else None


def layer_of(node: fx.Node) -> str:
    """Return the path of the layer that a node belongs to, "up.0"; "" for the network itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the operator's arguments by the names in its schema, in its order, defaults too."""
    schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
    given = {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)} | node.kwargs
    return {
        a.name: given.get(a.name, a.default_value)
        for a in schema.arguments
        if a.name in given or a.has_default_value()
    }
