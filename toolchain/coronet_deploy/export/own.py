"""Generators of the user's own: a module that a name in their code gives, and its weights.

Their code is imported and run: it is theirs. A file of weights is not: it is read as tensors
only, and must hold exactly those of the module.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from coronet_deploy.coronet.checkpoint import load_strictly
from coronet_deploy.coronet.foreign import (
    PARALLEL,
    read_tensors,
    refuse_pointer,
    without_compiled,
    without_parallel,
)
from coronet_deploy.errors import BadInput
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.subject import MOST_CHANNELS, Subject, file_name
from coronet_deploy.export.theirs import importable_here
from coronet_deploy.memory import memory_told
from coronet_deploy.storage import existing_file, sha256_of
from coronet_deploy.vocabulary import Kind

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_FORM = "package.module:name, of a module, a class or a function without arguments that makes one"


def is_own(text: str) -> bool:
    """Return whether `text` names something in code, "package.module:name", and not a file."""
    return bool(_NAME.fullmatch(text)) and not Path(text).exists()


def load_own(name: str, weights: Path | None = None, channels: int = 3) -> Subject:
    """Return the generator that `name`, "package.module:name", gives, with `weights` in it.

    `name` is an `nn.Module`, or a class or function that makes one when it is called without
    arguments; modules in the current folder are found. `weights` is a state dict, `.safetensors`
    or `.pt`. Without it the module is taken as it is made.

    Raises:
        BadInput: there is no such name, it does not give a module, or the weights are not a whole
            file of finite tensors with exactly the module's names and shapes.

    """
    if not 1 <= channels <= MOST_CHANNELS:
        raise BadInput(f"--channels {channels}: from 1 to {MOST_CHANNELS}")
    module = _made(name)
    with _their_code(f"{name}: taking it as float32"):
        module = module.cpu().float().eval()
    _require_tensors(name, module)
    if weights is not None:
        _load(name, module, weights)
        digest = sha256_of(weights)
    else:
        digest = _digest(name, module)
    return Subject(
        model=file_name((weights.stem if weights else name.rpartition(":")[2]).lower()),
        source=Source(sha256=digest, kind=Kind.MODULE, module=name),
        generator=module,
        channels=channels,
    )


def _made(name: str) -> nn.Module:
    """Return the module that `name` gives."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} names no generator", hint=_FORM)
    package, _, attributes = name.partition(":")
    if package.endswith(".py") and Path(package).is_file():
        raise BadInput(
            f"{name}: {package} is a file's name, and no module's",
            hint=f"write {package.removesuffix('.py')}:{attributes}",
        )
    with _their_code(f"{name}: importing {package}"):
        found: object = importlib.import_module(package)
    for place, attribute in enumerate(attributes.split(".")):
        if not hasattr(found, attribute):
            where = ".".join([package, *attributes.split(".")[:place]])
            raise BadInput(f"{name}: {where} has no {attribute!r}", hint=_FORM)
        found = getattr(found, attribute)
    if not isinstance(found, nn.Module) and callable(found):
        with _their_code(f"{name}: calling it without arguments"):
            found = found()
    if not isinstance(found, nn.Module):
        raise BadInput(f"{name} gives a {type(found).__name__}, not a torch.nn.Module", hint=_FORM)
    return found


@contextlib.contextmanager
def _their_code(doing: str) -> Iterator[None]:
    """Run the user's code: the current folder importable, what it prints kept off stdout."""
    try:
        with importable_here(), contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise BadInput(f"{doing} failed: {type(error).__name__}: {reason}") from error


def _require_tensors(name: str, module: nn.Module) -> None:
    """Let a module through whose state is tensors that have their shapes.

    Raises:
        BadInput: it has a lazy layer, or state of another kind; names it.

    """
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise BadInput(
                f"{name}: its state dict holds {key!r}, a {type(value).__name__} and not a tensor",
                hint="leave get_extra_state out of what is exported",
            )
        if is_lazy(value):
            raise BadInput(
                f"{name}: tensor {key!r} has no shape yet",
                hint="run a lazy layer once, on a picture, in a function that makes the module",
            )


def _load(name: str, module: nn.Module, weights: Path) -> None:
    """Load a file of weights into a module, strictly."""
    try:
        load_strictly(weights, module, _as_named(_read(weights), module.state_dict()))
    except BadInput as error:
        # Of a checkpoint, which says what it is; this file says nothing.
        what = error.what.replace("is not the generator that it says", f"does not fit {name}")
        raise BadInput(what, hint=error.hint) from error


def _as_named(tensors: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as without torch.compile and DataParallel, but for a module with such names.

    A module that holds its network as `module`, as averages of weights do, has names like that.
    """
    names = dict(zip(without_compiled(state), state, strict=True))
    tensors = without_compiled(tensors)
    plain = without_parallel(tensors)
    own = any(name.startswith(PARALLEL) for name in names)
    found = tensors if own and set(plain) != set(names) else plain
    return {names.get(name, name): tensor for name, tensor in found.items()}


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights."""
    existing_file(path, "weights file")
    if path.suffix != ".safetensors":
        return read_tensors(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_pointer(path)
    try:
        with memory_told(f"read {path}"):
            return load_file(path)
    except (OSError, RuntimeError) as error:  # the system's, by the reader's libraries
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error


def _digest(name: str, module: nn.Module) -> str:
    """Return the SHA-256 of a module's state dict: names, shapes and numbers."""
    digest = hashlib.sha256()
    for key, tensor in module.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{name}: tensor {key!r} holds numbers that are not finite")
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
