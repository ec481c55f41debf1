"""Training on several GPUs or hosts: the processes that `torchrun` started, and what they share.

Every process holds the whole model and steps on pictures of its own; DistributedDataParallel
averages the gradients, so that all take the same steps. The proximal step, the slicing and the
cut are functions of the latents alone; those are the leader's wherever channels are cut, for sums
may come out differently by a bit. The leader writes the files, and all read the state to resume
from: the output folder is one that every host sees.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem

_LETTING_GO_S = 5.0
_LAST_WORDS_S = 0.5
_LOST = ("gloo/", "NCCL")  # what torch's errors name when a connection to another process ends


@dataclass(frozen=True)
class Team:
    """The place of this process among those that train together.

    A thread of gloo's lets go of a collective's tensors some time after the collective is done. If
    nobody else has them by then, it takes Python's lock to free them; and where the group ends,
    that thread is waited for with the lock held, for ever. So all are kept in `lent` until then.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    lent: deque[Tensor] = field(default_factory=deque, init=False, compare=False, repr=False)

    @property
    def leader(self) -> bool:
        """True for the one process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return `module` so that its gradients are averaged over the team.

        A module whose parameters are cut must be wrapped anew. BatchNorm's statistics are each
        process's own, as is usual with this wrapper.
        """
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            # Newer ones call it deprecated, and offer nothing yet that leaves buffers alone.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False)

    def mean(self, values: list[float]) -> list[float]:
        """Return `values` averaged over the team."""
        if self.size == 1:
            return values
        device = f"cuda:{self.local_rank}" if _backend() == "nccl" else "cpu"
        (tensor,) = self._lend(torch.tensor(values, dtype=torch.float64, device=device))
        torch.distributed.all_reduce(tensor)
        averaged: list[float] = (tensor / self.size).tolist()
        return averaged

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process of the team."""
        return self.mean([float(flag)])[0] > 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Have every process fail where one does, for the others would wait for it.

        Raises:
            EnvironmentProblem: another process failed; its own line says why.

        """
        failure: CoronetError | None = None
        try:
            yield
        except CoronetError as error:
            failure = error
        if self.any(failure is not None):
            raise failure or EnvironmentProblem(
                f"process {self.rank} stops: another one of the {self.size} cannot go on",
                hint="its own line says why",
            )

    def same(self, tensor: Tensor) -> None:
        """Overwrite `tensor` by the leader's, in place."""
        if self.size > 1:
            (alias,) = self._lend(tensor)
            torch.distributed.broadcast(alias, 0)

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Return every process's `tensor`, all of one shape, in the order of their ranks."""
        if self.size == 1:
            return [tensor]
        here = tensor.contiguous()
        everyone = [torch.empty_like(here) for _ in range(self.size)]
        *there, own = self._lend(*everyone, here)
        torch.distributed.all_gather(there, own)
        return everyone

    def settle(self) -> None:
        """Wait until no collective has its tensors any more, at most some seconds."""
        end = time.monotonic() + _LETTING_GO_S
        while self._kept() and time.monotonic() < end:
            time.sleep(0.001)

    def _lend(self, *tensors: Tensor) -> list[Tensor]:
        """Return tensors of the same memory for a collective, which are kept while it has them."""
        self._kept()
        aliases = [tensor.detach() for tensor in tensors]
        self.lent.extend(aliases)
        return aliases

    def _kept(self) -> int:
        """Forget what the oldest collectives have let go of; return how many tensors are left."""
        while self.lent and _holders(self.lent[0]) == 1:
            self.lent.popleft()
        return len(self.lent)


SOLO = Team()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Team]:
    """Join the processes that `torchrun` started, if it did; leave them at the end.

    `device` "cuda" talks over NCCL, "cpu" over gloo.

    Raises:
        BadInput: torchrun's environment is not whole.
        EnvironmentProblem: the others cannot be reached, or are lost on the way.

    """
    if "RANK" not in os.environ:
        yield SOLO
        return
    try:
        team = Team(*(int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError) as error:
        raise BadInput(f"RANK is set, but not as torchrun does: {error}") from error
    if team.size == 1:
        yield team
        return
    try:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except (RuntimeError, ValueError) as error:
        raise EnvironmentProblem(
            f"cannot join the other {team.size - 1} processes: {str(error).splitlines()[0]}",
            hint="start every host with the same torchrun --rdzv-endpoint",
        ) from error
    failed = True
    try:
        yield team
        failed = False
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise EnvironmentProblem(
            f"process {team.rank} lost the others: {str(error).splitlines()[0]}",
            hint="the line of the one that ended first says why; the last saved state stands",
        ) from error
    finally:
        if failed:
            # torchrun ends the others as soon as one has ended: the line that tells may be theirs.
            time.sleep(_LAST_WORDS_S)
        team.settle()
        torch.distributed.destroy_process_group()


def _holders(tensor: Tensor) -> int:
    """Return how many hold a tensor itself, of which Python as a whole is one."""
    return int(tensor._use_count())  # type: ignore[attr-defined]  # noqa: SLF001 - torch's only way


def _backend() -> str:
    return str(torch.distributed.get_backend())
