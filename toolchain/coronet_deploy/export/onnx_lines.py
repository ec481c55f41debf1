"""Attention in an ONNX file, whose values lie with their channels last, as products want them.

ONNX has pictures with their channels first; the shares of attention are as many numbers as there
are pairs of places, and to turn these for a softmax and back took most of its time. So products of
matrices, what is added to them, and their softmax have NHWC of their own, (N, H, rows, columns);
what else reads one has it turned once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from coronet_deploy.export import onnx_choices
from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Div, Maximum
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not
from coronet_deploy.export.graph import OUTPUT, Graph, Node
from coronet_deploy.export.operators import Activation, Operator
from coronet_deploy.export.permuting import Permute
from coronet_deploy.export.products import MatMul, Softmax, Turn

if TYPE_CHECKING:
    from coronet_deploy.export.onnx import Writer

_FIRST, _LAST = (0, 3, 1, 2), (0, 1, 2, 3)  # how the axes of NHWC lie
_CHOICES = Compare, Not, Both, Either, Choose
_WITH_OTHERS = ops.Add | ops.Sub | ops.Mul | Div | Maximum | ops.Minimum
_KEEPING = (
    _WITH_OTHERS
    | Compare
    | Not
    | Both
    | Either
    | Choose
    | Softmax
    | ops.Concat
    | ops.Slice
    | ops.Reshape
)
_TAKING = MatMul | Permute


def values_in_lines(graph: Graph) -> frozenset[str]:
    """Return the values that lie with their channels last."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    shared: set[str] = set()  # of which a softmax takes the shares
    for node in reversed(graph.nodes):
        behind = readers.get(node.output, [])
        if any(isinstance(r.op, Softmax) or (_keeps(r.op) and r.output in shared) for r in behind):
            shared.add(node.output)
    found: set[str] = set()
    for node in graph.nodes:
        values = [name for name in node.inputs if name not in graph.constants]
        if isinstance(node.op, MatMul):
            many = graph.shapes[node.output][:2] != (1, 1)
            lines = many or node.output in shared
        elif isinstance(node.op, Permute):
            lines = all(isinstance(r.op, MatMul) for r in readers.get(node.output, []))
        else:
            lines = _keeps(node.op) and bool(values) and found.issuperset(values)
        if lines and node.output != OUTPUT:
            found.add(node.output)
    return frozenset(found)


def _keeps(op: Operator) -> bool:
    plain = getattr(op, "activation", Activation.NONE) is Activation.NONE
    return isinstance(op, _KEEPING) and plain


def write(writer: Writer, node: Node) -> bool:
    """Write a node that takes or makes values with their channels last; False if it is none."""
    made = node.output in writer.in_lines
    if _is_how_it_is_read(writer, node):
        return True
    if not made and not isinstance(node.op, _TAKING):
        return False
    _TRANSLATIONS[type(node.op)](writer, node)
    if made and any(not _takes(writer, reader) for reader in writer.readers[node.output]):
        writer.inner("Transpose", [_name(node.output)], node.output, perm=_FIRST)
    return True


def _is_how_it_is_read(writer: Writer, node: Node | None) -> bool:
    """Return whether a node turns a matrix for products alone, which read it the other way."""
    if node is None or not isinstance(node.op, Turn) or writer.integer:
        return False
    behind = writer.readers.get(node.output, [])
    return bool(behind) and all(isinstance(reader.op, MatMul) for reader in behind)


def _takes(writer: Writer, reader: Node) -> bool:
    return reader.output in writer.in_lines or isinstance(reader.op, _TAKING)


def _name(value: str) -> str:
    return f"{value}/last"


def _operand(writer: Writer, name: str) -> str:
    """Return a value that is in lines, or a constant as it goes with these."""
    return writer.channels_last(name) if name in writer.graph.constants else _name(name)


def _plain(kind: str) -> Callable[[Writer, Node], None]:
    def translate(writer: Writer, node: Node) -> None:
        writer.inner(kind, [_operand(writer, name) for name in node.inputs], _name(node.output))

    return translate


def _choice(writer: Writer, node: Node) -> None:
    onnx_choices.write(writer, node, lambda name: _operand(writer, name), _name(node.output))


def _softmax(writer: Writer, node: Node) -> None:
    writer.inner("Softmax", [_name(node.inputs[0])], _name(node.output), axis=3)


def _concat(writer: Writer, node: Node) -> None:
    inputs = [_operand(writer, name) for name in node.inputs]
    axis = node.op.axis  # type: ignore[attr-defined]
    writer.inner("Concat", inputs, _name(node.output), axis=axis)


def _slice(writer: Writer, node: Node) -> None:
    begin, size = node.op.begin, node.op.size  # type: ignore[attr-defined]
    ends = [b + n for b, n in zip(begin, size, strict=True)]
    inputs = [_name(node.inputs[0]), writer.integers(list(begin)), writer.integers(ends)]
    writer.inner("Slice", inputs, _name(node.output))


def _reshape(writer: Writer, node: Node) -> None:
    shape = writer.integers(list(writer.graph.shapes[node.output]))
    writer.inner("Reshape", [_name(node.inputs[0]), shape], _name(node.output))


def _permute(writer: Writer, node: Node) -> None:
    """Go from either layout to either by one transpose."""
    (x,), name, op = node.inputs, node.output, node.op
    assert isinstance(op, Permute)  # noqa: S101 - by the table
    taken, made = (v in writer.in_lines for v in (x, name))
    shape, order = op.transposed(_LAST if taken else _FIRST, _LAST if made else _FIRST)
    source = _name(x) if taken else x
    if len(order) > 1:
        source = writer.inner("Reshape", [source, writer.integers(shape)], f"{name}/apart")
        source = writer.inner("Transpose", [source], f"{name}/transposed", perm=order)
    whole = writer.graph.shapes[name]
    last = writer.integers([whole[axis] for axis in (_LAST if made else _FIRST)])
    writer.inner("Reshape", [source, last], _name(name) if made else name)


def _matmul(writer: Writer, node: Node) -> None:
    """Multiply as both matrices lie; a transpose of one before is no more than how it is read."""
    (a, b), name, op = node.inputs, node.output, node.op
    assert isinstance(op, MatMul)  # noqa: S101 - by the table
    made = name in writer.in_lines
    # (A B)' = B' A', which is what channels first are.
    left = _matrices(writer, a, f"{name}/left", turned=not made)
    right = _matrices(writer, b, f"{name}/right", turned=op.turned == made)
    product = writer.inner("MatMul", [left, right] if made else [right, left], f"{name}/product")
    n, height, rows, columns = writer.graph.shapes[name]
    shape = [n, height, rows, columns] if made else [n, columns, height, rows]
    if not made and (n, height) != (1, 1):
        product = writer.inner("Transpose", [product], f"{name}/turned", perm=(0, 2, 1, 3))
    writer.inner("Reshape", [product, writer.integers(shape)], _name(name) if made else name)


def _matrices(writer: Writer, value: str, name: str, *, turned: bool) -> str:
    """Return matrices in lines, each turned if `turned`, those of one without axes before."""
    if (array := writer.graph.constants.get(value)) is not None:
        return writer.floats(name, array.swapaxes(2, 3) if turned else array)
    if _is_how_it_is_read(writer, maker := writer.makers.get(value)):
        assert maker is not None  # noqa: S101 - by what was asked
        return _matrices(writer, maker.inputs[0], name, turned=not turned)
    n, height, rows, columns = writer.graph.shapes[value]
    in_lines = value in writer.in_lines
    if (n, height) == (1, 1):
        flat = writer.integers([rows, columns] if in_lines else [columns, rows])
        source = _name(value) if in_lines else value
        x = writer.inner("Reshape", [source, flat], f"{name}/flat")
        return x if turned != in_lines else writer.inner("Transpose", [x], name, perm=(1, 0))
    if in_lines:
        x = _name(value)
        return writer.inner("Transpose", [x], name, perm=(0, 1, 3, 2)) if turned else x
    return writer.inner("Transpose", [value], name, perm=(0, 2, 1, 3) if turned else (0, 2, 3, 1))


_TRANSLATIONS: Mapping[type[Operator], Callable[[Writer, Node], None]] = {
    MatMul: _matmul,
    Permute: _permute,
    Softmax: _softmax,
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Add: _plain("Add"),
    ops.Sub: _plain("Sub"),
    ops.Mul: _plain("Mul"),
    Div: _plain("Div"),
    Maximum: _plain("Max"),
    ops.Minimum: _plain("Min"),
    **dict.fromkeys(_CHOICES, _choice),
}
