"""One bench on a phone at a time: two would measure each other.

Two locks, both of which die with their holder, so that neither can be stale: one on this
computer's disk, and one on the phone, against other computers (a phone on the network, or one that
was plugged over). The phone's is `flock` held by a shell there that waits for its input to end: it
does when our adb client ends, however that comes about, or when the phone's daemon does.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from coronet_deploy.bench.adb import AdbError, Device, DeviceLost, find_adb
from coronet_deploy.bench.attached import DEVICE, advice_for
from coronet_deploy.bench.phone_files import ROOT
from coronet_deploy.bench.process import has_ended
from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.locks import InUse, exclusive

_ANSWER_S = 15.0
_END_S = 3.0
_RENEW_S = 15.0
_AGAIN_S = 0.2
UNDO = f"{ROOT}/undo"
"""What the phone runs once the bench that holds it is gone, if the bench left it behind."""

_HELD, _TAKEN, _UNLOCKABLE = "held", "taken", "unlockable"
# What lines of the adb client, not of the phone, begin with.
_ADBS_OWN = ("error:", "adb:", "*", "-")
# `9>&9` hands the shell's own descriptor on: Android's shell keeps it from children otherwise, and
# a lock belongs to the open file, whichever process took it.
_SCRIPT = f"""mkdir -p {ROOT} && cd {ROOT} && exec 9>>lock || exit 1
flock -n 9 9>&9
case $? in
0) echo $$ > holder; echo "$OWNER" > owner; echo {_HELD}; cat > /dev/null
   test -f undo && sh undo; rm -f undo owner holder;;
1) echo {_TAKEN} "$(cat owner)";;
*) echo {_UNLOCKABLE};;
esac"""
# What holds the lock is the first of a process group of its own.
_FREE = f"kill -KILL -- -$(cat {ROOT}/holder)"


class PhoneTaken(AdbError):
    """Another bench holds the phone: `owner` says who, "user@host process 12"."""

    def __init__(self, serial: str, owner: str) -> None:
        super().__init__(
            f"phone {serial} is in use by another bench: {owner or 'unknown'}",
            hint="wait for it, or use another phone",
            serial=serial,
        )
        self.owner = owner


class PhoneLock:
    """A context that holds a phone for this process alone.

    Entering raises EnvironmentProblem if somebody else holds it, and says who.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._owner = f"{_user()}@{socket.gethostname()} process {os.getpid()}"
        self._stack = contextlib.ExitStack()
        self._holder: subprocess.Popen[bytes] | None = None
        self._lapsed = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_this_computer(self._device.serial))
            stack.callback(self._release)
            self._take()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def lost(self) -> bool:
        """Whether the phone let go of its lock meanwhile, as when its daemon started anew."""
        return self._lapsed or (self._holder is not None and has_ended(self._holder))

    def require(self) -> None:
        """Raise DeviceLost where a connection was cut between two calls: another may be in."""
        if self.lost:
            raise DeviceLost(
                f"phone {self._device.serial} ended what held it for this bench",
                hint="was adb's server or the phone's daemon started anew?",
                serial=self._device.serial,
            )

    def renew(self) -> None:
        """Take the phone's lock again after the phone was away.

        That freed it, or not yet: where only the connection was lost, the phone may be the last to
        notice, and what held the lock for us holds it still. It is ended.
        """
        self._lapsed = True
        self._release()
        end = time.monotonic() + _RENEW_S
        while True:
            try:
                self._take()
            except PhoneTaken as taken:
                if taken.owner != self._owner or time.monotonic() >= end:
                    raise
            else:
                self._lapsed = False
                return
            self._device.shell(_FREE, seconds=_ANSWER_S)
            time.sleep(_AGAIN_S)

    def _take(self) -> None:
        if self._device.dry:
            self._device.shell(f"flock {ROOT}/lock", seconds=_ANSWER_S)
            return
        script = f"OWNER={shlex.quote(self._owner)}\n{_SCRIPT}"
        self._holder = subprocess.Popen(
            [find_adb(), "-s", self._device.serial, "shell", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        word, _, rest = self._answer().partition(" ")
        if word == _HELD:
            return
        self._release()
        if word == _UNLOCKABLE:  # a phone without flock has this computer's lock alone
            return
        if word == _TAKEN:
            raise PhoneTaken(self._device.serial, rest)
        from_adb = word in _ADBS_OWN or (word, rest) == ("no", "answer")
        if from_adb and (state := self._device.state) != DEVICE:
            raise DeviceLost(
                f"phone {self._device.serial} is {state}: {word} {rest}".strip(),
                hint=advice_for(state, self._device.serial),
                serial=self._device.serial,
            )
        full = "No space left" in f"{word} {rest}"
        raise AdbError(
            f"phone {self._device.serial} cannot be locked: {word} {rest}".strip(),
            hint="make room on the phone" if full else f"can the shell user write to {ROOT}?",
            serial=self._device.serial,
        )

    def _answer(self) -> str:
        """Return the line that the phone answers, or the last of what came instead.

        The adb client may have lines of its own to say first, as when it starts its server.
        """
        assert self._holder is not None  # noqa: S101 - just started
        assert self._holder.stdout is not None  # noqa: S101 - asked for
        answer = b""
        end = time.monotonic() + _ANSWER_S
        while not (told := _told(answer)) and (left := end - time.monotonic()) > 0:
            if not select.select([self._holder.stdout], [], [], left)[0]:
                break
            chunk = os.read(self._holder.stdout.fileno(), 4096)
            if not chunk:
                break
            answer += chunk
        lines = answer.decode(errors="replace").split("\n")
        return told or next((one.strip() for one in lines[::-1] if one.strip()), "no answer")

    def _release(self) -> None:
        holder, self._holder = self._holder, None
        if holder is None:
            return
        with holder:  # closes its input: the shell on the phone ends, and adb with it
            if holder.stdin is not None:
                with contextlib.suppress(OSError):
                    holder.stdin.close()
            if not has_ended(holder, _END_S):
                os.kill(holder.pid, signal.SIGKILL)


def _told(answer: bytes) -> str | None:
    """Return the first whole line that is the phone's own answer."""
    *lines, _ = answer.decode(errors="replace").split("\n")
    known = (one.strip() for one in lines if one.startswith((_HELD, _TAKEN, _UNLOCKABLE)))
    return next(known, None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container need not have a name
        return f"uid {os.getuid()}"


@contextlib.contextmanager
def _this_computer(serial: str) -> Iterator[None]:
    name = hashlib.sha256(serial.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"coronet-deploy-{os.getuid()}" / name
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder))
        except InUse as error:
            raise EnvironmentProblem(
                f"phone {serial} is in use by another bench on this computer",
                hint="wait for it, or use another phone",
            ) from error
        except EnvironmentProblem as error:
            raise EnvironmentProblem(error.what, hint="name another folder by TMPDIR") from error
        yield
