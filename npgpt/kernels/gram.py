"""a.T @ b inside compiled code, whole, or at half the cost where the result is its own transpose.

Both operands are read along their rows, which follow K, so nothing is packed: a tile of the result stays in registers
while K goes by, and each row adds the outer product of a vector of a and one of b. BLAS has such a half only for a
product of a matrix with its own transpose. What handles vectors is written in LLVM IR, as in `bf16.py`.
"""

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import extending, types

from npgpt.support.jit import INNER, jit

# its type would have the calls in compiled code take the compiler's own argument, too
intrinsic: Any = extending.intrinsic

LINE = 64  # bytes; rows and columns of all operands are padded to multiples of it
# bytes in a vector: a tile is as many of them high as wide, and fills half of the registers
VECTOR = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 32

_long, _int = ir.IntType(64), ir.IntType(32)


def transposed_product(a: np.ndarray, b: np.ndarray, out: np.ndarray, K: int, M: int, N: int, half: bool) -> None:
    """Put a[:K, :M].T @ b[:K, :N] into out[:M, :N].

    a, b, out  contiguous, of one dtype
    M, N       multiples of LINE bytes
    half       the result is its own transpose up to roundings: the tiles above the diagonal are computed, and mirrored
    """
    out[:M, :N] = a[:K, :M].T @ b[:K, :N]


def transpose(x: np.ndarray, out: np.ndarray, M: int, N: int) -> None:
    """Put x[:M, :N].T into out[:N, :M]; sizes as above."""
    out[:N, :M] = x[:M, :N].T


def _kind(number: Any) -> Any:
    """Return LLVM's type of a vector of numbers like this one, and of how many."""
    lanes = VECTOR * 8 // number.bitwidth
    return ir.VectorType(ir.FloatType() if number.bitwidth == 32 else ir.DoubleType(), lanes), lanes


def _at(builder: Any, address: Any, step: Any, row: int, kind: Any) -> Any:
    place = builder.add(address, builder.mul(step, _long(row))) if row else address
    return builder.inttoptr(place, kind.as_pointer())


def _load(builder: Any, pointer: Any, size: int) -> Any:
    value = builder.load(pointer)
    value.align = size
    return value


def _turned(builder: Any, rows: list) -> list:
    """Return the columns of a square of vectors: they exchange halves, then quarters, and so on."""
    lanes, rows = len(rows), list(rows)
    part = lanes // 2
    while part:
        kind = ir.VectorType(_int, lanes)
        first = ir.Constant(kind, [i + (lanes - part if i & part else 0) for i in range(lanes)])
        second = ir.Constant(kind, [i + (lanes if i & part else part) for i in range(lanes)])
        for r in range(lanes):
            if not r & part:
                x, y = rows[r], rows[r + part]
                rows[r] = builder.shuffle_vector(x, y, first)
                rows[r + part] = builder.shuffle_vector(x, y, second)
        part //= 2
    return rows


def _store(builder: Any, rows: list, address: Any, step: Any, size: int) -> None:
    for r, row in enumerate(rows):
        builder.store(row, _at(builder, address, step, r, row.type)).align = size


@intrinsic
def _tile(
    typing: Any, zero: Any, a: Any, a_step: Any, b: Any, b_step: Any, K: Any, out: Any, step: Any, mirror: Any
) -> Any:
    """Put the sum of K outer products into a tile of out, and its transpose into `mirror`, unless that is 0.

    zero    of the numbers' type
    others  addresses, and the distances of rows in bytes
    """
    size = zero.bitwidth // 8
    vector, lanes = _kind(zero)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, a, a_step, b, b_step, K, out, step, mirror = arguments
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        k, a_row, b_row = builder.phi(_long), builder.phi(_long), builder.phi(_long)
        sums = [builder.phi(vector) for _ in range(lanes)]
        row = _load(builder, _at(builder, b_row, None, 0, vector), size)
        new = []
        for i, old in enumerate(sums):
            one = _load(builder, _at(builder, a_row, _long(size), i, vector.element), size)
            first = builder.insert_element(ir.Constant(vector, ir.Undefined), one, _int(0))
            every = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_int, lanes), [0] * lanes))
            new.append(builder.fadd(old, builder.fmul(every, row, flags=("contract",)), flags=("contract",)))
        following = [builder.add(k, _long(1)), builder.add(a_row, a_step), builder.add(b_row, b_step)]
        starts = [_long(0), a, b, *[ir.Constant(vector, None)] * lanes]
        for variable, start, value in zip([k, a_row, b_row, *sums], starts, [*following, *new], strict=True):
            variable.add_incoming(start, before)
            variable.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following[0], K), loop, after)
        builder.position_at_end(after)
        _store(builder, new, out, step, size)
        with builder.if_then(builder.icmp_signed("!=", mirror, _long(0))):
            _store(builder, _turned(builder, new), mirror, step, size)
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 8), generate


@intrinsic
def _turn(typing: Any, zero: Any, x: Any, x_step: Any, out: Any, step: Any) -> Any:
    """Put the transpose of a tile at x into that at out."""
    size = zero.bitwidth // 8
    vector, lanes = _kind(zero)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, x, x_step, out, step = arguments
        rows = [_load(builder, _at(builder, x, x_step, r, vector), size) for r in range(lanes)]
        _store(builder, _turned(builder, rows), out, step, size)
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 4), generate


@jit(inner=True)
def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, K: int, M: int, N: int, half: bool) -> None:
    zero, size = a.dtype.type(0), a.itemsize
    side = VECTOR // size
    left, right, to = np.int64(a.ctypes.data), np.int64(b.ctypes.data), np.int64(out.ctypes.data)
    step = out.strides[0]
    for j in range(0, N, side):
        for i in range(0, j + side if half else M, side):
            mirror = to + j * step + i * size if half and i < j else 0
            at = to + i * step + j * size
            _tile(zero, left + i * size, a.strides[0], right + j * size, b.strides[0], K, at, step, mirror)


@jit(inner=True)
def _transpose(x: np.ndarray, out: np.ndarray, M: int, N: int) -> None:
    zero, size = x.dtype.type(0), x.itemsize
    side = VECTOR // size
    first, to = np.int64(x.ctypes.data), np.int64(out.ctypes.data)
    for i in range(0, M, side):
        for j in range(0, N, side):
            at = to + j * out.strides[0] + i * size
            _turn(zero, first + i * x.strides[0] + j * size, x.strides[0], at, out.strides[0])


@extending.overload(transposed_product, inline="never", jit_options=INNER)
def _transposed_product(a: Any, b: Any, out: Any, K: int, M: int, N: int, half: bool) -> Any:
    def call(a: Any, b: Any, out: Any, K: int, M: int, N: int, half: bool) -> None:
        _multiply(a, b, out, K, M, N, half)

    return call


@extending.overload(transpose, inline="never", jit_options=INNER)
def _transposed(x: Any, out: Any, M: int, N: int) -> Any:
    def call(x: Any, out: Any, M: int, N: int) -> None:
        _transpose(x, out, M, N)

    return call
