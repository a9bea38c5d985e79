"""Standard input, output and error of a command, and the signals that end it.

A file or a pipe holds UTF-8, whatever the locale or PYTHONIOENCODING says: what one command writes, another reads, on
this machine or on the next. A terminal keeps its own encoding, because only it knows what it can show.
"""

import _thread
import codecs
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from npgpt.training.interrupt import SIGNALS

ESCAPE = "npgpt.escape"
_escaped: list[str] = []  # what had to be escaped since the command began


def restart_in_utf8() -> None:
    """Start Python again in its UTF-8 mode if the locale has another encoding.

    Otherwise a Chinese prompt or file name on the command line would be read as Latin-1 or not at all. Python itself
    starts so in the C locale; Windows and macOS need nothing. The terminal keeps the encoding of the locale.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        terminal = {"PYTHONIOENCODING": sys.getfilesystemencoding()}
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], terminal | os.environ)


class Output:
    """Standard output or error, with errors that name it. After an error, whatever is written is discarded.

    Where `loses` says so of an error, nobody hears of it and the command goes on.
    """

    def __init__(self, stream: Any, name: str, loses: Callable[[OSError], bool]) -> None:
        self.stream, self.name, self.loses = stream, name, loses
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def buffer(self) -> "Output":
        return Output(self.stream.buffer, self.name, self.loses)

    def write(self, text: str | bytes) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)
        if self.error:  # argparse says nothing of an error in a page of help
            raise self.error

    def _try(self, do: Callable[..., object], *args: str | bytes) -> None:
        try:
            do(*args)
        except OSError as error:
            discard(self.stream)
            if not self.loses(error):
                error.filename = self.name
                self.error = error
                raise


def discard(stream: Any) -> None:
    """Send what a stream still holds, and all that is written to it later, nowhere."""
    with suppress(OSError, ValueError):  # it may have no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def open_streams() -> Iterator[None]:
    """Make the standard streams UTF-8 where they are files or pipes; on a terminal, escape what it cannot show.

    Messages on standard error are lost if nobody can read them: they must not end a training.
    """
    if isinstance(sys.stdout, Output):  # a command that is run by another one, as by demo
        yield
        return
    _reserve_descriptors()
    codecs.register_error(ESCAPE, _escape)
    _escaped.clear()
    _make_utf8(sys.stdin, encoding="utf-8", errors="strict")
    _make_utf8(sys.stdout, encoding="utf-8", errors=ESCAPE, newline="\n")  # on Windows, too
    _make_utf8(sys.stderr, encoding="utf-8", errors="backslashreplace")
    out, err = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as null:
        outputs: Any = Output(out, "standard output", lambda error: False), Output(err or null, "", lambda error: True)
        sys.stdout, sys.stderr = (None if out is None else outputs[0]), outputs[1]
        try:
            yield
            if _escaped:
                code = codecs.encode(_escaped[0], "ascii", "backslashreplace").decode()
                print(f"characters that cannot be shown here are printed as codes, such as {code}", file=sys.stderr)
        finally:
            sys.stdout, sys.stderr = out, err


def require_output() -> None:
    """Raise ValueError if standard output is closed: Python would discard what is printed and say nothing."""
    if sys.stdout is None:
        raise ValueError("standard output is closed: send it to a file, or to /dev/null")


def keep_going() -> None:
    """Run a command to its end even when nobody reads its output any longer, because its exit code is its result."""
    if isinstance(sys.stdout, Output):
        sys.stdout.loses = lambda error: isinstance(error, BrokenPipeError)


@contextmanager
def interrupted_by_signals() -> Iterator[list[int]]:
    """Let each signal that ends a program raise KeyboardInterrupt, so that all of them clean up. Give those that came.

    A signal that is ignored stays so: SIGHUP under nohup, Ctrl-C in the background of a script.
    """
    received: list[int] = []
    timers: list[threading.Timer] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def raise_again(unraisable: Any) -> None:
        """Interrupt once more where Python can only ignore it, as in a destructor or a callback of C."""
        if received and issubclass(unraisable.exc_type, KeyboardInterrupt):
            timers.append(threading.Timer(0.01, _thread.interrupt_main, [received[0]]))
            timers[-1].start()
        else:
            hook(unraisable)

    own = signal.SIG_DFL, signal.default_int_handler
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread():  # only that one can handle signals
        before = {}
    before = {number: handler for number, handler in before.items() if handler in own}
    hook, sys.unraisablehook = sys.unraisablehook, raise_again
    try:
        for number in before:
            signal.signal(number, handle)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = hook


class Interrupted(KeyboardInterrupt):
    """Ctrl-C where it ends less than the program: see ctrl_c_interrupts."""


@contextmanager
def ctrl_c_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise Interrupted, which a loop can catch and go on; every other signal still ends the program."""

    def handle(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()  # only that one can handle signals
    if main and before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def with_history() -> None:
    """Let `input` edit its line and bring back earlier ones, where Python has readline. Windows does it by itself."""
    with suppress(ImportError):
        import readline  # noqa: F401 (to import it is enough)


def _reserve_descriptors() -> None:
    """Open the descriptors 0, 1 and 2 that are closed; the next file would get them, and with it what others print."""
    for number in 0, 1, 2:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest that is free


def _make_utf8(stream: Any, errors: str, **options: Any) -> None:
    if isinstance(stream, io.TextIOWrapper):  # a notebook has streams of its own
        with suppress(io.UnsupportedOperation):  # something has been read from it already
            stream.reconfigure(errors=errors, **({} if stream.isatty() else options))


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        _escaped.append(error.object[error.start])
    return codecs.backslashreplace_errors(error)
