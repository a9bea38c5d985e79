"""Matrix products inside compiled code: the BLAS that NumPy has loaded, called by address.

NumPy's own `np.dot` takes the interpreter's lock at every call. A compiled function holds no lock, so it may not call
NumPy; but it may call the same library, and the address of its function is found beside NumPy's code.
"""

import ctypes
import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

from npgpt.support.jit import INNER

# the names under which libraries export a product: NumPy's own OpenBLAS, other builds of it, MKL, Accelerate
SPELLINGS = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "cblas_{}gemm_64", "scipy_cblas_{}gemm", "cblas_{}gemm")
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool) -> None:
    """Put a @ b into out (M, N), or add it to out. Each of a (M, K), b (K, N) and out has one contiguous axis or more.

    In compiled code this is a call of BLAS. All three are float32, or all are float64, and out's rows are contiguous.
    """
    out[...] = out + a @ b if add else a @ b


def _libraries() -> list[ctypes.CDLL]:
    """Return what may hold NumPy's BLAS: its compiled module, whose dependencies are searched, too, or its DLLs."""
    files = [importlib.import_module("numpy._core._multiarray_umath").__file__ or ""]
    if sys.platform == "win32":
        files += map(str, (Path(np.__file__).parents[1] / "numpy.libs").glob("*blas*.dll"))
    if sys.platform == "darwin":
        files.append("/System/Library/Frameworks/Accelerate.framework/Accelerate")
    libraries = []
    for file in files:
        with suppress(OSError):
            libraries.append(ctypes.CDLL(file))
    return libraries


def _find(letter: str) -> Any:
    """Return the function of NumPy's BLAS for float32 ("s") or float64 ("d"); None if it has none by a known name."""
    functions = (getattr(lib, name.format(letter), None) for lib in _libraries() for name in SPELLINGS)
    return next(filter(None, functions), None)


def numpy_gemm(letter: str) -> Any:
    """Return a C function that does what that of a BLAS would, by NumPy. It takes the lock and makes copies, but works
    whatever NumPy was built with.
    """
    real: Any = {"s": ctypes.c_float, "d": ctypes.c_double}[letter]
    word, size, place = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p

    def gemm(
        order: int, ta: int, tb: int, M: int, N: int, K: int, alpha: float, a: int, a_step: int, b: int, b_step: int,
        beta: float, out: int, out_step: int,
    ) -> None:  # fmt: skip
        def at(address: int, rows: int, columns: int, step: int) -> np.ndarray:
            n = (rows - 1) * step + columns if rows and columns else 0
            flat = np.frombuffer((real * n).from_address(address), real) if n else np.zeros(0, real)
            itemsize = ctypes.sizeof(real)
            return np.lib.stride_tricks.as_strided(flat, (rows, columns), (step * itemsize, itemsize))

        left = at(a, M, K, a_step) if ta == PLAIN else at(a, K, M, a_step).T
        right = at(b, K, N, b_step) if tb == PLAIN else at(b, N, K, b_step).T
        product(left, right, at(out, M, N, out_step), beta != 0)

    kinds = (word, word, word, size, size, size, real, place, size, place, size, real, place, size)
    return ctypes.CFUNCTYPE(None, *kinds)(gemm)


_found = {letter: _find(letter) for letter in "sd"}
# whether it is NumPy's BLAS that `product` calls in compiled code
FOUND = all(_found.values())
_functions = {letter: function or numpy_gemm(letter) for letter, function in _found.items()}  # kept, or they would go
for _letter, _function in _functions.items():
    llvmlite.binding.add_symbol(f"npgpt_{_letter}gemm", ctypes.cast(_function, ctypes.c_void_p).value)

# Sizes are passed as 64 bits. A library that takes 32 reads the lower half: the calling conventions of x86-64 and
# AArch64 give each argument a register or a slot of 64 bits.
_int, _word = types.int64, types.int32


def _external(letter: str, real: Any) -> types.ExternalFunction:
    sizes = [_int] * 3
    matrices = [real, types.uintp, _int, types.uintp, _int, real, types.uintp, _int]
    return types.ExternalFunction(f"npgpt_{letter}gemm", types.void(_word, _word, _word, *sizes, *matrices))


sgemm, dgemm = _external("s", types.float32), _external("d", types.float64)


@overload(product, inline="never", jit_options=INNER)
def _product(a: Any, b: Any, out: Any, add: bool) -> Any:
    gemm: Any = sgemm if out.dtype == types.float32 else dgemm
    real: Any = np.float32 if out.dtype == types.float32 else np.float64
    size = 4 if out.dtype == types.float32 else 8

    def call(a: Any, b: Any, out: Any, add: bool) -> None:
        a_plain = a.strides[1] == size or a.shape[1] == 1
        b_plain = b.strides[1] == size or b.shape[1] == 1
        a_step = max(a.strides[0] // size, a.shape[1]) if a_plain else max(a.strides[1] // size, a.shape[0])
        b_step = max(b.strides[0] // size, b.shape[1]) if b_plain else max(b.strides[1] // size, b.shape[0])
        gemm(
            np.int32(ROW_MAJOR),
            np.int32(PLAIN if a_plain else TRANSPOSED),
            np.int32(PLAIN if b_plain else TRANSPOSED),
            out.shape[0],
            out.shape[1],
            a.shape[1],
            real(1),
            np.uint64(a.ctypes.data),
            a_step,
            np.uint64(b.ctypes.data),
            b_step,
            real(1) if add else real(0),
            np.uint64(out.ctypes.data),
            max(out.strides[0] // size, out.shape[1]),
        )

    return call
