"""What two rows must share before their times may be set side by side.

A row's time depends on more than its artifact: the machine, its software, and what was asked of
it. Those *set-up* fields are kept flat and by name, so that a difference can be told by name, and
hashed, so that a history can be looked up by it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from coronet_deploy.vocabulary import Launch, Run, Runtime, Target

SAME_CONDITIONS = (
    "device",
    "serial",
    "fingerprint",
    "cpu",
    "architecture",
    "cores_allowed",
    "virtual_machine",
    "governor",
    "max_mhz",
    "kernel",
    "system",
    "python",
)
SAME_SETTINGS = ("samples", "seconds", "mask")
_RUNTIMES = {"onnxruntime": Runtime.ONNX.value, "ai-edge-litert": Runtime.TFLITE.value}

Setup = Mapping[str, str]
"""Set-up fields by name ("cpu", "setting samples", "version of onnxruntime"), values as JSON."""


@dataclass(frozen=True)
class Key:
    """One line of history: an artifact's name on a target, under one set-up.

    `setup` is the hash of the set-up fields (`setup_hash`). With `artifact_sha256` the history is
    that of one file; without, that of whatever file bore the name.
    """

    artifact: str
    target: Target
    setup: str
    artifact_sha256: str | None = None


def setup_of(run: Run, launches: Sequence[Launch]) -> Setup:
    """Return the set-up that `launches`, one artifact's on one target in `run`, ran under.

    A new ONNX Runtime does not end the history of a TFLite file, nor the other way round.
    """
    used: dict[str, object] = {}
    for launch in launches:
        own = launch.details.get("tools")
        used.update(own if isinstance(own, Mapping) else {})
    used = used or dict(run.tools)
    runtime = run.artifacts.get(launches[0].artifact, {}).get("runtime")
    for package, format_ in _RUNTIMES.items():
        if runtime in _RUNTIMES.values() and runtime != format_:
            used.pop(package, None)
    settings = run.conditions.get("settings")
    asked = settings if isinstance(settings, Mapping) else {}
    fields: dict[str, object] = {"emulated": run.emulated}
    fields |= {name: run.conditions.get(name) for name in SAME_CONDITIONS}
    fields |= {f"setting {name}": asked.get(name) for name in SAME_SETTINGS}
    fields |= options_of(run, launches)
    fields |= {f"version of {name}": version for name, version in used.items()}
    return {
        name: json.dumps(value, sort_keys=True, ensure_ascii=False)
        for name, value in sorted(fields.items())
        if value is not None
    }


def options_of(run: Run, launches: Iterable[Launch]) -> dict[str, object]:
    """Return the options (`--backend-option`) of the back ends that `launches` ran on, by name."""
    kit = run.conditions.get("kit")
    given = kit if isinstance(kit, Mapping) else {}
    # "gpu+cpu" and "gpu, benchmark_model" are rows of one back end.
    backends = {re.split("[+,]", one.target.backend)[0] for one in launches}
    names = (f"backend-option {one}" for one in sorted(backends))
    return {name: given[name] for name in names if name in given}


def setup_hash(setup: Setup) -> str:
    """Return the SHA-256 of a set-up's fields, 64 hex digits."""
    text = json.dumps(dict(setup), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: Setup, other: Setup) -> Sequence[str]:
    """Return a phrase for each field that differs: "kernel: 6.1 and 6.8"."""
    return tuple(
        f"{name}: {_plain(one.get(name))} and {_plain(other.get(name))}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    )


def _plain(value: str | None) -> str:
    return "nothing" if value is None else str(json.loads(value))
