"""Products of bfloat16 operands inside compiled code: one instruction multiplies sixteen pairs of them and adds up.

`vdpbf16ps` takes pairs of bfloat16 numbers that follow one another along K and adds their products to float32 sums, at
twice the rate of float32's own instruction. No BLAS that NumPy loads offers it, and numba's compiler does not find it
by itself. So the operands are rounded into panels of sixteen lanes of pairs, which stay in the caches, and a tile of
eight rows and 32 columns of the result stays in registers while K goes by (Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication", 2008). What handles vectors is written in the compiler's own language, LLVM IR.
"""

import math
import time
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import extending, types

from npgpt.kernels.products import FOUND as BLAS_FOUND
from npgpt.kernels.products import product
from npgpt.layers.bf16 import rounded
from npgpt.support.jit import INNER, jit

# its type would have the calls in compiled code take the compiler's own argument, too
intrinsic: Any = extending.intrinsic

HAS_INSTRUCTION = bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))
# before LLVM 20, the compiler described the instruction differently
FOUND = HAS_INSTRUCTION and llvmlite.binding.llvm_version_info >= (20,)

LANES = 16  # of a vector: a panel is as wide
VECTOR = 4 * LANES  # bytes
ROWS, COLUMNS = 8, 2 * LANES  # of the tile of the result that is in registers
PAIRS = 256  # a panel's length along K. Panels of all rows in a block fit into L2, two panels of columns into L1
BLOCK = 512  # rows in a block
PANEL = PAIRS * LANES * 4  # bytes
SCRATCH = (BLOCK // LANES + 2) * PANEL // 4 + LANES  # elements; the last ones are for alignment


def product_bf16(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool, scratch: np.ndarray) -> None:
    """Put r(a) @ r(b) into out (M, N), or add it to out, where r rounds to bfloat16 and sums are in float32.

    a, b, out  float32, laid out as `product` wants them
    scratch    (SCRATCH,) of uint32, whose content is lost

    In compiled code the processor's own instruction is used, if it has one. It treats operands and sums below 2^-126
    as zero.
    """
    product(rounded(a), rounded(b), out, add)


def product_in(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool, scratch: np.ndarray) -> None:
    """Call `product_bf16` with a scratch of uint32, else `product`: only one of them is compiled in."""
    if scratch.dtype == np.uint32:
        product_bf16(a, b, out, add, scratch)
    else:
        product(a, b, out, add)


class _BFloat(ir.Type):
    """The type of LLVM that llvmlite has no class for."""

    def _to_string(self) -> str:
        return "bfloat"


_real, _int, _long = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_reals, _ints = ir.VectorType(_real, LANES), ir.VectorType(_int, LANES)
_bfloats, _shorts = ir.VectorType(_BFloat(), 2 * LANES), ir.VectorType(ir.IntType(16), 2 * LANES)
_zeros = ir.Constant(_reals, None)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call a function that LLVM knows."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), arguments)


def _at(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, _long(offset)), kind.as_pointer())


def _spread(builder: Any, number: Any) -> Any:
    """Return a vector of the same number."""
    first = builder.insert_element(ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined), number, _int(0))
    return builder.shuffle_vector(first, first, ir.Constant(_ints, [0] * LANES))


def _mask(builder: Any, count: Any, skipped: int) -> Any:
    """Say of each lane whether it is one of the first `count`, after `skipped` lanes of other vectors."""
    numbers = ir.Constant(ir.VectorType(_long, LANES), [skipped + i for i in range(LANES)])
    return builder.icmp_signed("<", numbers, _spread(builder, count))


def _load(builder: Any, pointer: Any, mask: Any) -> Any:
    """Return a vector of float32s; outside the mask nothing is read, and they are 0."""
    return _call(builder, "llvm.masked.load.v16f32.p0", _reals, pointer, _int(4), mask, _zeros)


def _round(builder: Any, first: Any, second: Any) -> Any:
    """Return two vectors of float32s as one of bfloat16s."""
    return _call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", _bfloats, second, first)


@intrinsic
def _pair_rows(typing: Any, above: Any, above_count: Any, below: Any, below_count: Any, to: Any) -> Any:
    """Round a vector of numbers and the one below it, and store them as pairs. What lies after a count becomes 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        above, above_count, below, below_count, to = arguments
        rows = [
            _load(builder, _at(builder, address, _reals), _mask(builder, count, 0))
            for address, count in ((above, above_count), (below, below_count))
        ]
        shorts = builder.bitcast(_round(builder, *rows), _shorts)
        order = ir.Constant(ir.VectorType(_int, 2 * LANES), [i // 2 + i % 2 * LANES for i in range(2 * LANES)])
        builder.store(builder.shuffle_vector(shorts, shorts, order), _at(builder, to, _shorts)).align = VECTOR
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def _pair_columns(typing: Any, start: Any, step: Any, rows: Any, columns: Any, to: Any) -> Any:
    """Round 16 rows of 32 numbers, and store them as 16 vectors of pairs, each of which holds one pair of each row.

    start, step    the address of the first row, and the distance of the rows in bytes
    rows, columns  how many there are; the others are 0
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, step, rows, columns, to = arguments
        vectors = []
        for r in range(LANES):
            count = builder.select(builder.icmp_signed("<", _long(r), rows), columns, _long(0))
            row = builder.add(start, builder.mul(step, _long(r)))
            halves = [_load(builder, _at(builder, row, _reals, 4 * i), _mask(builder, count, i)) for i in (0, LANES)]
            vectors.append(builder.bitcast(_round(builder, *halves), _ints))
        # two vectors exchange halves, then quarters, ...: element c of vector r becomes element r of vector c
        for part in (8, 4, 2, 1):
            first = ir.Constant(_ints, [i + (LANES - part if i & part else 0) for i in range(LANES)])
            second = ir.Constant(_ints, [i + (LANES if i & part else part) for i in range(LANES)])
            for r in range(LANES):
                if not r & part:
                    x, y = vectors[r], vectors[r + part]
                    vectors[r] = builder.shuffle_vector(x, y, first)
                    vectors[r + part] = builder.shuffle_vector(x, y, second)
        for r, vector in enumerate(vectors):
            builder.store(vector, _at(builder, to, _ints, VECTOR * r)).align = VECTOR
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def _tile(typing: Any, a: Any, b: Any, pairs: Any, out: Any, step: Any, rows: Any, columns: Any, add: Any) -> Any:
    """Multiply 8 rows of a panel by two panels of columns, and put the result into out or add it.

    out, step      the address of the tile's first row, and the distance of the rows in bytes
    rows, columns  how many of the tile's lie inside the result
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, pairs, out, step, rows, columns, add = arguments
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        pair = builder.phi(_long)
        sums = [builder.phi(_reals) for _ in range(2 * ROWS)]
        offset = builder.mul(pair, _long(VECTOR))
        vectors = []
        for panel in range(2):
            vector = builder.load(_at(builder, builder.add(b, offset), _ints, panel * PANEL))
            vector.align = VECTOR
            vectors.append(builder.bitcast(vector, _bfloats))
        new = []
        for i, old in enumerate(sums):
            both = builder.load(_at(builder, builder.add(a, offset), _int, 4 * (i // 2)))
            both = builder.bitcast(_spread(builder, both), _bfloats)
            new.append(_call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _reals, old, both, vectors[i % 2]))
        following = builder.add(pair, _long(1))
        for variable, value in zip([pair, *sums], [following, *new], strict=True):
            variable.add_incoming(ir.Constant(variable.type, None), before)
            variable.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
        builder.position_at_end(after)
        for i, value in enumerate(new):
            row, panel = divmod(i, 2)
            count = builder.select(builder.icmp_signed("<", _long(row), rows), columns, _long(0))
            pointer = _at(builder, builder.add(out, builder.mul(step, _long(row))), _reals, panel * VECTOR)
            # what is there is read only if it counts: it may be NaN
            old = _load(builder, pointer, _mask(builder, builder.select(add, count, _long(0)), panel * LANES))
            mask = _mask(builder, count, panel * LANES)
            _call(
                builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), builder.fadd(old, value), pointer, _int(4), mask
            )
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7, types.boolean), generate


@jit
def _pack(x: np.ndarray, first: int, k: int, count: int, to: int) -> None:
    """Round x[first : first + LANES, k : k + count] into the panel at an address; what x does not have is 0."""
    start = np.int64(x.ctypes.data) + first * x.strides[0] + k * x.strides[1]
    lanes = min(LANES, x.shape[0] - first)
    if x.strides[0] == 4 or x.shape[0] == 1:
        for i in range(0, count, 2):
            row = start + i * x.strides[1]
            _pair_rows(row, lanes, row + x.strides[1], lanes if i + 1 < count else 0, to + i // 2 * VECTOR)
    else:  # the other axis is contiguous
        for i in range(0, count, 2 * LANES):
            _pair_columns(start + i * 4, x.strides[0], lanes, count - i, to + i // 2 * VECTOR)


@jit
def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool, scratch: np.ndarray) -> None:
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    if K == 0 and not add:
        out[:, :] = 0
    columns = (np.int64(scratch.ctypes.data) + VECTOR - 1) // VECTOR * VECTOR
    rows = columns + 2 * PANEL
    start, step = np.int64(out.ctypes.data), out.strides[0]
    # parts of K as long as the panels at most, even, and all about as long: 768 in parts of up to 512 are two of 384
    parts = max(1, -(-K // (2 * PAIRS)))
    depth = max(2, 2 * -(-K // (2 * parts)))
    for k in range(0, K, depth):
        count = min(depth, K - k)
        for top in range(0, M, BLOCK):
            bottom = min(top + BLOCK, M)
            for m in range(top, bottom, LANES):
                _pack(a, m, k, count, rows + (m - top) // LANES * PANEL)
            for n in range(0, N, COLUMNS):
                for j in range(n, min(n + COLUMNS, N), LANES):
                    _pack(b.T, j, k, count, columns + (j - n) // LANES * PANEL)
                for m in range(top, bottom, ROWS):
                    row = rows + (m - top) // LANES * PANEL + (m - top) % LANES * 4
                    to = start + m * step + n * 4
                    _tile(row, columns, (count + 1) // 2, to, step, M - m, N - n, add or k > 0)


_rounded = jit(rounded)


@extending.overload(product_bf16, inline="never", jit_options=INNER)
def _product_bf16(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> Any:
    def call(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> None:
        # slices make one type, and so one compilation, of arrays of every layout
        _multiply(a[::1, ::1], b[::1, ::1], out[::1, ::1], add, scratch)

    def plain(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> None:
        product(_rounded(a), _rounded(b), out, add)

    return call if FOUND else plain


@extending.overload(product_in, inline="never", jit_options=INNER)
def _product_in(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> Any:
    def bfloat16(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> None:
        product_bf16(a, b, out, add, scratch)

    def plain(a: Any, b: Any, out: Any, add: bool, scratch: Any) -> None:
        product(a, b, out, add)

    return bfloat16 if scratch.dtype == types.uint32 else plain


def missing() -> str:
    """Say what a compiled step with rounded operands lacks here; "" if it lacks nothing."""
    if not HAS_INSTRUCTION:
        return "this processor has no instruction for products of bfloat16s (avx512_bf16)"
    if not FOUND:
        return "this version of numba is too old to use the processor's instruction for it (update numba)"
    return "" if BLAS_FOUND else "compiled code finds no BLAS here for the other products"


@jit
def _measured(a: np.ndarray, b: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    product_bf16(a, b, out, False, scratch)


def speeds() -> tuple[float, float]:
    """Measure the operations per second of a product in float32 and with rounded operands, in some 50 ms.

    It is as large as one of a small model's step. NumPy uses as many threads as it is told to.
    """
    rng = np.random.default_rng(0)
    a, b = rng.random((256, 512), np.float32), rng.random((512, 512), np.float32)
    out, scratch = np.empty((256, 512), np.float32), np.empty(SCRATCH, np.uint32)
    least = [math.inf, math.inf]
    for _ in range(12):  # in turns: what disturbs one disturbs the other
        for i, multiply in enumerate((lambda: np.dot(a, b, out=out), lambda: _measured(a, b, out, scratch))):
            start = time.perf_counter()
            multiply()
            least[i] = min(least[i], time.perf_counter() - start)
    return 2 * a.size * b.shape[1] / least[0], 2 * a.size * b.shape[1] / least[1]
