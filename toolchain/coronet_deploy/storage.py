"""Files on disk: written whole or not at all, hashed, and found in the checkout or the wheel."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from coronet_deploy.errors import BadInput, EnvironmentProblem

DEEPEST = 500
"""How deep JSON may be nested: what writes ours needs six levels."""

_CHUNK = 1 << 20
_TEMPORARY_BYTES = 1 << 14  # of what a launch answers
_NAME_KEPT = 40  # characters, of at most four bytes: a name may have 255
_HOST = os.uname().nodename  # of at most 64 bytes
# As `_temporary_name` makes them, with whose they are.
_TEMPORARY = re.compile(r"\..+@(.+)\.\d+-[0-9a-f]{8}\.tmp", re.DOTALL)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed and becomes `path`.

    A file, or what a link at `path` leads to, is replaced by a rename in its folder and keeps its
    mode. A device, a pipe or a socket stays what it is, and is given the bytes. On any exception,
    Ctrl-C included, the temporary file is removed and `path` is as it was. What writers that were
    killed left in the folder is removed. The temporary file is there already, empty and held by a
    lock, which what is put in its place has not.

    Raises:
        EnvironmentProblem: the folder cannot be made, `path` is a folder, or the disk refuses the
            bytes.

    """
    if not path.name:  # as of "." and "/"
        raise EnvironmentProblem(f"cannot write {path}: it is a folder", hint="name a file")
    target = Path(os.path.realpath(path))
    names = {str(path), str(target), *map(str, path.parents), *map(str, target.parents)}
    try:
        mode = _mode_at(path)
        if mode is not None and stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with contextlib.ExitStack() as stack:
            if mode is None or stat.S_ISREG(mode):
                target.parent.mkdir(parents=True, exist_ok=True)
                folder = target.parent
                remove_leftovers(folder)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            while True:
                temporary = folder / _temporary_name(path)
                names.add(str(temporary))
                stack.callback(_remove, temporary)
                stack.enter_context(_made(temporary))
                if os.path.lexists(temporary):  # else a neighbour took it for left over just then
                    break
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            _become(temporary, path, target, mode)
    except OSError as error:
        # An error that names another file (one being read, say) is not about this output.
        if error.filename is not None and str(error.filename) not in names:
            raise
        reason = error.strerror or str(error)
        raise EnvironmentProblem(
            f"cannot write {path}: {reason}", hint="choose another place or make room"
        ) from error


def _become(temporary: Path, path: Path, target: Path, mode: int | None) -> None:
    """Let the file `temporary` replace `target`, or give its bytes to what is no file at `path`."""
    if mode is None or stat.S_ISREG(mode):
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)
        return
    # Neither made nor cut: both are for files. A pipe waits here for its reader.
    with temporary.open("rb") as file, open(os.open(path, os.O_WRONLY), "wb") as node:  # noqa: PTH123 - made by `open`, what is no file could become one
        shutil.copyfileobj(file, node)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _temporary_name(path: Path) -> str:
    """Return a name for a neighbour of `path` that is not too long where its own is not."""
    return f".{path.name[:_NAME_KEPT]}@{_HOST}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _made(temporary: Path) -> Iterator[None]:
    """Make a temporary file and hold it by a lock, which tells neighbours that its writer lives."""
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        # Where there are no locks, no neighbour gets one either, and the file stays.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, *, held: bool = False) -> None:
    """Remove what `atomic_path` left in `folder` of writers that were killed: no lock is on it.

    A lock need not tell of other hosts, so theirs stay, unless the folder is `held` (`exclusive`).
    """
    with contextlib.suppress(OSError):  # a folder that can be written, and not be listed
        for name in os.listdir(folder):  # noqa: PTH208 - Path.iterdir makes a path of each
            theirs = _TEMPORARY.fullmatch(name)
            if theirs and (held or theirs[1] == _HOST):
                with contextlib.suppress(OSError):
                    _remove_unheld(folder / name)


def _remove_unheld(left: Path) -> None:
    """Remove a temporary file that nobody holds.

    Raises:
        OSError: somebody does, or whether they do is not to be found out.

    """
    # For writing: NFS gives no lock to a handle that only reads.
    handle = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(left)
    finally:
        os.close(handle)


def _mode_at(path: Path) -> int | None:
    """Return what kind of file is at `path` or where it links to, None if there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all (see `atomic_path`)."""
    write_bytes(path, text.encode())


def try_writing(path: Path) -> None:
    """Find out whether a file can be written to `path`; neither it nor a folder is made.

    Raises:
        OSError: it cannot.

    """
    mode = _mode_at(path)
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    target = Path(os.path.realpath(path))
    folder = next(one for one in target.parents if os.path.lexists(one))
    for name in target.relative_to(folder).parts:  # behind a folder to be made nobody looked
        _mode_at(folder / name)
    with tempfile.TemporaryFile(dir=folder):
        pass


def require_writable(path: Path) -> None:
    """Let the place of a file through, before there is anything to write (see `try_writing`).

    Raises:
        EnvironmentProblem: it cannot be written.

    """
    try:
        try_writing(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path}: {error.strerror}", hint="choose another place"
        ) from error


def require_temporary() -> None:
    """Let a system through that takes temporary files, before a library or a launch needs them.

    Raises:
        EnvironmentProblem: it takes none, or not one of some size.

    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_TEMPORARY_BYTES))
            file.flush()
    except OSError as error:
        raise EnvironmentProblem(
            f"temporary files cannot be written: {error.strerror}",
            hint="make room, or name another folder by TMPDIR",
        ) from error


def require_file_name(path: Path, flag: str) -> None:
    """Let an output through that can be a file, before there is anything to write.

    Raises:
        BadInput: it is a folder, or what elsewhere stands for stdout; names the flag.

    """
    if str(path) == "-":
        raise BadInput(
            f"{flag} -: no file of that name is written", hint="stdout is called /dev/stdout"
        )
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises of a name that is too long
        raise BadInput(f"{flag} {path} is a folder", hint="name a file")


def require_apart(path: Path, flag: str, inputs: Iterable[Path]) -> None:
    """Let an output through that would replace none of the files that are read.

    Raises:
        BadInput: it is one of `inputs`, by whatever name; names the flag.

    """
    place = os.path.realpath(path)
    # What is no file, such as a terminal, can be read and written.
    if os.path.isfile(path) and any(os.path.realpath(one) == place for one in inputs):  # noqa: PTH113 - as above
        raise BadInput(
            f"{flag} {path} is a file that is read, and would be lost", hint="name another file"
        )


def require_utf8(name: str, use: str = "no run file can hold it") -> None:
    """Let a file's name through that JSON, or another `use`, can take.

    Raises:
        BadInput: it is not UTF-8.

    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"the name {os.fsencode(name)!r} is not UTF-8, and {use}",
            hint="rename it",
        ) from error


def plain_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return what JSON text holds.

    Raises:
        ValueError: it is not whole JSON.
        RecursionError: it is nested deeper than `DEEPEST`; each Python has another limit itself.

    """
    plain = json.loads(text)
    level = [plain] if isinstance(plain, dict | list) else []
    for _ in range(DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [x for values in inside for x in values if isinstance(x, dict | list)]
        if not level:
            return plain
    raise RecursionError


def json_value(text: str | bytes, key: str) -> object:
    """Return what a JSON object holds under `key`, None if it has none or the text is no such."""
    try:
        plain = plain_json(text)
    except (ValueError, RecursionError):
        return None
    return plain.get(key) if isinstance(plain, dict) else None


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def existing_file(path: Path, what: str, hint: str | None = None) -> Path:
    """Return `path` if it is a readable file; `hint` says where to get one that is missing.

    Raises:
        BadInput: it is missing, a folder, or not readable; `what` names its role.

    """
    mode = _mode_of(path, what)
    if mode is None:
        raise BadInput(f"{what} {path} does not exist", hint=hint)
    if not stat.S_ISREG(mode):
        raise BadInput(f"{what} {path} is not a file")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{what} {path} cannot be read: permission denied")
    return path


def is_folder(path: Path, what: str = "folder") -> bool:
    """Return whether `path` is a folder; what is missing is none.

    Raises:
        BadInput: it cannot be looked at; `what` names its role.

    """
    mode = _mode_of(path, what)
    return mode is not None and stat.S_ISDIR(mode)


def files_in(folder: Path, suffixes: Collection[str], what: str = "folder") -> list[Path]:
    """Return the files of a folder whose names end in one of `suffixes`, by name.

    Hidden ones are none: macOS leaves "._net.onnx" beside net.onnx on disks of others.

    Raises:
        BadInput: it has none, or cannot be read; `what` names its role.

    """
    with readable(f"{what} {folder}"):
        files = [one for one in folder.iterdir() if one.suffix in suffixes and one.is_file()]
    found = sorted(one for one in files if not one.name.startswith("."))
    if not found:
        raise BadInput(f"{what} {folder} holds no {' or '.join(suffixes)} file")
    return found


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what goes wrong when the input `what` is looked at or listed into an error of the input.

    Raises:
        BadInput: it cannot be read; says why.

    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{what} cannot be read: {reason[:1].lower()}{reason[1:]}") from error


def _mode_of(path: Path, what: str) -> int | None:
    """Return what kind of file `path` is, None if there is none.

    Not by `Path.exists` and its like: before Python 3.14 they raise of a folder that is closed to
    us and of a name that is too long, and from then on they call both missing.
    """
    with readable(f"{what} {path}"):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def data_dir(kind: str) -> Path:
    """Return the folder of shipped data `kind`: "models", "device_profiles" or "android_bench".

    In a checkout that is the repository's folder; in an installed wheel the packaged copy.
    """
    package = Path(__file__).resolve().parent
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent.parent / kind
