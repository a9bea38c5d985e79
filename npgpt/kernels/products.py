"""Matrix products inside compiled code: the BLAS that NumPy has loaded, called by address.

NumPy's own `np.dot` takes the interpreter's lock at every call. A compiled function holds no lock, so it may not call
NumPy; but it may call the same library, and the address of its function is found beside NumPy's code.
"""

import ctypes
import importlib
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

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
    return [ctypes.CDLL(file) for file in files]


def _register(letter: str) -> bool:
    """Make a product known to compiled code as npgpt_sgemm or npgpt_dgemm, and say whether NumPy's BLAS has one."""
    for library in _libraries():
        for spelling in SPELLINGS:
            if function := getattr(library, spelling.format(letter), None):
                address = ctypes.cast(function, ctypes.c_void_p).value
                llvmlite.binding.add_symbol(f"npgpt_{letter}gemm", address)
                return True
    return False


# whether compiled code may call `product`
FOUND = all([_register("s"), _register("d")])

# Sizes are passed as 64 bits. A library that takes 32 reads the lower half: the calling conventions of x86-64 and
# AArch64 give each argument a register or a slot of 64 bits.
_int, _word = types.int64, types.int32


def _external(letter: str, real: Any) -> types.ExternalFunction:
    sizes = [_int] * 3
    matrices = [real, types.uintp, _int, types.uintp, _int, real, types.uintp, _int]
    return types.ExternalFunction(f"npgpt_{letter}gemm", types.void(_word, _word, _word, *sizes, *matrices))


sgemm, dgemm = _external("s", types.float32), _external("d", types.float64)


@overload(product, inline="never")
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
