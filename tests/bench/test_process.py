"""A program that is waited for: Ctrl-C at any moment of that leaves nobody waiting for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.launch import Labels, launch
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.process import has_ended, run_bounded
from coronet_deploy.vocabulary import Target
from virtual_phone import VirtualPhone


class _Interrupted:
    """The lock that Popen takes to look at its process, with Ctrl-C as soon as it is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool) -> bool:
        if not self._lock.acquire(blocking):
            return False
        raise KeyboardInterrupt

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        assert self._lock.acquire(blocking=False), "whoever waits now waits for ever"

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Popen(subprocess.Popen[bytes]):
    def __init__(self, command: Sequence[str], **options: Any) -> None:
        super().__init__(command, **options)
        self._waitpid_lock = _Interrupted()


def test_a_program_is_waited_for_without_what_ctrl_c_could_leave_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _Popen)
    code = "import time; time.sleep(0.3); print('{\"samples_ms\": [1.5]}')"
    worker = (sys.executable, "-c", code)
    ended = run_bounded(worker, 20)
    assert (ended.status, ended.stdout) == (0, b'{"samples_ms": [1.5]}\n')
    made = launch(
        Labels("x", "a" * 64, Target("host", "cpu", 1), 0), (), deadline_s=20, worker=worker
    )
    assert made.samples_ms == (1.5,)
    assert run_bounded(("sleep", "30"), 0.3).status is None


def test_a_phone_is_let_go_of_without_what_ctrl_c_could_leave_locked(
    phone: VirtualPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", _Popen)
        lock = PhoneLock(Device(phone.serial))
        with lock:
            assert not lock.lost
        with lock:
            pass


def test_a_process_that_was_waited_for_elsewhere_has_ended() -> None:
    with subprocess.Popen(("sleep", "30")) as process:
        assert not has_ended(process, 0.02)
        process.kill()
        assert has_ended(process, 20)
        assert process.returncode == -9
    with subprocess.Popen(("true",)) as process:
        os.waitpid(process.pid, 0)
        assert has_ended(process)
