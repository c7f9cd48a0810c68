"""A folder that nobody else can write to, files read from it without trusting them, and a lock per name.

What lies in such a folder may be executed later, so a link, another user's file or one that others could
have written is never followed or read.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poster_edge.errors import PosterEdgeError, UnavailableError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFileError(Exception):
    """A file is not what this process would have written; the message says why."""


def open_private(folder: Path, *, remedy: str) -> Path:
    """Make ``folder`` with mode 0700, or check that the one that is there is ours alone.

    A folder that others can only read is repaired; one that they can write to may already hold something
    of theirs and is refused.

    Args:
        folder: what is wanted.
        remedy: what the user can do about a folder that is refused; ends the message.

    Returns:
        The same folder.

    Raises:
        UnavailableError: it cannot be made, is a link or a file, belongs to another user, or is writable by others.
    """
    try:
        for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode):
            raise UnavailableError(f"{folder} is a link, not a folder of its own; {remedy}")
        if status.st_uid != os.geteuid():
            raise UnavailableError(f"{folder} belongs to user {status.st_uid}, not to {os.geteuid()}; {remedy}")
        if status.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(status.st_mode)
            raise UnavailableError(f"{folder}: others can write to it (mode {mode:04o}); remove it, or {remedy}")
        if stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be used: {error.strerror or error}; {remedy}") from error
    return folder


def read_private(path: Path, *, max_bytes: int | None = None) -> bytes:
    """Content of a regular file that belongs to this user and that nobody else can write to.

    What is returned is what was checked: the checks are made on the opened file.

    Raises:
        FileNotFoundError: there is none.
        UntrustedFileError: it is something else, or larger than ``max_bytes``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UntrustedFileError(f"cannot be opened ({error.strerror})") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UntrustedFileError("is no plain file")
    with os.fdopen(handle, "rb") as file:
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE or status.st_nlink != 1:
            raise UntrustedFileError("could have been written by somebody else")
        if max_bytes is not None and status.st_size > max_bytes:
            raise UntrustedFileError(f"has {status.st_size} bytes, more than {max_bytes}")
        try:
            return file.read()
        except OSError as error:
            raise UntrustedFileError(f"cannot be read ({error.strerror})") from error


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock whose file is ``path``; the kernel frees it when the holder ends in any way.

    Args:
        path: made when it is not there.
        waiting: called once when another process (or thread) holds the lock; None: do not wait.

    Yields:
        Whether the lock is held: False only where it was not waited for.

    Raises:
        PosterEdgeError: the lock's file cannot be made.
    """
    try:
        handle = _take(path, waiting)
    except OSError as error:
        raise PosterEdgeError(f"cannot lock {path}: {error.strerror or error}") from error
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _take(path: Path, waiting: Callable[[], None] | None) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    os.close(handle)
                    return None
                waiting()
                waiting = _said
                fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
        if _still_there(handle, path):
            return handle
        # Its holder removed the file before letting go: the lock is on a file that nobody else will find.
        os.close(handle)


def _said() -> None:
    """Waiting again, for a lock file that was replaced, is not worth a second message."""


def _still_there(handle: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False
