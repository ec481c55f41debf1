"""What calibration pictures tell of a captured graph, found once for artifacts of all runtimes.

What the graph draws, how far its channels reach and which layers eight bits spoil take most of an
INT8 export, and do not depend on how a runtime wants its graph written: the same convolutions read
and make the same values. They are found on the graph as ONNX Runtime wants it, which has the fewest
operators, and carried over by the layers' names. Layers are searched once for ranges that are
measured beforehand and once for those that are found at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from coronet_deploy.export.calibrate import Pictures, with_flips
from coronet_deploy.export.equalize import equalized
from coronet_deploy.export.graph import FloatArray, Graph
from coronet_deploy.export.outputs import output_range
from coronet_deploy.export.packing import packed_layers
from coronet_deploy.export.passes import PassReport, lower
from coronet_deploy.export.pixels import BRIGHTER, PIXELS, moved_from, with_exact_pixels
from coronet_deploy.export.ranges import measure
from coronet_deploy.export.sensitivity import Layer, Ranges, Trial, int8_layers, search
from coronet_deploy.ranges import MARGIN, Range
from coronet_deploy.vocabulary import Runtime


@dataclass(frozen=True)
class Survey:
    """The layers `chosen` to compute in int8, by name, and the range of what each reads and makes.

    `ranges` are by the name of a value of the graph that was looked at, None where they are found
    at run time; `packed` are the other layers whose weights are stored in int8.
    """

    layers: tuple[Layer, ...]
    ranges: Ranges
    chosen: frozenset[str]
    packed: frozenset[str]

    def carried_to(self, graph: Graph) -> Survey | None:
        """Return the same of another lowering of the same graph; None if layers do not match."""
        layers = int8_layers(graph)
        if not _match(self.layers, layers):
            return None
        ranges: dict[str, Range] | None = None
        if self.ranges is not None:
            ranges = {}
            for mine, its in zip(self.layers, layers, strict=True):
                ranges |= {its.source: self.ranges[mine.source], its.name: self.ranges[mine.name]}
        names = {mine.name: its.name for mine, its in zip(self.layers, layers, strict=True)}
        chosen = frozenset(names[name] for name in self.chosen)
        packed = frozenset(names[name] for name in self.packed)
        return Survey(layers, ranges, chosen, packed)


def _match(layers: Sequence[Layer], others: Sequence[Layer]) -> bool:
    """Return whether each layer is, in order, what a rewrite made of the other, which it names."""
    return len(layers) == len(others) and all(
        other.name == one.name or other.name.startswith(f"{one.name}/")
        for one, other in zip(layers, others, strict=True)
    )


@dataclass(frozen=True)
class Study:
    """A graph, as it was captured, and calibration pictures; what is found is kept."""

    graph: Graph
    pictures: Pictures
    _surveys: dict[tuple[float, float | None], Survey] = field(
        default_factory=dict, init=False, repr=False
    )
    _trials: dict[float | None, Trial] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def shown(self) -> Pictures:
        """The pictures that ranges are measured on: few ones with their mirror images."""
        return with_flips(self.pictures)

    @property
    def even(self) -> Graph:
        """The graph with its channels scaled (see `equalize`)."""
        return self._equalized[0]

    @property
    def even_by(self) -> tuple[PassReport, ...]:
        """What was done to get `even`."""
        return self._equalized[1]

    @cached_property
    def _equalized(self) -> tuple[Graph, tuple[PassReport, ...]]:
        return equalized(self.graph, self.shown)

    def survey(
        self,
        lowered: Graph,
        budget_db: float,
        progress: Callable[[str], None] = lambda _: None,
        margin: float | None = MARGIN,
    ) -> Survey:
        """Return the layers of `lowered`, a lowering of `even`, that keep the picture in int8.

        The ranges are those of `with_exact_pixels(lowered)`, `margin` times the best; without a
        margin they are found at run time.

        Raises:
            ConversionFailed: a value is not finite on a picture; names it and the picture.

        """
        asked = budget_db, margin
        if asked not in self._surveys:
            if margin not in self._trials:
                self._trials[margin] = self._within(self._trial, margin)
            self._surveys[asked] = _look(self._trials[margin], budget_db, progress)
        exact = with_exact_pixels(lowered)
        if (carried := self._surveys[asked].carried_to(exact)) is not None:
            return carried
        return _look(self._within(self._trial_of(exact), margin), budget_db, progress)

    @cached_property
    def _trial(self) -> Trial:
        plain, _ = lower(self.even, Runtime.ONNX, integer=True)
        return self._trial_of(with_exact_pixels(plain))

    def _trial_of(self, graph: Graph) -> Trial:
        return Trial(graph, self.shown, None, output_range(self.graph))

    def _within(self, trial: Trial, margin: float | None) -> Trial:
        """Return `trial` with ranges as `survey` takes them."""
        if margin is None:
            trial.require_finite()
            return trial.within(None)
        return trial.within(self._measured(trial, margin))

    def _measured(self, trial: Trial, margin: float) -> Mapping[str, Range]:
        values = [name for layer in trial.layers for name in (layer.source, layer.name)]
        drawn = list[FloatArray]()
        ranges = measure(trial.graph, values, self.shown, margin=margin, drawn=drawn)
        trial.take_drawn(drawn)
        exact = moved_from(trial.graph, BRIGHTER).intersection(values)
        return ranges | dict.fromkeys(exact, PIXELS)


def _look(trial: Trial, budget_db: float, progress: Callable[[str], None]) -> Survey:
    chosen = search(trial, budget_db, progress)
    packed = packed_layers(trial, chosen, budget_db) if chosen else chosen
    return Survey(trial.layers, trial.ranges, chosen, packed)
