"""`coronet-deploy` on a machine with a device that is none: `--device pretended`.

Its numbers lie in main memory and its arithmetic is the CPU's, so that a training on it must learn
what one on the CPU does, bit for bit. But to torch it is a device as others are: a tensor that was
left on the CPU is refused beside one of its own, as a GPU refuses it, there is no float64, as on
Apple's, and it is known how often the host had to wait for it. That says nothing of kernels, nor of
speed.

    python pretended.py train RECIPE --data DIR --device pretended

With PRETENDED_WAITS=FILE, how often the host waited goes there as JSON: of each step from where the
losses of the one before were known, the first number being what came before any.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_C: Any = torch._C  # of which type checkers know little
_library: Any = torch.library.Library
_CPU = torch.device("cpu")
_MOVES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
_INDEXING = {"aten::index", "aten::_index_put_impl_", "aten::index_put_", "aten::index_put"}
# What has a result, or a size of one, that the host must know.
_ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
_NARROW = ("convolution", "conv2d", "conv_transpose2d.input", "mm", "matmul")
waits = [0]  # as they are to be written


class Pretended(Tensor):
    """A tensor of the device; `held` has its numbers, and its sizes and strides."""

    held: Tensor
    __torch_function__ = _C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[Self], held: Tensor) -> Self:
        """Return what torch believes to be on the device."""
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @property
    def data(self) -> Tensor:
        """As for every tensor."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, Pretended)
        self.held = value.held
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be saved as what `map_location="cpu"` makes of a device's tensor."""
        return self.held.__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute `op` on what is held."""
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = op._schema.name
    flat, spec = pytree.tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    if name not in _MOVES:
        _refuse_strangers(op, tensors, indexing=name in _INDEXING)
    device = kwargs.get("device") or (tensors[0].device if name == "aten::_to_copy" else None)
    to_host = device is not None and torch.device(device).type == "cpu"
    onto_host = name == "aten::copy_" and not isinstance(tensors[0], Pretended)
    if ours and (name in _ASKING or to_host or onto_host):
        waits[-1] += 1
        if any(frame.name == "_numbers" for frame in traceback.extract_stack(limit=20)):
            waits.append(0)
    held = [
        value.held if isinstance(value, Pretended) else _CPU if _is_device(value) else value
        for value in flat
    ]
    args, kwargs = pytree.tree_unflatten(held, spec)
    kwargs.pop("pin_memory", None)
    made = _kernels.get(name, op)(*args, **kwargs)
    known = {id(tensor.held): tensor for tensor in ours}  # of what was written in place

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or to_host:
            return value
        if value.dtype is torch.float64:
            raise TypeError(f"{op}: the device has no float64")
        return known.get(id(value)) if id(value) in known else Pretended(value)

    return pytree.tree_map(wrapped, made)


def _is_device(value: object) -> bool:
    return isinstance(value, torch.device)


def _refuse_strangers(op: Any, tensors: list[Tensor], *, indexing: bool) -> None:
    """Raise what a GPU would, where tensors are of both; a number and an index may be the CPU's."""
    of_host = [tensor for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim()]
    if indexing:
        of_host = [tensor for tensor in of_host if tensor.is_floating_point()]
    if of_host and len(of_host) < len(tensors):
        raise RuntimeError(f"{op}: Expected all tensors to be on the same device")


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> Any:
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [outputs],
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        mask,
    )


# A device that is not torch's own has convolutions by these names.
_kernels: dict[str, Callable[..., Any]] = {
    "aten::convolution_overrideable": torch.ops.aten.convolution,
    "aten::convolution_backward_overrideable": _convolution_backward,
}


class _Module:
    """What torch asks a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Dropout draws on the CPU, whose generator is seeded anyway."""


def _narrow(name: str) -> Callable[..., Any]:
    """Return autocast's kernel of an operator that is for bfloat16."""
    op = getattr(torch.ops.aten, name.partition(".")[0])
    here = _C.DispatchKeySet(_C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args: Any) -> Any:
        with _C._ExcludeDispatchKeyGuard(here):
            return op(*(v.bfloat16() if _is_float32(v) else v for v in args))

    return kernel


def _is_float32(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32


def install() -> list[torch.library.Library]:
    """Let torch know the device, as long as what is returned lives; once a process."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    everything = _library("_", "IMPL")
    everything.fallback(lambda op, *args, **kwargs: _compute(op, args, kwargs), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    casts = _library("aten", "IMPL", "AutocastPrivateUse1")
    for name in _NARROW:
        casts.impl(name, _narrow(name))
    return [everything, casts]


if __name__ == "__main__":
    libraries = install()
    from coronet_deploy.cli import main

    status = main()
    if told := os.environ.get("PRETENDED_WAITS"):
        Path(told).write_text(json.dumps(waits))
    sys.exit(status)
