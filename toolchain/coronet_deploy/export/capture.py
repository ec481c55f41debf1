"""From an `nn.Module` to a `Graph`, through torch.export."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import INPUT, Builder, FloatArray, Graph
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.operators import Padding

_NCHW_TO_NHWC = (0, 3, 1, 2)  # where an NCHW axis is found in NHWC
_RANK = 4


def capture(module: nn.Module, height: int, width: int, channels: int = 3) -> Graph:
    """Return the graph that `module` runs in eval mode on one (1, channels, height, width) picture.

    The module is left as it was. Layers that do nothing in eval mode (dropout, identity) vanish.

    Raises:
        ConversionFailed: torch cannot trace the module at this size, or it has an operator that
            the graph does not have; names the operator, the layer and what is supported.

    """
    training = {m: m.training for m in module.modules()}
    try:
        module.eval()
        example = torch.zeros(1, channels, height, width)
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, (example,))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConversionFailed(
            f"{type(module).__name__} cannot be captured at {height}x{width}: {reason[0]}",
            hint="the network must take one picture and its size must fit the network",
        ) from error
    finally:
        for m, mode in training.items():
            m.training = mode  # not m.train(), which would set the layers below as well
    return _Translation(program, (1, height, width, channels)).graph()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the module prints off stdout, and torch's dumps off stderr if tracing fails."""
    said = io.StringIO()
    with captured_stderr() as printed:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
        told = printed()
    sys.stderr.write(told + said.getvalue())


class _Refused(Exception):
    """Why an operator cannot be translated."""


class _Translation:
    """Translates the nodes of one exported program into a builder."""

    def __init__(self, program: torch.export.ExportedProgram, input_shape: ops.Shape) -> None:
        self._program = program
        self.builder = Builder(input_shape)
        self._values: dict[fx.Node, str] = {}
        self._weights: dict[fx.Node, Tensor] = {}

    def graph(self) -> Graph:
        signature = self._program.graph_signature
        tensors = {**self._program.state_dict, **self._program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        pictures = []
        for node in self._program.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                self._weights[node] = tensors[names[node.name]]
            elif node.op == "placeholder":
                pictures.append(node)
                self._values[node] = INPUT
            elif node.op == "call_function":
                self._translate(node)
        if len(pictures) != 1 or len(signature.user_outputs) != 1:
            raise ConversionFailed(
                "the network must take one picture and return one, "
                f"not {len(pictures)} and {len(signature.user_outputs)}"
            )
        (output,) = next(n for n in self._program.graph.nodes if n.op == "output").args[0]
        if self._values.get(output, INPUT) == INPUT:
            raise ConversionFailed("the network returns its input unchanged")
        return self.builder.finish(self._values[output])

    def _translate(self, node: fx.Node) -> None:
        name, where = str(node.target), _layer(node)
        key = name.rpartition(".")[0]
        translate: Callable[..., str] = _TRANSLATIONS.get(key, _unsupported)
        try:
            arguments = _named_arguments(node)
            self.builder.scope = where
            value = translate(self, **arguments)
        except (_Refused, ValueError) as error:
            names = {key.removeprefix("aten.").rstrip("_") for key in _TRANSLATIONS}
            raise ConversionFailed(
                f"operator {name} in layer {where or 'the network itself'!r}: {error}",
                hint=f"supported: {', '.join(sorted(names))}",
            ) from error
        expected = node.meta["val"].shape
        shape = self.builder.shapes[value]
        if tuple(expected) != (shape[0], shape[3], shape[1], shape[2]):
            raise ConversionFailed(
                f"operator {name} in layer {where!r} gives {tuple(expected)}, not NHWC {shape}"
            )
        self._values[node] = value

    def value(self, argument: Any) -> str:  # noqa: ANN401 - whatever torch passes
        """Return the name of a picture-like operand; a plain number becomes a constant."""
        if isinstance(argument, fx.Node) and argument in self._values:
            return self._values[argument]
        if isinstance(argument, int | float):
            return self.builder.constant([argument])
        raise _Refused("takes a learnt tensor where a picture is expected")

    def array(self, argument: fx.Node) -> FloatArray:
        """Return a learnt tensor as an array of its own; training on does not reach the graph."""
        if argument not in self._weights:
            raise _Refused("takes weights that another operator computes")
        return self._weights[argument].detach().cpu().numpy().copy()

    def constants(self, **tensors: FloatArray | None) -> list[str]:
        """Return the names of the tensors that are there."""
        return [self.builder.constant(t, name) for name, t in tensors.items() if t is not None]


def _layer(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _named_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the operator's arguments by the names in its schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
    values = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    values |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    return {**values, **node.kwargs}


def _pair(value: list[int]) -> tuple[int, int]:
    return (value[0], value[-1])


def _conv2d(
    t: _Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
    groups: int,
) -> str:
    if any(d != 1 for d in dilation):
        raise _Refused(f"dilation {dilation} is not supported")
    kernels = t.array(weight)
    if isinstance(padding, str):
        spare = [k - 1 if padding == "same" else 0 for k in kernels.shape[2:]]
        top, left = (s // 2 for s in spare)
        pad = Padding(top, spare[0] - top, left, spare[1] - left)
    else:
        (y, x) = _pair(padding)
        pad = Padding(y, y, x, x)
    shift = None if bias is None else t.array(bias)
    if groups == 1:
        weights = t.constants(weight=kernels.transpose(0, 2, 3, 1), bias=shift)
        return t.builder.emit(ops.Conv2d(_pair(stride), pad), t.value(input), *weights)
    if kernels.shape[1] != 1:
        raise _Refused(f"{groups} groups of {kernels.shape[1]} channels; only 1 or depthwise")
    depthwise = ops.DepthwiseConv2d(_pair(stride), pad, kernels.shape[0] // groups)
    weights = t.constants(weight=kernels.transpose(1, 2, 3, 0), bias=shift)
    return t.builder.emit(depthwise, t.value(input), *weights)


def _conv_transpose2d(
    t: _Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    groups: int,
    dilation: list[int],
) -> str:
    if groups != 1 or any(d != 1 for d in dilation):
        raise _Refused(f"groups {groups} and dilation {dilation} are not supported")
    shift = None if bias is None else t.array(bias)
    weights = t.constants(weight=t.array(weight).transpose(1, 2, 3, 0), bias=shift)
    op = ops.ConvTranspose2d(_pair(stride), _pair(padding), _pair(output_padding))
    return t.builder.emit(op, t.value(input), *weights)


def _batch_norm(
    t: _Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node | None,
    bias: fx.Node | None,
    running_mean: fx.Node | None,
    running_var: fx.Node | None,
    eps: float,
    training: bool = False,
    **_: Any,  # noqa: ANN401 - momentum, cudnn: nothing in eval mode
) -> str:
    if training or running_mean is None or running_var is None:
        raise _Refused("has no running statistics; put the network in eval mode")
    mean, variance = t.array(running_mean), t.array(running_var)
    scale = np.ones_like(mean) if weight is None else t.array(weight)
    shift = np.zeros_like(mean) if bias is None else t.array(bias)
    weights = [
        # Equal arrays share a constant, so the four are looked up one by one.
        *t.constants(scale=scale),
        *t.constants(shift=shift),
        *t.constants(mean=mean),
        *t.constants(variance=variance),
    ]
    return t.builder.emit(ops.BatchNorm(eps), t.value(input), *weights)


def _instance_norm(
    t: _Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node | None,
    bias: fx.Node | None,
    running_mean: fx.Node | None,
    running_var: fx.Node | None,
    use_input_stats: bool,
    eps: float,
    **_: Any,  # noqa: ANN401 - momentum, cudnn: nothing in eval mode
) -> str:
    if not use_input_stats:
        return _batch_norm(
            t,
            input=input,
            weight=weight,
            bias=bias,
            running_mean=running_mean,
            running_var=running_var,
            eps=eps,
        )
    affine = []
    if weight is not None or bias is not None:
        x = t.value(input)
        channels = t.builder.shapes[x][3]
        scale = np.ones(channels, np.float32) if weight is None else t.array(weight)
        shift = np.zeros(channels, np.float32) if bias is None else t.array(bias)
        affine = t.constants(scale=scale, shift=shift)
    return t.builder.emit(ops.InstanceNorm(eps), t.value(input), *affine)


def _pad(
    t: _Translation,
    *,
    pad: list[int],
    mode: str = "constant",
    value: float | None = None,
    **picture: fx.Node,
) -> str:
    (x,) = picture.values()  # `self` or `input`, by the operator
    if len(pad) > 4 and any(pad[4:]):  # noqa: PLR2004 - left, right, top, bottom
        raise _Refused(f"padding {pad} goes beyond height and width")
    left, right, top, bottom = [*pad, 0, 0, 0, 0][:4]
    padding = Padding(top, bottom, left, right)
    if min(pad) < 0:
        raise _Refused(f"negative padding {pad} is not supported")
    if mode == "reflect":
        return t.builder.emit(ops.ReflectPad(padding), t.value(x))
    if mode != "constant" or value:
        raise _Refused(f"padding mode {mode!r} with value {value} is not supported")
    return t.builder.emit(ops.ZeroPad(padding), t.value(x))


def _reflection_pad2d(t: _Translation, *, self: fx.Node, padding: list[int]) -> str:
    return _pad(t, pad=padding, mode="reflect", x=self)


def _leaky_relu(t: _Translation, *, self: fx.Node, negative_slope: float) -> str:
    return t.builder.emit(ops.LeakyRelu(float(negative_slope)), t.value(self))


def _unary(op: ops.Operator) -> Callable[..., str]:
    def translate(t: _Translation, *, self: fx.Node) -> str:
        return t.builder.emit(op, t.value(self))

    return translate


def _binary(op: ops.Operator) -> Callable[..., str]:
    def translate(t: _Translation, *, self: Any, other: Any, alpha: float = 1) -> str:  # noqa: ANN401
        if alpha != 1:
            raise _Refused(f"alpha {alpha} is not supported")
        return t.builder.emit(op, t.value(self), t.value(other))

    return translate


def _cat(t: _Translation, *, tensors: list[fx.Node], dim: int) -> str:
    values = [t.value(tensor) for tensor in tensors]
    return t.builder.emit(ops.Concat(_NCHW_TO_NHWC[dim % _RANK]), *values)


def _slice(
    t: _Translation,
    *,
    self: fx.Node,
    dim: int,
    start: int | None,
    end: int | None,
    step: int,
) -> str:
    x = t.value(self)
    shape, axis = t.builder.shapes[x], _NCHW_TO_NHWC[dim % _RANK]
    first, last, stride = slice(start, end, step).indices(shape[axis])
    if stride != 1:
        raise _Refused(f"step {step} is not supported")
    begin, size = [0] * _RANK, list(shape)
    begin[axis], size[axis] = first, last - first
    if tuple(size) == shape:
        return x
    return t.builder.emit(ops.Slice(tuple(begin), tuple(size)), x)


def _unsupported(_: _Translation, **_arguments: object) -> str:
    raise _Refused("is not supported")


def _same(t: _Translation, **arguments: Any) -> str:  # noqa: ANN401 - whatever torch passes
    return t.value(next(iter(arguments.values())))


_TRANSLATIONS: dict[str, Callable[..., str]] = {
    "aten.conv2d": _conv2d,
    "aten.conv_transpose2d": _conv_transpose2d,
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _instance_norm,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    "aten.reflection_pad2d": _reflection_pad2d,
    "aten.relu": _unary(ops.Relu()),
    "aten.relu_": _unary(ops.Relu()),
    "aten.leaky_relu": _leaky_relu,
    "aten.leaky_relu_": _leaky_relu,
    "aten.tanh": _unary(ops.Tanh()),
    "aten.tanh_": _unary(ops.Tanh()),
    "aten.sigmoid": _unary(ops.Sigmoid()),
    "aten.add": _binary(ops.Add()),
    "aten.add_": _binary(ops.Add()),
    "aten.sub": _binary(ops.Sub()),
    "aten.mul": _binary(ops.Mul()),
    "aten.cat": _cat,
    "aten.slice": _slice,
    "aten.dropout": _same,
    "aten.dropout_": _same,
    "aten.feature_dropout": _same,
    "aten.clone": _same,
    "aten.contiguous": _same,
    "aten.detach": _same,
    "aten.alias": _same,
}
