"""The command in a process that has torch already: the fork of one that waits for calls.

Of the seconds that a command takes on a small network most are imports: torch, and what
torch.export brings. They are the same in every call. So one process makes them, and forks for each
call; the package itself is imported by the command, in the fork, as ever. A call has streams, a
folder, an environment and an end of its own; only what Python and libraries do as they end is left
out. What looks at a start, or at processes that hash differently, takes `cold_cli`.

    python -ISu warm.py SOCKET ARGUMENTS    what a test starts: it asks for a fork and ends as that
    python -P warm.py --serve SOCKET        what forks, until its stdin is closed
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import NoReturn

COMMANDS = {"inspect", "materialize", "export", "verify", "evaluate", "train"}
"""Those that import torch: the others start sooner by themselves."""

# None starts a thread, which a fork would not have: ONNX Runtime does.
_PRELOADED = (
    "numpy", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin", "torch", "torch.export._trace", "torch.fx.experimental.validator",
    "torch._inductor.compiler_bisector", "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode", "safetensors.torch", "onnx", "flatbuffers",
    "ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated", "pydantic.main",
    "pydantic.functional_validators", "pydantic.json_schema", "pydantic.types", "rich.console",
    "rich.table",
)  # fmt: skip
# What Python and these libraries read as they start.
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "TZ",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "TORCH",
    "CUDA",
)
# But not this, which torch writes itself into the environment of every process that exports.
_WRITTEN_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"
_MOST_BYTES = 1 << 17


def starts_alike(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether a process starts in both environments as in each other."""
    first, second = (
        {
            name: value
            for name, value in each.items()
            if name.startswith(_READ_AT_START) and name != _WRITTEN_BY_TORCH
        }
        for each in (one, other)
    )
    return first == second


def call(path: str, arguments: list[str]) -> NoReturn:
    """Have the command called with this process's streams, folder and environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as fork:
        fork.connect(path)
        folder = os.open(".", os.O_RDONLY)
        what = json.dumps([arguments, dict(os.environ)]).encode()
        socket.send_fds(fork, [what], [0, 1, 2, folder])
        status = int(fork.recv(_MOST_BYTES) or b"70")
    if status < 0:  # as the shell and subprocess tell of a signal: by dying of it too
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(path: str) -> None:
    """Import what is heavy, then fork for every call."""
    import gc
    import importlib

    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection = listener.accept()[0]
            if not os.fork():
                os.close(listener.detach())
                _answer(connection)
                return
            connection.close()
            while _reaped():
                pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _answer(connection: socket.socket) -> None:
    """Fork once more, tell how that ends, and end it if nobody waits for it any more."""
    what, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 4)
    child = os.fork()
    if not child:
        connection.close()
        arguments, environment = json.loads(what)
        _command(arguments, environment, descriptors)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection.fileno()], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # of nobody who waits
        connection.send(str(status).encode())
    os._exit(0)


def _command(arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> NoReturn:
    os.fchdir(descriptors[3])
    for to, of in enumerate(descriptors[:3]):
        os.dup2(of, to)
    for of in descriptors:
        os.close(of)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    try:
        from coronet_deploy.__main__ import main

        status = main()
    except SystemExit as end:  # argparse's
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - the fork ends here, whatever it is
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined] # as the interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        call(sys.argv[1], sys.argv[2:])
