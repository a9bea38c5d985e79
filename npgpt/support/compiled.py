"""Compiled functions on disk: one checked file for each signature, in place of numba's own cache.

numba ends a program with a traceback if a file of its cache is damaged, if it cannot write one, or if two programs fill
the cache at once, because an index says which file is whose. Here a file's name is a digest of what it holds, so there
is no index, and a file begins with a checksum: what does not fit is removed and compiled again. Only files in a folder
that `jit` has found to be this user's own are ever read.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from npgpt.support.notices import notice

SUFFIX = ".nbc"
SEAL = hashlib.sha256().digest_size

_said: set[str] = set()  # each line is said once, not for every function


class CompiledFiles(_Cache):
    """What numba asks for a function's compiled code, and hands it to. It never fails: then numba compiles."""

    def __init__(self, function: Callable, folder: Path) -> None:
        self.folder = folder
        module = function.__module__.rpartition(".")[2]
        self.name = f"{module}.{function.__name__}-{function.__code__.co_firstlineno}"

    @property
    def cache_path(self) -> str:
        return str(self.folder)

    def load_overload(self, signature: Any, target: Any) -> CompileResult | None:
        """Return the compiled code for a signature; None if it is not there, or is not what was written."""
        target.refresh()
        path = self._path(signature, target.codegen())
        try:
            data = path.read_bytes()
        except OSError:  # never compiled, or removed by another program
            return None
        try:
            if hashlib.sha256(data[SEAL:]).digest() != data[:SEAL]:
                raise ValueError
            return CompileResult._rebuild(target, *pickle.loads(data[SEAL:]))
        except Exception:  # whatever it is: compiling is always possible
            _say(f"the compiled code in {self.folder} was damaged, and is compiled again")
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Write the compiled code for a signature, unless it holds addresses of this process."""
        if compiled.library.has_dynamic_globals or any(not part.can_cache for part in compiled.lifted):
            return
        path = self._path(signature, compiled.codegen)
        code = dumps(compiled._reduce())
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                part.write_bytes(hashlib.sha256(code).digest() + code)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            if sys.platform == "win32" and isinstance(error, PermissionError):
                return  # another program reads the file: it has written the same
            _say(f"{self.folder}: compiled code cannot be kept, so each start compiles again: {error.strerror}")

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()
        return self.folder / f"{self.name}.{key[:24]}{SUFFIX}"

    def enable(self) -> None:
        """Do nothing: there is no cache that could be switched off."""

    disable = flush = enable


def _say(line: str) -> None:
    if line not in _said:
        _said.add(line)
        notice(line)
