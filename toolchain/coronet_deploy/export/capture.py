"""From an `nn.Module` to a `Graph`, through torch.export."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import operator
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.aten import attention, einsum, modulated, moved, spectra
from coronet_deploy.export.aten.assembled import Assembly
from coronet_deploy.export.aten.names import ALIASES
from coronet_deploy.export.aten.nodes import (
    given_by,
    is_module,
    layer_of,
    name_of,
    named_arguments,
    operator_of,
    shares_memory,
    wrapped_by,
    writes_memory,
)
from coronet_deploy.export.aten.table import (
    COPIES,
    DROPOUTS,
    FILLING,
    FOR_EACH_NUMBER,
    IDENTITIES,
    OF_ANOTHERS_SHAPE,
    OF_ANY_SHAPE,
    RESHAPING,
    SPREADING,
    TRANSLATIONS,
    unsupported,
)
from coronet_deploy.export.aten.translation import Memory, Moved, Refused, Translation
from coronet_deploy.export.graph import INPUT, Graph
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.operators import Shape
from coronet_deploy.export.theirs import importable_here
from coronet_deploy.memory import shortage

_AUTOCAST, _GRAD = "wrap_with_autocast", "wrap_with_set_grad_enabled"
_WRITES = "aten.copy"
_SAYS_NOTHING = "aten._assert_tensor_metadata"
_RANK = 4
_MOVING = moved.MOVES | SPREADING
_SPECTRAL = {*spectra.TRANSFORMS, *spectra.SHIFTS, *spectra.TRANSLATIONS}
_PRODUCTS = {**attention.TRANSLATIONS, **einsum.TRANSLATIONS}


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
        with _quiet(), importable_here(), torch.no_grad():
            # As newer torches do by default; older ones would compile forwards, and take few.
            program = torch.export.export(module, (example,), strict=False)
    except Exception as error:
        if shortage(error):  # which is no fault of the network's
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConversionFailed(
            f"{type(module).__name__} cannot be captured at {height}x{width}: {reason[0]}",
            hint=f"the network must take one picture, of {channels} channels (--channels) and of "
            "a size that fits it (--size)",
        ) from error
    finally:
        for m, mode in training.items():
            m.training = mode  # not m.train(), which would set the layers below as well
    return _Program(program, (1, height, width, channels)).graph()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the module prints off stdout, and torch's dumps off stderr if tracing fails."""
    said = io.StringIO()
    with captured_stderr() as printed:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
        told = printed()
    sys.stderr.write(told + said.getvalue())


class _Program:
    """Translates the nodes of one exported program, in order."""

    def __init__(self, program: torch.export.ExportedProgram, input_shape: Shape) -> None:
        self._program = program
        self._to = Translation(input_shape)
        self._order: dict[fx.Node, int] = {}
        self._memory = Memory(self._read_after)
        self._assembly = Assembly(self._to)

    def graph(self) -> Graph:
        signature = self._program.graph_signature
        tensors = {**self._program.state_dict, **self._program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        nodes = self._program.graph.nodes
        self._number(self._program.graph)
        pictures = []
        for node in nodes:
            if node.op == "placeholder" and node.name in names:
                self._to.own(node, tensors[names[node.name]])
            elif node.op == "placeholder":
                pictures.append(node)
                self._to.values[node] = INPUT
        self._walk(self._program.graph)
        if len(pictures) != 1 or len(signature.user_outputs) != 1:
            raise ConversionFailed(
                "the network must take one picture and return one, "
                f"not {len(pictures)} and {len(signature.user_outputs)}"
            )
        (output,) = given_by(self._program.graph)
        if not self._to.is_picture(output):
            what = "a constant" if isinstance(output, fx.Node) else f"{output}"
            raise ConversionFailed(f"the network returns {what} and no picture")
        made = tuple(output.meta["val"].shape)
        value = None
        if len(made) == _RANK and not self._to.has_channels_last(output):
            with contextlib.suppress(Refused):
                value = self._to.value(output)
        if value is None:
            raise ConversionFailed(
                f"the network returns {made}, which stands for no picture",
                hint="let it return (1, channels, height, width)",
            )
        if value == INPUT:
            raise ConversionFailed("the network returns its input unchanged")
        return self._to.builder.finish(value)

    def _number(self, graph: fx.Graph) -> None:
        """Give all nodes numbers in the order in which they run, a wrapped part first."""
        for node in graph.nodes:
            if (part := wrapped_by(node)) is not None:
                self._number(part.graph)
            self._order[node] = len(self._order)

    def _read_after(self, value: fx.Node, node: fx.Node) -> bool:
        return any(self._order[user] > self._order[node] for user in value.users)

    def _walk(self, graph: fx.Graph) -> None:
        self._to.kernels.update(modulated.weights_of(graph, operator_of))
        for node in graph.nodes:
            if node.op != "call_function" or operator_of(node) == _SAYS_NOTHING:
                continue
            where = layer_of(node)
            self._to.builder.scope = where
            try:
                self._take(node)
            except (Refused, ValueError) as error:
                what = (
                    f"operator {name_of(node)} in layer {where or 'the network itself'!r}: {error}"
                )
                raise _refusal(what, operator_of(node)) from error
            for source in node.all_input_nodes:  # places of numbers take as much as these
                if not self._read_after(source, node):
                    self._to.values.pop(source, None)

    def _take(self, node: fx.Node) -> None:
        """Translate one node, or what it wraps, and note what its result is."""
        if node.target is operator.getitem:
            self._pick(node)
        elif (part := wrapped_by(node)) is not None:
            self._inline(node, part)
        elif not hasattr(node.target, "_schema"):
            raise Refused("is not supported")
        elif not self._goes_into(node):
            if not shares_memory(node) or writes_memory(node):
                self._assembly.require_whole(node.all_input_nodes)
            self._to.compute(node)
        elif operator_of(node) == _WRITES and node.args[0] in self._to.weights:
            self._assembly.write(node, *node.args[:2])  # type: ignore[arg-type]
        else:
            self._assembly.require_whole(node.all_input_nodes)
            if spectra.concerns(node, operator_of(node)):
                self._translate_complex(node)
            else:
                self._translate(node)

    def _goes_into(self, node: fx.Node) -> bool:
        """Return whether the picture goes into what an operator makes, and not its shape alone."""
        key, sources = operator_of(node), node.all_input_nodes
        if key in OF_ANOTHERS_SHAPE:
            sources = sources[:1]
        return key not in FILLING and any(map(self._to.is_picture, sources))

    def _pick(self, node: fx.Node) -> None:
        """Take one of several tensors: of the parts of one, or of what a wrapped part gives."""
        source: Any = node.args[0]
        place: Any = node.args[1]
        part = wrapped_by(source)
        given = source if part is None else given_by(part.graph)[place]
        if given in self._to.weights:
            held = self._to.weights[given]
            self._to.weights[node] = held if part else held[place]
            return
        values = self._to.values.get(source)
        if not isinstance(values, list):
            raise Refused("picks from what is no list of tensors")
        if place >= len(values):
            if node.users:
                raise Refused("is read for where its numbers stand; only for the numbers")
            return
        self._to.values[node] = values[place]
        if part is None:
            self._memory.part(node, source)
        else:
            self._memory.same(node, given)

    def _inline(self, node: fx.Node, part: fx.GraphModule) -> None:
        """Walk through a part of the network that stands under another mode of torch."""
        if name_of(node) == _AUTOCAST:
            device, dtype, enabled = node.args[:3]
            if enabled and device == "cpu":
                raise Refused(f"computes in {dtype}; leave torch.autocast out of the forward")
        elif name_of(node) != _GRAD:
            raise Refused("is not supported")
        first = next(i for i, a in enumerate(node.args) if is_module(a)) + 1
        taken = [n for n in part.graph.nodes if n.op == "placeholder"]
        for inner, outer in zip(taken, node.args[first:], strict=True):
            if outer in self._to.weights:
                self._to.weights[inner] = self._to.weights[outer]  # type: ignore[index]
            else:
                self._to.values[inner] = self._to.value(outer)
                self._memory.same(inner, outer)  # type: ignore[arg-type]
        self._walk(part.graph)
        # What is computed of learnt tensors alone is picked from inside.
        self._to.values[node] = [
            "" if value in self._to.weights else self._to.value(value)
            for value in given_by(part.graph)
        ]

    def _translate_complex(self, node: fx.Node) -> None:
        """Translate one operator that takes or gives complex numbers."""
        if writes_memory(node):
            raise Refused("writes complex numbers into memory that is there")
        key, arguments = operator_of(node), named_arguments(node)
        self._to.values[node] = spectra.translate(
            self._to, node, key, arguments, moved.MOVES, IDENTITIES
        )
        if shares_memory(node):
            self._memory.part(node, node.args[0])  # type: ignore[arg-type]

    def _translate(self, node: fx.Node) -> None:
        """Translate one operator into the builder."""
        key, arguments = operator_of(node), named_arguments(node)
        value: Any
        convolution = TRANSLATIONS.get(key, unsupported(key))
        value = modulated.translate(
            self._to, node, key, arguments, convolution, _MOVING, IDENTITIES
        )
        if value is not None:
            self._to.values[node] = value
            return
        if key in _PRODUCTS:
            value = _PRODUCTS[key](self._to, node, **arguments)
        else:
            value = moved.translate(
                *(self._to, node, key, arguments, FOR_EACH_NUMBER),
                otherwise=self._takes_pictures(node, key),
            )
        if value is None:
            self._require_ranks(node, key)
            value = TRANSLATIONS.get(key, unsupported(key))(self._to, **arguments)
            parts = []
            for part, tensor in _pairs(value, node.meta["val"]):
                parts.append(self._shaped(node, key, part, tuple(tensor.shape)))
                if key in IDENTITIES and tensor.dtype != torch.float32:
                    raise Refused(f"gives {tensor.dtype}; everything is captured in float32")
            value = parts[0] if isinstance(value, str) else parts
        self._to.values[node] = value
        source = node.args[0]
        if writes_memory(node):
            for same in self._memory.write(node, source, self._to.values):  # type: ignore[arg-type]
                self._to.values[same] = value
            self._memory.same(node, source)  # type: ignore[arg-type]
        elif key in (IDENTITIES | DROPOUTS) - COPIES:
            self._memory.same(node, source)  # type: ignore[arg-type]
        elif shares_memory(node):
            self._memory.part(node, source)  # type: ignore[arg-type]

    def _takes_pictures(self, node: fx.Node, key: str) -> bool:
        """Return whether an operator gives what a value as it lies stands for."""
        if key not in RESHAPING:
            return key in TRANSLATIONS
        value = self._to.values[node.all_input_nodes[0]]
        return isinstance(value, str) and self._to.fits(tuple(node.meta["val"].shape), value)

    def _require_ranks(self, node: fx.Node, key: str) -> None:
        """Let four dimensions through; where each number is taken by itself, as many of each."""
        sources = [s for s in node.all_input_nodes if isinstance(self._to.values.get(s), str)]
        shapes = [tuple(source.meta["val"].shape) for source in sources]
        ranks = {
            _RANK if self._to.is_whole(shape, str(self._to.values[source])) else len(shape)
            for source, shape in zip(sources, shapes, strict=True)
            if math.prod(shape) > 1
        }
        if key in OF_ANY_SHAPE and len(ranks) > 1:
            raise Refused(f"takes {' and '.join(map(str, shapes))}; give both four dimensions")
        fewer = any(len(shape) != _RANK for shape in shapes)
        if key in TRANSLATIONS and key not in OF_ANY_SHAPE and fewer:
            raise Refused(f"takes {' and '.join(map(str, shapes))}, which is no picture")

    def _shaped(self, node: fx.Node, key: str, value: str, made: Shape) -> str | Moved:
        """Return a value in torch's shape: a picture, or one that lacks axes of size 1."""
        have = self._to.builder.shapes[value]
        n, height, width, channels = have
        if self._to.fits(made, value):
            return value
        if _without_ones(made) == _without_ones((n, channels, height, width)):
            return Moved(value, torch.arange(math.prod(made)).reshape(made))
        spreads = key in SPREADING or (
            key in FOR_EACH_NUMBER and any(s in self._to.spread for s in node.all_input_nodes)
        )
        if spreads and len(made) == _RANK:
            wanted = made[0], made[2], made[3], made[1]
            more = (m if size == 1 else 1 for m, size in zip(wanted, have, strict=True))
            self._to.spread[node] = tuple(more)
            return value
        raise Refused(f"gives {made}, not NHWC {have}")


def _refusal(what: str, key: str) -> ConversionFailed:
    """Return the error for an operator, with those that are supported if it is none of them."""
    known = {*TRANSLATIONS, *_PRODUCTS, *_SPECTRAL, *moved.MOVES, *moved.BY_THEMSELVES, *ALIASES}
    if key in known:
        return ConversionFailed(what)
    names = sorted({k.removeprefix("aten.").strip("_") for k in known if "__" not in k})
    near = difflib.get_close_matches(key.removeprefix("aten."), names, cutoff=0.7)
    hint = f"supported ones of like names: {', '.join(near)}" if near else None
    wrapped = textwrap.wrap(", ".join(names), 96, break_on_hyphens=False)
    listing = ("Operators that are supported:", *(f"  {line}" for line in wrapped))
    return ConversionFailed(what, hint=hint, listing=listing)


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size > 1)


def _pairs(value: str | list[str], made: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever torch gives
    """Yield each value that stands for a tensor, and what torch says of that."""
    yield from [(value, made)] if isinstance(value, str) else zip(value, made, strict=False)
