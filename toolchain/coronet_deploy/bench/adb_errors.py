"""How a call of adb can fail: each error carries the call and all that came of it.

AdbError
├── DeviceLost     the phone is gone, or does not answer
├── DeviceTooOld   its Android lacks what every command needs
├── AdbTimeout     the phone is there, and the command did not end in time
└── AdbFlood       a call wrote without end
"""

from __future__ import annotations

from collections.abc import Sequence

from coronet_deploy.errors import EnvironmentProblem


class AdbError(EnvironmentProblem):
    """An adb call that did not do its work: carries the call and all that came of it.

    `status` is adb's exit status, None if it was stopped.
    """

    def __init__(
        self,
        what: str,
        *,
        hint: str | None = None,
        command: Sequence[str] = (),
        serial: str | None = None,
        status: int | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
    ) -> None:
        super().__init__(what, hint=hint)
        self.command = tuple(command)
        self.serial = serial
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


class DeviceLost(AdbError):
    """The phone is gone, not ready or does not answer: a command's own result is not known."""


class DeviceTooOld(AdbError):
    """The phone answers, and its Android lacks what every command here needs."""


class AdbTimeout(AdbError):
    """The phone is there, but the command did not end in time; it has been killed."""


class AdbFlood(AdbError):
    """A call wrote more than is kept of any (`process.OUTPUT_MOST_BYTES`); it has been killed."""
