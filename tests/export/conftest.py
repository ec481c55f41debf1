"""What tests of exports share: generators of a user's own in a folder, and small pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture
from lowering import Share, Shared

_CODE = """
import torch
from torch import nn

print("a line that their code prints")


class Sketch(nn.Module):
    def __init__(self, channels=3, width=6):
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, 2, 1)
        self.norm = nn.InstanceNorm2d(width)
        self.leave = nn.ConvTranspose2d(width, channels, 4, 2, 1)

    def forward(self, x):
        return torch.sigmoid(self.leave(torch.relu(self.norm(self.enter(x)))))


class Inverse(nn.Module):
    def forward(self, x):
        return torch.erfinv(x)


class Softened(Sketch):
    def __init__(self):
        super().__init__()
        self.soft = Inverse()

    def forward(self, x):
        return self.soft(super().forward(x))


def seeded():
    torch.manual_seed(3)
    return Sketch()


def grey():
    torch.manual_seed(3)
    return Sketch(channels=1)


def spoilt():
    sketch = seeded()
    sketch.enter.weight.data[0] = float("nan")
    return sketch


class Noting(Sketch):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.LazyConv2d(3, 3, padding=1)

    def forward(self, x):
        return self.only(x)


class Tuple(Sketch):
    def forward(self, x):
        return (super().forward(x),)


class Dict(Sketch):
    def forward(self, x):
        print("a line that their forward prints")
        return {"y": super().forward(x)}


class Late(Sketch):
    def forward(self, x):
        from sketch_parts import twice

        return super().forward(twice(x))


class Branching(Sketch):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else x * 2


class Overflowing(Sketch):
    def forward(self, x):
        return super().forward(x) * 3e38 * 3e38


class Vast(Sketch):
    def forward(self, x):
        return super().forward(x) + torch.zeros(1 << 50).mean()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.module, self.scale = Sketch(), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.module(x) * self.scale


class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = torch.compile(Scaled())

    def forward(self, x):
        return self.scaled(x)


def Averaged():
    return torch.optim.swa_utils.AveragedModel(Sketch())


def parallel():
    return nn.DataParallel(Sketch())


def broken():
    raise RuntimeError("no\\nweights here")


def leaving():
    raise SystemExit(0)


made = seeded()
number = 7
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a current folder that holds the user's code."""
    (tmp_path / "sketches.py").write_text(_CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("sketches", None)
    sys.modules.pop("sketch_parts", None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on pictures this small, waiting for others is most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def odd_pictures() -> Pictures:
    """Return three bundled pictures of 60x88, which are no powers of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return three bundled pictures of 32x48."""
    return read_pictures(bundled_pictures()[:3], 32, 48)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """Return a ResNet-6 of width 4, seeded weights."""
    torch.manual_seed(2)
    return build_generator(full_plan(Architecture.RESNET_6, width=4)).eval()


@pytest.fixture(scope="module")
def shared() -> Share:
    """Return what makes a network when its name is first called, and keeps it for the file."""
    made: dict[Hashable, Shared] = {}

    def share(name: Hashable, make: Callable[[], nn.Module], pictures: Pictures) -> Shared:
        if name not in made:
            torch.manual_seed(0)
            made[name] = Shared(make().eval(), pictures)
        return made[name]

    return share
