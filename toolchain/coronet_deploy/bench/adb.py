"""Phones over adb: a thin client over the `adb` program.

    device = Device("R5CT30")
    result = device.shell(["sha256sum", path], seconds=10)

Commands are lists of arguments, results bytes; the exit status and the two streams of a command
on the phone come back apart (adb's shell protocol, version 2). Every call has a deadline, and what
it starts on the phone runs under the phone's own `timeout`, so that nothing survives there. A
phone that went away (`DeviceLost`) is told apart from a command that failed.

The adb server's address and the program's place are adb's own business: `ANDROID_ADB_SERVER_PORT`
and `ADB_SERVER_SOCKET` work as ever; `adb` is found on PATH, or in `ANDROID_HOME`'s platform-tools.
`ANDROID_SERIAL` redirects no call: each names its phone (`choose` reads it where none is named).
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coronet_deploy.bench.adb_errors import (
    AdbError,
    AdbFlood,
    AdbTimeout,
    DeviceLost,
    DeviceTooOld,
)
from coronet_deploy.bench.attached import (
    ABSENT,
    DEVICE,
    SHARED,
    TOO_OLD,
    Attached,
    advice_for,
)
from coronet_deploy.bench.moving import Moving
from coronet_deploy.bench.process import Ended, Limit, last_words, run_bounded
from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.storage import atomic_path

__all__ = [
    "AdbError", "AdbFlood", "AdbTimeout", "Device", "DeviceLost", "DeviceTooOld", "ShellResult",
    "call_adb", "find_adb", "list_devices", "local",
]  # fmt: skip

_QUICK_S = 15.0
_SERVER_START_S = 30.0
# How much later than the phone's own timeout ours rings: the phone's tells more.
_GRACE_S = 10.0
_ANSWER_S = 10.0
_KILLED_STATUS = 137
_TIMEOUT = ("timeout", "-s", "KILL")
# Some of Android's `timeout` give 127 for a command that ends at once, but not with this option,
# which older ones do not know.
_FOREGROUND_TIMEOUT = ("timeout", "--foreground", "-s", "KILL")
_NO_TIMEOUT = re.compile(rb"timeout: .*not found")
# A daemon that dies in the middle of a command makes the client end with status 0 or 255, as if
# the command had: only what the phone itself says afterwards is believed.
_TELL_STATUS = "; s=$?; echo @coronet-deploy $s >&2; exit $s"
# What a shell says of itself as it starts, on some phones to stdout, is no command's output.
_BEGIN, _BEGUN = "echo @coronet-deploy begins; ", b"@coronet-deploy begins\n"
_STATUS_TOLD = re.compile(rb"@coronet-deploy (\d+)\r?\n(?!.*@coronet-deploy )", re.DOTALL)
_VERSIONS = b"doesn't match this client"
_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class ShellResult:
    """What a command on the phone came to: its exit status and both streams."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode(errors="replace").strip()

    @property
    def complaint(self) -> str:
        """The last line it wrote to stderr, or else to stdout."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()]
        told = [line for line in lines if line.strip()]
        return told[-1].decode(errors="replace").strip() if told else "it printed nothing"


def find_adb() -> str:
    """Return the path of the adb program.

    Raises:
        EnvironmentProblem: there is none.

    """
    if found := shutil.which("adb"):
        return found
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        root = os.environ.get(variable)
        if root and (found := shutil.which("adb", path=str(Path(root) / "platform-tools"))):
            return found
    raise EnvironmentProblem(
        "the program adb is neither on PATH nor in ANDROID_HOME",
        hint="install Android's platform-tools",
    )


def list_devices() -> tuple[Attached, ...]:
    """Return the phones that the adb server knows, ready or not; starts the server if need be.

    Raises:
        EnvironmentProblem: adb is missing, or its server does not answer.

    """
    ended = call_adb(["devices"], seconds=_SERVER_START_S)
    found = []
    for line in ended.stdout.decode(errors="replace").splitlines():
        serial, tab, state = line.partition("\t")
        if tab:
            # "no permissions" is followed by reasons in parentheses or after a semicolon.
            found.append(Attached(serial.strip(), re.split(r"[;(]", state)[0].strip()))
    # Some makers give all their phones one serial; whatever adb is told for it, it refuses.
    counts = Counter(one.serial for one in found)
    return tuple(one if counts[one.serial] == 1 else replace(one, state=SHARED) for one in found)


def call_adb(arguments: Sequence[str], *, seconds: float) -> Ended:
    """Run `adb` with `arguments` (no phone's command) and return what it came to.

    Raises:
        AdbError: it failed or did not end in time.
        EnvironmentProblem: there is no adb.

    """
    command = [find_adb(), *arguments]
    ended = _start(command, seconds)
    if ended.status != 0:
        raise _error(AdbError, f"`adb {shlex.join(arguments)}` failed", command, None, ended)
    return ended


def local(path: Path) -> str:
    """Return a path here as adb takes it: one that begins with a dash is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


class Device:
    """One phone, by its serial. Its methods raise `DeviceLost` when it is not there (any more).

    No command on it goes on beyond `limit`.
    """

    dry = False
    """True for a phone that only says what it would be told (see `dryrun`)."""

    def __init__(self, serial: str, *, adb: str | None = None, limit: Limit | None = None) -> None:
        self.serial = serial
        self._adb, self._limit = adb or find_adb(), limit
        self._limiter: tuple[str, ...] = ()
        self.unsure = False
        """Whether the latest call was not answered, or not waited for (Ctrl-C)."""
        self.silent = False
        """Whether the phone was asked for a sign of life and gave none, nor any since."""

    @property
    def state(self) -> str:
        """How the adb server sees the phone now; `ABSENT` if it does not."""
        return next((one.state for one in list_devices() if one.serial == self.serial), ABSENT)

    def shell(
        self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
    ) -> ShellResult:
        """Run a command on the phone, at most `seconds`: `argv`, or a string for the phone's sh.

        Of a list nothing survives the deadline. Of a string, the shell does not, but what it
        started may: keep to a list for what runs long.

        Raises:
            DeviceLost: the phone went away, before or meanwhile.
            AdbTimeout: the command did not end in time.
            AdbError: the client failed; or, with `check`, the command did.

        """
        words = ["sh", "-c", argv] if isinstance(argv, str) else list(argv)
        limited = shlex.join([*self._timeout(), str(math.ceil(seconds)), *words])
        short = argv if isinstance(argv, str) else shlex.join(argv)
        # A phone whose network is gone is listed for minutes: each call would last to its deadline.
        if self.unsure:
            self._require_answer(short)
        start = time.monotonic()
        ended = self._call(["shell", _BEGIN + limited + _TELL_STATUS], seconds + _GRACE_S)
        ended = replace(ended, stdout=ended.stdout.rpartition(_BEGUN)[2])
        spent = time.monotonic() - start
        told = _STATUS_TOLD.search(ended.stderr)
        if told is None:
            self._require_here(short, ended)
            if ended.status is None:
                if self._limit is None or time.monotonic() < self._limit.end:
                    self._require_answer(short)
                raise self._failure(AdbTimeout, f"did not end in {seconds:g} s", short, ended)
            raise self._failure(DeviceLost, f"was cut short: {last_words(ended)}", short, ended)
        status = int(told[1])
        if status == _KILLED_STATUS and spent >= seconds:
            raise self._failure(AdbTimeout, f"did not end in {seconds:g} s", short, ended)
        stderr = ended.stderr[: told.start()] + ended.stderr[told.end() :]
        result = ShellResult(status, ended.stdout, stderr)
        if check and result.status != 0:
            what = f"ended with status {result.status}: {result.complaint}"
            own = replace(ended, status=status, stderr=stderr)
            raise self._failure(AdbError, what, short, own)
        return result

    def push(self, source: Path, target: str, *, seconds: float = math.inf) -> None:
        """Copy the file `source` to `target` on the phone. Not atomic: see `phone.Store`.

        Raises:
            DeviceLost: the phone went away.
            AdbError: it cannot be written there (no room, say), or not in time, or stands still.

        """
        size_mb = source.stat().st_size / 1e6 if source.exists() else 0.0
        moving = Moving(lambda left_s: self._size_there(target, left_s), size_mb)
        self._transfer(["push", local(source), target], f"push of {source.name}", seconds, moving)

    def pull(self, source: str, target: Path, *, seconds: float = math.inf) -> None:
        """Copy the file `source` on the phone to `target`, whole or not at all.

        Raises:
            DeviceLost: the phone went away.
            AdbError: there is no such file, or it cannot be read, or not in time.

        """
        with atomic_path(target) as here:
            moving = Moving(lambda _: here.stat().st_size if here.exists() else 0)
            self._transfer(["pull", source, str(here)], f"pull of {source}", seconds, moving)

    def properties(self) -> dict[str, str]:
        """Return Android's properties (`getprop`)."""
        listed = self.shell(["getprop"], seconds=_QUICK_S, check=True).stdout
        return dict(_PROPERTY.findall(listed.decode(errors="replace").replace("\r\n", "\n")))

    def read_text(self, path: str) -> str | None:
        """Return a file's text without the white space around it; None if it cannot be read."""
        result = self.shell(["cat", path], seconds=_QUICK_S)
        return result.text if result.status == 0 else None

    def _timeout(self) -> tuple[str, ...]:
        """Return how a command on this phone is kept to a time."""
        if self._limiter:
            return self._limiter
        probe = shlex.join([*_FOREGROUND_TIMEOUT, str(math.ceil(_QUICK_S)), "true"])
        ended = self._call(["shell", probe + _TELL_STATUS], _QUICK_S)
        told = _STATUS_TOLD.search(ended.stderr)
        for lacking, lacks in (
            (told is None and _STATUS_TOLD.search(ended.stdout), "tells no status of a command"),
            (told and _NO_TIMEOUT.search(ended.stderr), "has no `timeout`"),
        ):
            if lacking:
                what = f"phone {self.serial} {lacks}, as old ones"
                hint = advice_for(TOO_OLD, self.serial)
                raise DeviceTooOld(what, hint=hint, command=[probe], serial=self.serial)
        if told is None:
            self._require_here(probe, ended)
            raise self._failure(DeviceLost, f"was cut short: {last_words(ended)}", probe, ended)
        self._limiter = _FOREGROUND_TIMEOUT if int(told[1]) == 0 else _TIMEOUT
        return self._limiter

    def _call(
        self, arguments: Sequence[str], seconds: float, moving: Moving | None = None
    ) -> Ended:
        self.unsure = True
        ended = _start([self._adb, "-s", self.serial, *arguments], seconds, self._limit, moving)
        self.unsure = ended.status is None
        self.silent = self.silent and self.unsure
        return ended

    def _size_there(self, path: str, seconds: float) -> int | None:
        """Return the bytes of a file on the phone, 0 of none; None if it does not answer in time.

        May be asked while another call goes on.
        """
        word = shlex.quote(path)
        script = f"if [ -e {word} ]; then stat -c %s {word}; else echo 0; fi"
        ended = _start([self._adb, "-s", self.serial, "shell", script], seconds, self._limit)
        told = ended.stdout.split()[-1:]
        return int(told[0]) if ended.status == 0 and told and told[0].isdigit() else None

    def _transfer(
        self, arguments: Sequence[str], what: str, seconds: float, moving: Moving
    ) -> None:
        ended = self._call(arguments, seconds, moving)
        if ended.status is None:
            self._require_here(what, ended)
            self._require_answer(what)
            if moving.stopped:
                other = "try another cable, port or network"
                raise self._failure(AdbTimeout, str(moving), what, ended, other)
            raise self._failure(AdbTimeout, f"did not end in {seconds:g} s", what, ended)
        if ended.status != 0:
            self._require_here(what, ended)
            full = b"No space left" in ended.stdout + ended.stderr
            hint = "make room on the phone" if full else None
            raise self._failure(AdbError, f"failed: {last_words(ended)}", what, ended, hint)

    def _require_here(self, what: str, ended: Ended) -> None:
        """Tell a lost phone from a failed command by what the adb server says of it now."""
        state = self.state
        if state != DEVICE:
            told = f"phone {self.serial} is {state}: `{_short(what)}` was cut short"
            raise _error(
                DeviceLost,
                told,
                [self._adb, "-s", self.serial, what],
                self.serial,
                ended,
                advice_for(state, self.serial),
            )

    def _require_answer(self, what: str) -> None:
        """Tell a phone that is listed and answers nothing from one whose command takes too long."""
        ended = self._call(["shell", "true" + _TELL_STATUS], _ANSWER_S)
        if _STATUS_TOLD.search(ended.stderr) is None:
            self._require_here(what, ended)
            self.silent = True
            told = "was cut short: the phone does not answer"
            hint = advice_for(DEVICE, self.serial)
            raise self._failure(DeviceLost, told, what, ended, hint)

    def _failure(
        self, kind: type[AdbError], what: str, command: str, ended: Ended, hint: str | None = None
    ) -> AdbError:
        told = f"phone {self.serial}: `{_short(command)}` {what}"
        return kind(
            told,
            hint=hint,
            command=[self._adb, "-s", self.serial, command],
            serial=self.serial,
            status=ended.status,
            stdout=ended.stdout,
            stderr=ended.stderr,
        )


def _start(
    command: Sequence[str],
    seconds: float,
    limit: Limit | None = None,
    moving: Moving | None = None,
) -> Ended:
    try:
        ended = run_bounded(command, seconds, limit, moving.stands_still if moving else None)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot start {command[0]}: {error.strerror or error}",
            hint="install Android's platform-tools",
        ) from error
    if ended.flooded:
        raise _error(AdbFlood, "an adb call wrote without end", command, None, ended)
    return ended


def _error(
    kind: type[AdbError],
    what: str,
    command: Sequence[str],
    serial: str | None,
    ended: Ended,
    hint: str | None = None,
) -> AdbError:
    told = what if kind is DeviceLost else f"{what}: {last_words(ended)}"
    if hint is None and _VERSIONS in ended.stderr:
        hint = "two versions of adb fight for its server: keep one, see `which -a adb`"
    return kind(
        told,
        hint=hint,
        command=command,
        serial=serial,
        status=ended.status,
        stdout=ended.stdout,
        stderr=ended.stderr,
    )


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 100 else f"{line[:97]}..."  # noqa: PLR2004 - a line of a terminal
