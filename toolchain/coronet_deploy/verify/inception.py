"""The Inception network that FID and KID are defined over, through torch-fidelity.

That package has the network as TensorFlow ran it in 2015, pooling, resizing and all, which the
published figures depend on. Its weights are given by path: nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.errors import BadInput, EnvironmentProblem, missing_package
from coronet_deploy.images import Pixels
from coronet_deploy.storage import existing_file, sha256_of
from coronet_deploy.verify.distances import Features
from coronet_deploy.verify.features import read_tensors

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
"""Where the weights come from that published figures were measured with."""

_LAYER = "2048"


class Inception:
    """Inception v3 up to its last pooling, 2048 numbers a picture."""

    names = ("FID", "KID")
    dimensions = 2048

    def __init__(self, path: Path, tensors: dict[str, Tensor], device: str = "cpu") -> None:
        extractor = _extractor_class()
        self.path, self.sha256, self._device = path, sha256_of(path), device
        with tempfile.TemporaryDirectory() as folder:
            # The package unpickles whatever file it is given, so it is given tensors alone.
            safe = Path(folder) / "inception.pth"
            torch.save(tensors, safe)
            try:
                self._network = extractor(
                    "inception-v3-compat", [_LAYER], feature_extractor_weights_path=str(safe)
                )
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise BadInput(f"{path} is not the Inception network of FID: {reason}") from error
        self._network.to(device)

    def features(self, pixels: Pixels) -> Features:
        """Return the (2048,) float64 features of (H, W, 3) pixels, RGB."""
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        with torch.inference_mode():
            numbers: Tensor = self._network(x.to(self._device))[0]
        return numbers[0].cpu().double().numpy()


def _extractor_class() -> Any:  # noqa: ANN401 - the package ships no types
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch-fidelity", "fid") from error
    except (ImportError, RuntimeError) as error:
        # It imports torchvision, whose operators are compiled for one build of torch.
        raise EnvironmentProblem(
            f"the package 'torch-fidelity' does not load: {str(error)[:120]}",
            hint="install the torchvision that was built for this torch",
        ) from error
    return FeatureExtractorInceptionV3


def read_inception(path: Path, device: str = "cpu") -> Inception:
    """Return the Inception network whose weights stand in a `.pth` or safetensors file.

    They are those of torch-fidelity's `weights-inception-2015-12-05`, by its layer names.

    Raises:
        BadInput: the file is missing, not whole, holds more than tensors, or other layers.
        EnvironmentProblem: torch-fidelity is not installed.

    """
    existing_file(path, "feature network", hint=f"download {WEIGHTS_URL}")
    if path.suffix == ".safetensors":
        return Inception(path, read_tensors(path), device)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise nearly anything over broken bytes
        # torch's own words advise to open the file in the way that runs what is in it.
        raise BadInput(
            f"{path} is not a whole torch file of tensors and nothing else", hint="it is not opened"
        ) from error
    if not isinstance(tensors, dict):
        raise BadInput(f"{path} is not a state_dict of tensors")
    return Inception(path, tensors, device)
