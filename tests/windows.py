"""A layer that forbids what Windows forbids, and a script that runs commands of npgpt on it: windows.py COMMANDS.json.

No machine of CI runs Windows for every change. So here the functions that differ are replaced by ones that fail as
those of Windows do: what is missing there is missing, a file that is open can be neither renamed nor removed, a
descriptor that only reads cannot be flushed, a folder cannot be opened, names have forbidden characters, and text has
no UTF-8 unless it is asked for.
"""

import builtins
import io
import json
import mmap  # noqa: F401, this and the next are imported before the platform changes
import os
import re
import shutil
import signal
import subprocess  # noqa: F401
import sys
import tempfile
import types

MISSING = {
    os: "getuid geteuid getgid fork uname mkfifo chown fchown sched_getaffinity getloadavg statvfs setsid killpg wait",
    signal: "SIGHUP SIGKILL SIGQUIT SIGALRM SIGUSR1 SIGPIPE alarm setitimer pthread_sigmask sigwait",
}
MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "pty", "tty", "posix_ipc")
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def install() -> None:
    """Replace what differs, for the rest of this process."""
    import fcntl

    import threadpoolctl

    # it asks the system for its libraries in another way on Windows
    threadpoolctl.sys = types.SimpleNamespace(**{**vars(sys), "platform": sys.platform})
    plain = types.SimpleNamespace(
        **{name: getattr(os, name) for name in ("open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir")},
        io_open=io.open,
    )

    def require_name(path: object) -> None:
        for part in re.split(r"/", os.fsdecode(path)):  # type: ignore[arg-type]
            if part not in ("", ".", "..") and FORBIDDEN.search(part):
                raise OSError(22, "Invalid argument", os.fsdecode(path))  # type: ignore[arg-type]

    def require_closed(path: object) -> None:
        """Raise what Windows raises for a file that is open, or mapped into memory, in this process."""
        try:
            wanted = os.stat(path)  # type: ignore[arg-type]
        except OSError:
            return
        for number in os.listdir("/proc/self/fd"):
            try:
                found = os.fstat(int(number))
            except OSError:
                continue
            if os.path.samestat(wanted, found):
                raise PermissionError(13, "The process cannot access the file: it is open", os.fsdecode(path))  # type: ignore[arg-type]
        with plain.io_open("/proc/self/maps", encoding="utf-8") as file:
            mapped = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if line.count(" ") > 5}
        if os.path.realpath(path) in mapped:  # type: ignore[type-var]
            raise PermissionError(13, "The process cannot access the file: it is mapped", os.fsdecode(path))  # type: ignore[arg-type]

    def os_open(path, flags, mode=0o777, **options):
        if os.path.isdir(path) and not str(path).startswith("/proc"):
            raise PermissionError(13, "Permission denied", os.fsdecode(path))
        if flags & os.O_CREAT:
            require_name(path)
        return plain.open(path, flags, mode, **options)

    def io_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not isinstance(file, int) and opener is None:  # with one, tempfile gives a folder
            if os.path.isdir(file):
                raise PermissionError(13, "Permission denied", os.fsdecode(file))
            if set(mode) & set("wax+"):
                require_name(file)
        if "b" not in mode and encoding in (None, "locale") and asked_by_npgpt():
            raise AssertionError(f"{file}: text without an encoding, which would be cp1252")
        if "b" not in mode and set(mode) & set("wax") and newline is None:
            newline = "\r\n"
        return plain.io_open(file, mode, buffering, encoding, errors, newline, closefd, opener)

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        plain.fsync(descriptor)

    def moving(function):
        def move(source, target, **options):
            require_name(target)
            require_closed(source)
            require_closed(target)
            function(source, target, **options)

        return move

    def unlink(path, **options):
        if not options:
            require_closed(path)
        plain.unlink(path, **options)

    def mkdir(path, *args, **options):
        require_name(path)
        plain.mkdir(path, *args, **options)

    for module, names in MISSING.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.modules["msvcrt"] = msvcrt(fcntl)
    os.open, os.fsync, os.unlink, os.remove, os.mkdir = os_open, fsync, unlink, unlink, mkdir  # type: ignore[assignment]
    os.replace, os.rename = moving(plain.replace), moving(plain.rename)
    builtins.open = io.open = io_open  # type: ignore[assignment]
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[misc,assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    sys.platform = "win32"


def asked_by_npgpt() -> bool:
    frame = sys._getframe(2)
    for _ in range(3):
        if frame is None or frame.f_globals.get("__name__", "").startswith("npgpt"):
            return frame is not None
        frame = frame.f_back  # type: ignore[assignment]
    return False


def msvcrt(fcntl: types.ModuleType) -> types.ModuleType:
    """Return the module with the one function for locks, on top of POSIX's."""
    module = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, n_bytes: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    module.LK_UNLCK, module.LK_NBLCK, module.locking = 0, 2, locking  # type: ignore[attr-defined]
    return module


def main(path: str) -> None:
    """Run the commands of a file, and print each one's exit code."""
    with open(path, encoding="utf-8") as file:
        commands = json.load(file)
    # libraries of others, which know the real Windows: imported before the platform changes
    import logging  # noqa: F401

    import numba  # noqa: F401
    import numpy  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import tqdm  # noqa: F401

    # and what asks the system for the addresses of its functions
    import npgpt.kernels.gpt
    from npgpt.support import machine

    machine._speeds_on_windows = list

    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.ticker  # noqa: F401
    except ImportError:
        commands = [words for words in commands if words[0] != "plot"]
    install()
    from npgpt.cli import main as npgpt

    for words in commands:
        print(f"$ {words} -> {npgpt(words)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
