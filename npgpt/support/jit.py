"""`jit`: how npgpt compiles its kernels, and where the compiled code is cached.

A function is compiled again if its own file has changed, and if one has whose functions were inlined into it. So the
folder's name is a digest of all sources beside the function's own, of the CPU and of numba's version: code that was
compiled from other sources, or for another machine, is never used. `compiled.py` reads and writes the files in it.
"""

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
from numba.core import types

from npgpt.support import compiled
from npgpt.support.files import user_cache

config: Any = numba.config  # its settings are created at run time
njit: Any = numba.njit  # whose types leave some of its options out

# What lets LLVM vectorise a sum and fuse a multiplication with an addition. `nnan` and `ninf` are not among them: they
# would let it assume that there is no NaN and no infinity, and drop the ones that show that a run went astray.
FASTMATH = frozenset({"contract", "reassoc", "arcp", "nsz", "afn"})

# What compiles a function that compiled code alone calls, in `jit` and in `overload`. With an untried version of numba
# that is numba itself, which takes longer.
TRIED = ("0.68.",)
INNER: Any = {}
if numba.__version__.startswith(TRIED):
    from npgpt.support.callees import CalleeCompiler

    INNER = {"pipeline_class": CalleeCompiler}


def jit(
    function: Callable | None = None,
    *,
    fastmath: frozenset[str] | set[str] = FASTMATH,
    inner: bool = False,
    inline: str = "never",
) -> Callable:
    """Compile a function on its first call. It runs without the interpreter's lock, divides by zero as NumPy does, and
    is cached on disk.

    fastmath  the liberties that the compiler may take with floating-point arithmetic
    inner     for a function that compiled code alone calls: it exists inside its callers only (`callees.py`)
    inline    "always" for one that a single function calls: its text becomes a part of the caller's, and LLVM optimises
              it once instead of twice
    """
    if function is None:
        return functools.partial(jit, fastmath=fastmath, inner=inner, inline=inline)
    folder = cache_folder(Path(sys.modules[function.__module__].__file__ or "").parent)
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath), "inline": inline}
    for_code = njit(**INNER, no_cfunc_wrapper=True, no_cpython_wrapper=True, **options)(function)
    if config.DISABLE_JIT:
        return for_code
    template = for_code.get_call_template
    for_code.get_call_template = lambda args, kws: template(*_without_literals(args, kws))
    if inner:
        return for_code
    # Python calls machine code, and compiled code calls what its compiler can inline
    dispatcher = njit(no_cfunc_wrapper=True, **options)(function)
    dispatcher.get_call_template, dispatcher.get_overload = for_code.get_call_template, for_code.get_overload
    if folder is not None:
        dispatcher._cache = compiled.CompiledFiles(function, folder)
    return dispatcher


def _without_literals(args: Any, kws: dict) -> tuple[list, dict]:
    """Return types of arguments for which each of 0, 1 and True does not have a compilation of its own."""
    return [types.unliteral(kind) for kind in args], {name: types.unliteral(kind) for name, kind in kws.items()}


@functools.cache
def cache_folder(package: Path) -> Path | None:
    """Return the folder for what is compiled from a package's sources on this machine; None where none can be written.

    It lies in NUMBA_CACHE_DIR if that is set, else in the user's cache folder, else in a private temporary one.
    """
    digest = hashlib.sha256()
    for file in [
        Path(__file__),
        Path(compiled.__file__),
        Path(__file__).with_name("callees.py"),
        *sorted(package.glob("*.py")),
    ]:
        digest.update(file.read_bytes())
    cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
    digest.update(repr((cpu, numba.__version__, llvmlite.__version__, sys.version)).encode())
    candidates = [Path(config.CACHE_DIR) if config.CACHE_DIR else user_cache()]
    with suppress(OSError):  # there may be no temporary folder either
        owner = os.getuid() if hasattr(os, "getuid") else "user"
        candidates.append(Path(tempfile.gettempdir()) / f"npgpt-{owner}")
    for folder in filter(None, candidates):
        found = folder / "npgpt" / f"{package.name}-{digest.hexdigest()[:16]}"
        if _is_ours(found):
            return found
    return None


def is_compiled(package: Path) -> bool:
    """Say whether anything has been compiled from a package's present sources on this machine."""
    if config.DISABLE_JIT:
        return True  # there is nothing to compile
    folder = cache_folder(package)
    return folder is not None and any(folder.glob(f"*{compiled.SUFFIX}"))


def _is_ours(folder: Path) -> bool:
    """Make a folder, and say whether this user owns it and can write to it: code that is run is read from it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
    except OSError:
        return False
