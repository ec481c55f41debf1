"""What an artifact is known by: what it says of itself, as its manifest does, and its layers."""

from __future__ import annotations

from pathlib import Path

from coronet_deploy.errors import BadInput, ConversionFailed
from coronet_deploy.export.manifest import Embedded, Manifest, first_difference, manifest_path
from coronet_deploy.verify.runtimes import open_session, runtime_of


def require_described(path: Path, manifest: Manifest) -> None:
    """Let an artifact through that its manifest describes: its embedded part, its picture's size.

    An artifact without an embedded part, which others wrote, is asked for the size alone.

    Raises:
        BadInput: they differ; names the first field that does.
        ConversionFailed: its runtime does not load the artifact.

    """
    with open_session(path, runtime_of(path), threads=1, optimize=False) as session:
        text, (_, *size, _) = session.metadata, session.input_shape
    embedded = Embedded.of_metadata(text) if text is not None else None
    field = first_difference(manifest, embedded) if embedded else None
    if field is None and manifest.size != tuple(size):
        field = "input.shape"
    if field is None and manifest.bytes != path.stat().st_size:
        field = "bytes"
    if field is not None:
        raise BadInput(
            f"manifest {manifest_path(path)}: {field!r} is not what {path.name} itself says",
            hint="export it again",
        )


def require_layers(path: Path, manifest: Manifest) -> None:
    """Let an artifact through whose values inside are named by the layers that make them.

    Raises:
        ConversionFailed: another converter wrote it; names that.

    """
    if manifest.converter != "coronet-deploy":
        raise ConversionFailed(
            f"{path} was written by {manifest.converter}, whose values are not named by layers"
        )
