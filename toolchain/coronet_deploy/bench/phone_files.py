"""Our files on a phone: one folder, everything in it by content, nothing in it half-written.

    store = PhoneFiles(device)
    with store.session():
        runner = store.put(Path("coronet-runner"))

A file goes to `files/<hash>/<name>`, under a name of its own until the phone has confirmed its
SHA-256: a push that was cut short is never used, and a file that is there already is not pushed
again, once its hash has been confirmed anew. What a bench did not use is removed, so the folder
does not grow; `work/`, where launches write, lives as long as a session.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from coronet_deploy.bench.adb import AdbError, Device
from coronet_deploy.storage import existing_file, sha256_of

ROOT = "/data/local/tmp/coronet-deploy"
"""The only folder we write to on a phone."""

_FILES, _WORK = f"{ROOT}/files", f"{ROOT}/work"
_QUICK_S = 20.0
# The slowest phones hash 100 MB a second; a runtime library is 30 MB.
_HASH_S = 60.0
_HASH_DIGITS = 16


class PhoneFiles:
    """The files of one bench on one phone."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: dict[str, Path] = {}

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Have an empty work folder and no process of an earlier bench; leave neither behind.

        The caller holds the phone's lock, so whatever runs from our folder is a left-over.
        """
        self.begin()
        try:
            yield
        finally:
            # A phone that is gone is as clean as it gets; who ended the bench does not wait for it.
            if not self._device.silent:
                with contextlib.suppress(AdbError):
                    self.end()

    def begin(self) -> None:
        """End what an earlier bench left running, and start with an empty work folder."""
        self.stop_leftovers()
        self._shell(f"rm -rf {_WORK} && mkdir -p {_WORK} {_FILES}")

    def end(self) -> None:
        """Leave only the files that were used, and nothing running."""
        self.stop_leftovers()
        kept = " ".join(f"! -path {shlex.quote(path)}" for path in self._kept)
        self._shell(
            f"rm -rf {_WORK}; find {_FILES} -type f {kept} -delete; "
            f"rmdir {_FILES}/* 2>/dev/null; true"
        )

    def remove(self) -> None:
        """Remove everything of ours from the phone."""
        self.stop_leftovers()
        self._shell(f"rm -rf {_WORK} {_FILES}")
        self._kept.clear()

    def stop_leftovers(self) -> None:
        """Kill every process that runs a file of ours."""
        # The brackets keep the pattern from matching the command that holds it. Not `pkill`:
        # Android's versions of it do not agree on how a signal is named.
        self._device.shell(
            f"for f in $(grep -ls '[/]{_FILES[1:]}/' /proc/[0-9]*/cmdline); do "
            "f=${f#/proc/}; kill -KILL ${f%/cmdline}; done; true",
            seconds=_QUICK_S,
        )

    def work_path(self, name: str) -> str:
        """Return the path of a file in the work folder."""
        return f"{_WORK}/{name}"

    def put(self, path: Path) -> str:
        """Return where the file `path` stands on the phone, pushing it if it does not yet.

        Raises:
            BadInput: there is no such file.
            AdbError: there is no room for it, or what arrived is not what was sent, twice, or the
                phone went away (`DeviceLost`).

        """
        existing_file(path, "file")
        digest = sha256_of(path)
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", path.name)
        folder = f"{_FILES}/{digest[:_HASH_DIGITS]}"
        target = f"{folder}/{name}"
        self._kept[target] = path
        if self._hash(target) != digest:
            self._push(path, digest, folder, target)
        return target

    def put_again(self) -> None:
        """Make sure of all files: after a phone was away, it may have been wiped or swapped."""
        self.begin()
        for path in list(self._kept.values()):
            self.put(path)

    def _push(self, path: Path, digest: str, folder: str, target: str) -> None:
        partial = f"{target}.part"
        self._shell(f"mkdir -p {folder}")
        try:
            for _ in range(2):
                self._device.push(path, partial)
                if self._hash(partial) == digest or self._device.dry:
                    self._shell(f"chmod 755 {partial} && mv -f {partial} {target}")
                    return
        except AdbError:
            with contextlib.suppress(AdbError):
                self._shell(f"rm -f {partial}")
            raise
        self._shell(f"rm -f {partial}")
        raise AdbError(
            f"phone {self._device.serial}: {path.name} arrived damaged, twice",
            hint="try another cable or port",
            serial=self._device.serial,
        )

    def _hash(self, path: str) -> str:
        return self._device.shell(["sha256sum", path], seconds=_HASH_S).text.partition(" ")[0]

    def _shell(self, script: str) -> None:
        self._device.shell(script, seconds=_QUICK_S, check=True)
