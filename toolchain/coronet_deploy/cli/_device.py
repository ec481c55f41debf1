"""The torch device that a command is told to compute on."""

from __future__ import annotations

from coronet_deploy.errors import BadInput


def usable_device(name: str) -> str:
    """Return `name`, the torch device that is from now on the one of its kind.

    Raises:
        BadInput: torch knows no such device, or cannot compute on it here.

    """
    import torch

    try:
        torch.ones(1, device=name).item()  # which "meta" has not
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # then come all devices there could be
        raise BadInput(f"--device {name}: torch cannot use it here: {reason}") from error
    if name.startswith("cuda"):  # so that nothing of this process lands on the first GPU
        torch.cuda.set_device(name)
    return name
