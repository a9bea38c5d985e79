"""A lock on a folder, so that no two processes write into it at once. It ends with the process that holds it."""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from npgpt.support.notices import notice

NAME = ".npgpt.lock"
# what a file system without locks answers, such as NFS without its lock service
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
TRIES = 20  # some file systems never give a file the same number twice, others never take one
FAR = 1 << 30  # the byte that is locked on Windows, where nobody may read a locked byte: far behind the owner's name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The folder is made if it is missing, and removed again if it is still empty then.

    Only writers need the lock; readers ignore it. Where the file system has no locks, a notice says so. Raises
    ValueError, with the folder and its owner, if another process or another block of this one holds the lock.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    descriptor = _acquire(folder)
    try:
        yield
    finally:
        _release(folder / NAME, descriptor)
        with suppress(OSError):  # one that is not empty stays, and so do those that it is in
            for path in made:
                path.rmdir()


def _acquire(folder: Path) -> int:
    """Return the descriptor of the locked file, which holds the number of this process and the machine's name."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # an owner has just removed the folder, or no file can be made there
            if left:
                continue
            raise
        try:
            _lock(descriptor, folder)
            if _is_still(descriptor, folder / NAME) or not left:
                with suppress(OSError):  # on a full disk the lock holds without a name
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise AssertionError("the last try returns or raises")


def _lock(descriptor: int, folder: Path) -> None:
    """Lock a file. Raises ValueError if somebody else has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            notice(f"{folder}: the file system has no locks; let only one process write to this folder")
        elif error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise ValueError(
                f"{folder}: {_owner(descriptor)} is writing to it; wait until it ends, or choose another folder"
            ) from None
        else:
            raise


def _owner(descriptor: int) -> str:
    """Return the words for the process that holds the lock, as the file names it."""
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        number, _, node = os.read(descriptor, 1000).decode(errors="replace").partition(" ")
        if number.isdecimal():
            return f"process {number}" + ("" if node == platform.node() else f" on {node}")
    return "another process"


def _is_still(descriptor: int, path: Path) -> bool:
    """Say whether a path still is the file that was opened. Its last owner may have removed it in between."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _release(path: Path, descriptor: int) -> None:
    """Remove the file, and unlock it. Windows can only remove what nobody has open: then the next owner will."""
    if sys.platform != "win32":
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)
    if sys.platform == "win32":
        with suppress(OSError):
            path.unlink()
