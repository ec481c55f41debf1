"""A generator as eight bits would draw it, which it can learn through.

What a convolution reads and makes and its weights are rounded as an INT8 artifact in which every
convolution computes in integers has them: weights by output channel, values by tensor, in ranges
measured on pictures with the exporter's room (`ranges`). Gradients pass a rounding as if it were
not there and end where a value is clipped (the straight-through estimator: Bengio et al. 2013,
arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877). The picture that comes in has eight bits as
it is, and norms compute in float, which is what INT8_FULL's 16 bits come to.

Channels before an InstanceNorm are shifted and scaled as the exporter does it. How far they reach,
(largest - least)² / (4 variance), is what rounding costs there, in steps of one range for all;
`tails` is its mean, to learn to keep small (compare Shkolnik et al. 2020, arXiv 2002.07686).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coronet_deploy.ranges import (
    QMAX,
    QMIN,
    STILL,
    Range,
    Seen,
    Transfer,
    deviations_of_equal_reach,
    equal_sizes,
    fitted,
)

_RUN = nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.InstanceNorm2d
_LEAST_VARIANCE = 1e-6
_LEAST_SCALE = 1e-12  # of weights that are all zero


@dataclass
class Place:
    """A convolution by name, the module whose value int8 stores, and the ranges about it.

    `maker` is the convolution, or the BatchNorm that is folded into it; what it makes is `cut` if
    only ReLUs see it: it is first stored as what reads them. `read` is None for the one that reads
    the picture. Channels are stored as (value - `middle`) * `scale`, and read as value * `taken`,
    all (1, C, 1, 1).
    """

    name: str
    conv: nn.Conv2d | nn.ConvTranspose2d
    maker: nn.Module
    normed: bool
    first: bool
    last: bool
    read: Range | None = None
    made: Range | None = None
    middle: Tensor | None = None
    scale: Tensor | None = None
    taken: Tensor | None = None
    cut: bool = False


Look = Callable[[Place, Tensor], Tensor]
"""Sees a value at a convolution, and returns what stands there from then on."""


class Rounded(nn.Module):
    """`network`, in eval, its convolutions rounded: (N, 3, H, W) in [-1, 1] to the same.

    `settle` must have measured the ranges, with `margin` as room. `between` says that convolutions
    read one another's values, as in a U-Net of BatchNorms, so that channels are scaled there too.
    A forward leaves `tails` behind, a scalar: zero without InstanceNorms.
    """

    def __init__(self, network: nn.Module, margin: float, *, between: bool = False) -> None:
        super().__init__()
        self.network, self.margin, self.between = network, margin, between
        self.places: list[Place] = []
        self.tails = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Return what int8 draws of pictures."""
        weights = {f"{p.name}.weight": _rounded_weight(p) for p in self.places}
        reaches: list[Tensor] = []

        def made(place: Place, value: Tensor) -> Tensor:
            if place.normed:
                reach = (value.amax((2, 3)) - value.amin((2, 3))) / 2
                variance = value.var((2, 3), correction=0).clamp_min(_LEAST_VARIANCE)
                reaches.append((reach.square() / variance).mean())
            return _stored(place, value)

        with self._looking(_read, made):
            drawn: Tensor = torch.func.functional_call(self.network, weights, (x,))
        self.tails = torch.stack(reaches).mean() if reaches else x.new_zeros(())
        return drawn

    @torch.no_grad()
    def settle(self, pictures: Sequence[Tensor]) -> None:
        """Measure the ranges on `pictures`, (N, 3, H, W) each, drawn in float."""
        if not self.places:
            self._find_places(pictures[0])
        self._measure_channels(pictures)
        rng = np.random.default_rng(0)
        seen: dict[tuple[str, bool], list[Seen]] = {}

        def look(place: Place, value: Tensor, *, coming: bool) -> Tensor:
            scaled = _taken(place, value) if coming else _alike(place, value)
            numbers = scaled.float().cpu().numpy()
            seen.setdefault((place.name, coming), []).append(Seen.of(numbers, rng))
            return value

        reads, makes = (functools.partial(look, coming=coming) for coming in (True, False))
        self._draw(pictures, reads, makes)
        for place in self.places:
            read, made = (
                functools.reduce(Seen.joined, seen[place.name, coming]) for coming in (True, False)
            )
            through: Transfer | None = np.tanh if place.last else None
            place.read = None if place.first else fitted(read, None, self.margin)
            place.made = None if place.cut else fitted(made, through, self.margin)

    def _measure_channels(self, pictures: Sequence[Tensor]) -> None:
        """Scale channels as the exporter does.

        Before InstanceNorms they come to lie in the middle and to reach equally far; those that
        convolutions read of one another, half-way to equal sizes.
        """
        ends: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        sizes: dict[str, list[Tensor]] = {}

        def made(place: Place, value: Tensor) -> Tensor:
            if place.normed:
                deviation = value.std((2, 3), correction=0).mean(0)
                found = value.amin((0, 2, 3)), value.amax((0, 2, 3)), deviation
                ends.setdefault(place.name, []).append(found)
            elif self.between and not place.last:
                sizes.setdefault(place.name, []).append(value.abs().amax((0, 2, 3)))
            return value

        self._draw(pictures, _as_it_is, made)
        for place in self.places:
            if place.name in ends:
                place.middle, place.scale = _of_equal_reach(ends[place.name])
            if place.name in sizes:
                place.scale = _half_way(sizes[place.name])
                place.middle = torch.zeros_like(place.scale)
        if self.between:
            self._take_back(pictures[0])

    @torch.no_grad()
    def _find_places(self, picture: Tensor) -> None:
        """Find the convolutions, and of which every reader sees what it makes behind a ReLU."""
        self.places = _places(self.network, picture)
        for tried in self.places[:-1] if self.between else ():
            below: list[bool] = []

            def reads(place: Place, value: Tensor, found: list[bool] = below) -> Tensor:
                found.append(not place.first and bool((value < 0).any()))
                return value

            def made(place: Place, value: Tensor, of: Place = tried) -> Tensor:
                return torch.full_like(value, -1.0 if place is of else 0.0)

            self._draw([picture], reads, made)
            tried.cut = not any(below)

    def _take_back(self, picture: Tensor) -> None:
        """Have convolutions take back what the ones that they read have scaled.

        The factors themselves go through the network: they are positive, and what stands between
        two convolutions there only moves such numbers.
        """

        def reads(place: Place, value: Tensor) -> Tensor:
            if not place.first:
                place.taken = value[:1, :, :1, :1].clone()
            return value

        def made(place: Place, value: Tensor) -> Tensor:
            return value if place.scale is None else place.scale.expand_as(value)

        self._draw([picture], reads, made)

    def _draw(self, pictures: Sequence[Tensor], reads: Look, makes: Look) -> None:
        """Draw pictures in float; `reads` and `makes` see what convolutions read and make."""
        with self._looking(reads, makes):
            for picture in pictures:
                self.network(picture)

    @contextlib.contextmanager
    def _looking(self, reads: Look, makes: Look) -> Iterator[None]:
        """Put what `reads` and `makes` return in the place of what convolutions read and make."""
        with contextlib.ExitStack() as stack:
            for place in self.places:

                def coming(_: nn.Module, given: tuple[Tensor], at: Place = place) -> tuple[Tensor]:
                    return (reads(at, given[0]),)

                def leaving(_: nn.Module, __: Any, value: Tensor, at: Place = place) -> Tensor:  # noqa: ANN401 - torch's
                    return makes(at, value)

                stack.callback(place.conv.register_forward_pre_hook(coming).remove)
                stack.callback(place.maker.register_forward_hook(leaving).remove)
            yield

    def kept(self) -> dict[str, Any]:
        """Return the ranges, which a later `load` takes."""
        return {
            place.name: {
                "read": _numbers(place.read),
                "made": _numbers(place.made),
                "middle": place.middle,
                "scale": place.scale,
                "taken": place.taken,
            }
            for place in self.places
        }

    def load(self, kept: dict[str, Any], like: Tensor) -> None:
        """Have the ranges that `kept` returned; `like` is a picture, on the network's device."""
        if not kept:  # of before the first `settle`
            return
        self._find_places(like)
        for place in self.places:
            held = kept[place.name]
            place.read, place.made = (held[key] and Range(*held[key]) for key in ("read", "made"))
            place.middle, place.scale, place.taken = (
                None if held[key] is None else held[key].to(like)
                for key in ("middle", "scale", "taken")
            )


def _as_it_is(_: Place, value: Tensor) -> Tensor:
    return value


def _of_equal_reach(ends: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the middles and the scales, (1, C, 1, 1), of channels before an InstanceNorm.

    `ends` holds for each picture the least, the largest and the deviation of each channel, (C,).
    """
    lows, highs, deviations = (torch.stack(one) for one in zip(*ends, strict=True))
    low, high, deviation = lows.amin(0), highs.amax(0), deviations.mean(0)
    numbers = (t.cpu().double().numpy() for t in (deviation, high - low))
    wanted = torch.from_numpy(deviations_of_equal_reach(*numbers)).to(deviation)
    scale = torch.where(deviation > STILL, wanted / deviation.clamp_min(STILL), 1.0)
    return ((low + high) / 2)[None, :, None, None], scale[None, :, None, None]


def _half_way(sizes: Sequence[Tensor]) -> Tensor:
    """Return the scales, (1, C, 1, 1), of channels whose largest magnitudes, (C,), were these."""
    size = torch.stack(list(sizes)).mean(0)
    scale = equal_sizes(size.cpu().double().numpy())
    return torch.from_numpy(scale).to(size)[None, :, None, None]


@torch.no_grad()
def _places(network: nn.Module, picture: Tensor) -> list[Place]:
    """Return the convolutions in the order in which they run, and what stands behind each."""
    ran: list[tuple[str, nn.Module]] = []
    with contextlib.ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, _RUN):

                def note(m: nn.Module, *_: object, called: str = name) -> None:
                    ran.append((called, m))

                stack.callback(module.register_forward_hook(note).remove)
        network(picture)
    places: list[Place] = []
    for (name, module), (_, behind) in zip(ran, [*ran[1:], ("", nn.Identity())], strict=True):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            folded = isinstance(behind, nn.BatchNorm2d)
            places.append(
                Place(
                    name,
                    module,
                    maker=behind if folded else module,
                    normed=isinstance(behind, nn.InstanceNorm2d),
                    first=not places,
                    last=False,
                )
            )
    places[-1].last = True
    return places


def _numbers(r: Range | None) -> tuple[float, float] | None:
    return None if r is None else (float(r.low), float(r.high))


def _rounded_weight(place: Place) -> Tensor:
    """Return a weight as int8 has it: by output channel, the largest magnitude 127."""
    weight, axis, taken = place.conv.weight, 0, place.taken
    if isinstance(place.conv, nn.ConvTranspose2d):
        axis, taken = 1, None if taken is None else taken.transpose(0, 1)
    if taken is not None:
        weight = weight / taken
    others = [i for i in range(4) if i != axis]
    largest = weight.detach().abs().amax(others).clamp_min(_LEAST_SCALE)
    zeros = torch.zeros_like(largest, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(
        weight, largest / QMAX, zeros, axis, -QMAX, QMAX
    )
    return rounded if taken is None else rounded * taken


def _rounded(value: Tensor, r: Range | None) -> Tensor:
    if r is None:
        return value
    return torch.fake_quantize_per_tensor_affine(value, float(r.scale), r.zero_point, QMIN, QMAX)


def _alike(place: Place, value: Tensor) -> Tensor:
    """Return what a convolution made with its channels shifted and scaled."""
    if place.middle is None or place.scale is None:
        return value
    return (value - place.middle) * place.scale


def _taken(place: Place, value: Tensor) -> Tensor:
    """Return what a convolution reads with its channels scaled."""
    return value if place.taken is None else value * place.taken


def _read(place: Place, value: Tensor) -> Tensor:
    """Return what a convolution reads as int8 stores it."""
    rounded = _rounded(_taken(place, value), place.read)
    return rounded if place.taken is None else rounded / place.taken


def _stored(place: Place, value: Tensor) -> Tensor:
    """Return what a convolution made as int8 stores it."""
    rounded = _rounded(_alike(place, value), place.made)
    if place.middle is None or place.scale is None:
        return rounded
    return rounded / place.scale + place.middle
