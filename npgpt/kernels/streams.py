"""Products of few rows or many with a matrix, in which each row has the bits that it would have alone.

BLAS adds up in an order that depends on how many rows there are, so a text would be continued differently beside
others. Here each number of a result is one chain of fused multiply-adds along K, in order, from 0:

    sum = fma(x[m, 0], w[0, n], 0);  sum = fma(x[m, 1], w[1, n], sum);  ...

whatever rows and columns are computed together, and by however many threads. So parts of a prompt, a batch of texts
and a single token give the same bits. Few rows are as fast as the memory that holds the matrix, many nearly as fast as
BLAS. Weights may be int8: they become floats in registers. What handles vectors is written in LLVM IR, as in `bf16.py`.
"""

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import extending, types

from npgpt.support.jit import INNER, jit

# its type would have the calls in compiled code take the compiler's own argument, too
intrinsic: Any = extending.intrinsic

_features = llvmlite.binding.get_host_cpu_features()
VECTOR = 64 if _features.get("avx512f") else 32  # bytes
WIDE = VECTOR == 64  # such processors have twice the registers, too
FUSED = bool(_features.get("fma", True))  # every 64-bit ARM has it; without it, multiply and add are two roundings

COLUMNS = 2  # vectors in a tile of several rows; a tile's sums stay in registers while K goes by
SINGLE = 8 if WIDE else 4  # vectors in a tile of one row
PANEL = 128  # columns of a panel of int8
FEW = 16  # rows, below which a product waits for memory and not for arithmetic
# Terms that are added to one tile before the next. Few rows: the processor fetches so many rows of w at once. Many:
# what a tile needs of w stays in the nearest cache for all of them
DEPTH_FEW, DEPTH_MANY = 32, 256
AHEAD = 2048  # bytes, how far ahead a panel is fetched

_long, _int, _byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def _kinds(number: Any) -> tuple[Any, Any, int]:
    """Return LLVM's types of a number like this one and of a vector of them, and how many it has."""
    lanes = VECTOR * 8 // number.bitwidth
    real = ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
    return real, ir.VectorType(real, lanes), lanes


def _load(builder: Any, address: Any, kind: Any, size: int) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = size
    return value


def _spread(builder: Any, number: Any, lanes: int) -> Any:
    """Return a vector of the same number."""
    first = builder.insert_element(ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined), number, _int(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_int, lanes), [0] * lanes))


def _fma(builder: Any, x: Any, y: Any, total: Any) -> Any:
    """Return x y + total, rounded once."""
    if not FUSED:
        return builder.fadd(builder.fmul(x, y), total)
    kind = x.type
    real = kind.element if isinstance(kind, ir.VectorType) else kind
    name = f"llvm.fma.{f'v{kind.count}' if kind is not real else ''}{'f32' if real == ir.FloatType() else 'f64'}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [x, y, total])


def _weights(builder: Any, address: Any, real: Any, weight: Any, lanes: int) -> Any:
    """Return a vector of weights as floats; they are of the numba type `weight`."""
    if isinstance(weight, types.Integer):
        small = _load(builder, address, ir.VectorType(_byte, lanes), 1)
        return builder.sitofp(small, ir.VectorType(real, lanes))
    return _load(builder, address, ir.VectorType(real, lanes), weight.bitwidth // 8)


def _prefetch(builder: Any, address: Any) -> None:
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [_byte.as_pointer(), _int, _int, _int])
        function = ir.Function(builder.module, kind, name)
    builder.call(function, [builder.inttoptr(address, _byte.as_pointer()), _int(0), _int(2), _int(1)])


def _columns_tile(rows: int, vectors: int) -> Any:
    """Return an intrinsic that continues the chains of a tile of the result, `rows` times `vectors` vectors."""

    @intrinsic
    def tile(
        typing: Any, zero: Any, weight: Any, x: Any, x_step: Any, w: Any, w_step: Any, ahead: Any, K: Any, out: Any,
        step: Any, begin: Any,
    ) -> Any:  # fmt: skip
        """Add K terms to out, or begin with them.

        zero, weight  a number of the kind of x and out, and of w
        others        addresses, and the distances of rows in bytes; ahead is what to fetch into the cache, from w on
        """
        size, w_size = zero.bitwidth // 8, weight.bitwidth // 8

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, _, x, x_step, w, w_step, ahead, K, out, step, begin = arguments
            real, vector, lanes = _kinds(zero)
            xs = [builder.add(x, builder.mul(x_step, _long(r))) for r in range(rows)]
            places = [
                builder.add(builder.add(out, builder.mul(step, _long(r))), _long(v * VECTOR))
                for r in range(rows)
                for v in range(vectors)
            ]
            start = builder.block
            resume, loop, after = (builder.append_basic_block() for _ in range(3))
            new = ir.Constant(vector, None)
            builder.cbranch(builder.icmp_signed("!=", begin, _long(0)), loop, resume)
            builder.position_at_end(resume)
            old = [_load(builder, place, vector, size) for place in places]
            builder.branch(loop)
            builder.position_at_end(loop)
            k, w_row, offset = builder.phi(_long), builder.phi(_long), builder.phi(_long)
            sums = [builder.phi(vector) for _ in places]
            loaded = [
                _weights(builder, builder.add(w_row, _long(v * lanes * w_size)), real, weight, lanes)
                for v in range(vectors)
            ]
            for line in range(-(-vectors * lanes * w_size // 64)):
                _prefetch(builder, builder.add(builder.add(w_row, ahead), _long(line * 64)))
            results = []
            for r in range(rows):
                number = _spread(builder, _load(builder, builder.add(xs[r], offset), real, size), lanes)
                results += [_fma(builder, number, loaded[v], sums[r * vectors + v]) for v in range(vectors)]
            next_k = builder.add(k, _long(1))
            following = [next_k, builder.add(w_row, w_step), builder.add(offset, _long(size))]
            for variable, value, following_one in zip(
                (k, w_row, offset), (_long(0), w, _long(0)), following, strict=True
            ):
                variable.add_incoming(value, start)
                variable.add_incoming(value, resume)
                variable.add_incoming(following_one, loop)
            for total, before, result in zip(sums, old, results, strict=True):
                total.add_incoming(new, start)
                total.add_incoming(before, resume)
                total.add_incoming(result, loop)
            builder.cbranch(builder.icmp_signed("<", next_k, K), loop, after)
            builder.position_at_end(after)
            for place, result in zip(places, results, strict=True):
                builder.store(result, builder.inttoptr(place, vector.as_pointer())).align = size
            return context.get_dummy_value()

        return types.void(zero, weight, *[types.int64] * 9), generate

    return tile


_tiles_8, _tiles_4, _tiles_2, _tiles_1 = (_columns_tile(rows, COLUMNS) for rows in (8, 4, 2, 1))
_one_8, _one_1 = _columns_tile(1, SINGLE), _columns_tile(1, 1)


def _rows_tile(rows: int, columns: int) -> Any:
    """Return an intrinsic for a tile of x @ w.T: `rows` rows of x with `columns` rows of w."""

    @intrinsic
    def tile(
        typing: Any, zero: Any, weight: Any, x: Any, x_step: Any, w: Any, w_step: Any, vectors: Any, out: Any, step: Any
    ) -> Any:
        """Put the products of whole vectors into out: each lane is a chain, and lanes are added by halves."""
        size, w_size = zero.bitwidth // 8, weight.bitwidth // 8

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, _, x, x_step, w, w_step, vectors, out, step = arguments
            real, vector, lanes = _kinds(zero)
            xs = [builder.add(x, builder.mul(x_step, _long(r))) for r in range(rows)]
            ws = [builder.add(w, builder.mul(w_step, _long(c))) for c in range(columns)]
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            k, at, w_at = builder.phi(_long), builder.phi(_long), builder.phi(_long)
            sums = [builder.phi(vector) for _ in range(rows * columns)]
            left = [_load(builder, builder.add(row, at), vector, size) for row in xs]
            right = [_weights(builder, builder.add(row, w_at), real, weight, lanes) for row in ws]
            new = [_fma(builder, left[r], right[c], sums[r * columns + c]) for r in range(rows) for c in range(columns)]
            steps = [builder.add(k, _long(1)), builder.add(at, _long(VECTOR)), builder.add(w_at, _long(lanes * w_size))]
            starts = [_long(0)] * 3 + [ir.Constant(vector, None)] * len(sums)
            for variable, start, value in zip([k, at, w_at, *sums], starts, [*steps, *new], strict=True):
                variable.add_incoming(start, before)
                variable.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", steps[0], vectors), loop, after)
            builder.position_at_end(after)
            for i, total in enumerate(new):
                place = builder.add(builder.add(out, builder.mul(step, _long(i // columns))), _long(i % columns * size))
                number = builder.extract_element(_halved(builder, total, lanes), _int(0))
                builder.store(number, builder.inttoptr(place, real.as_pointer())).align = size
            return context.get_dummy_value()

        return types.void(zero, weight, *[types.int64] * 7), generate

    return tile


def _halved(builder: Any, total: Any, lanes: int) -> Any:
    """Return a vector whose first lane is the sum of all: halves are added, then quarters, and so on."""
    part = lanes // 2
    while part:
        order = ir.Constant(ir.VectorType(_int, lanes), [min(i + part, lanes - 1) for i in range(lanes)])
        total = builder.fadd(total, builder.shuffle_vector(total, total, order))
        part //= 2
    return total


_dots_4, _dots_2, _dots_1 = (_rows_tile(rows, 4) for rows in (4 if WIDE else 2, 2, 1))
_dots_8, _dot = _rows_tile(1, 8), _rows_tile(1, 1)


@intrinsic
def _fused(typing: Any, x: Any, y: Any, total: Any) -> Any:
    """Return x y + total of single numbers, rounded once as in vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _fma(builder, *arguments)

    return x(x, x, x), generate


@jit(inner=True)
def _strip(
    x: np.ndarray, w: np.ndarray, right: int, w_step: int, ahead: int, k: int, terms: int, out: np.ndarray, j: int,
    last: int,
) -> int:  # fmt: skip
    """Continue the columns from j to last, as far as whole vectors go, with the terms from k on; return what is left.

    right  the address of w[k, j], after which a row of w is contiguous up to `last`
    """
    zero, weight = x.dtype.type(0), w.dtype.type(0)
    M, size, w_size = x.shape[0], x.itemsize, w.itemsize
    lanes = VECTOR // size
    x_step, step = x.strides[0], out.strides[0]
    left, to = np.int64(x.ctypes.data) + k * size, np.int64(out.ctypes.data) + j * size
    begin = np.int64(k == 0)
    while M == 1 and j + SINGLE * lanes <= last:
        _one_8(zero, weight, left, x_step, right, w_step, ahead, terms, to, step, begin)
        j, right, to = j + SINGLE * lanes, right + SINGLE * lanes * w_size, to + SINGLE * VECTOR
    while j + COLUMNS * lanes <= last:
        i = 0
        while i + 8 <= M and WIDE:
            at = to + i * step
            _tiles_8(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 8
        while i + 4 <= M:
            at = to + i * step
            _tiles_4(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 4
        if i + 2 <= M:
            at = to + i * step
            _tiles_2(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 2
        if i < M:
            _tiles_1(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, to + i * step, step, begin)
        j, right, to = j + COLUMNS * lanes, right + COLUMNS * lanes * w_size, to + COLUMNS * VECTOR
    while j + lanes <= last:
        for i in range(M):
            _one_1(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, to + i * step, step, begin)
        j, right, to = j + lanes, right + lanes * w_size, to + VECTOR
    return j


@jit(inner=True)
def _scaled(out: np.ndarray, scale: np.ndarray, bias: np.ndarray, first: int, last: int) -> None:
    for m in range(out.shape[0]):
        if scale.size:
            for n in range(first, last):
                out[m, n] *= scale[n]
        if bias.size:
            for n in range(first, last):
                out[m, n] += bias[n]


@jit(inner=True)
def _columns(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    M, K = x.shape
    depth = DEPTH_FEW if M < FEW else DEPTH_MANY
    w_at, w_step = np.int64(w.ctypes.data), w.strides[0]
    for k in range(0, K, depth):
        terms = min(depth, K - k)
        right = w_at + k * w_step + first * w.itemsize
        done = _strip(x, w, right, w_step, depth * w_step, k, terms, out, first, last)
        for n in range(done, last):
            for m in range(M):
                total = out[m, n] if k else x.dtype.type(0)
                for i in range(k, k + terms):
                    total = _fused(x[m, i], x.dtype.type(w[i, n]), total)
                out[m, n] = total


@jit(inner=True)
def _panels(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    M, K = x.shape
    depth = K if M < FEW else DEPTH_MANY
    w_at, w_step, width = np.int64(w.ctypes.data), w.strides[1], w.shape[2]
    for j in range(first, last, width):
        panel, stop = j // width, min(j + width, last)
        for k in range(0, K, depth):
            terms = min(depth, K - k)
            right = w_at + panel * w.strides[0] + k * w_step
            done = _strip(x, w, right, w_step, AHEAD, k, terms, out, j, stop)
            for n in range(done, stop):
                for m in range(M):
                    total = out[m, n] if k else x.dtype.type(0)
                    for i in range(k, k + terms):
                        total = _fused(x[m, i], x.dtype.type(w[panel, i, n - j]), total)
                    out[m, n] = total


@jit(inner=True)
def _rows(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    zero, weight = x.dtype.type(0), w.dtype.type(0)
    M, K = x.shape
    size = x.itemsize
    whole = K * size // VECTOR
    x_at, w_at, out_at = np.int64(x.ctypes.data), np.int64(w.ctypes.data), np.int64(out.ctypes.data)
    x_step, w_step, step = x.strides[0], w.strides[0], out.strides[0]
    high = 4 if WIDE else 2
    n = first
    while n < last and whole:
        right, to = w_at + n * w_step, out_at + n * size
        if M == 1 and n + 8 <= last:
            _dots_8(zero, weight, x_at, x_step, right, w_step, whole, to, step)
            n += 8
        elif n + 4 <= last:
            i = 0
            while i + high <= M:
                _dots_4(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
                i += high
            if i + 2 <= M:
                _dots_2(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
                i += 2
            if i < M:
                _dots_1(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
            n += 4
        else:
            for i in range(M):
                _dot(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
            n += 1
    done = whole * (VECTOR // size)
    if done < K:
        for n in range(first, last):
            for m in range(M):
                total = out[m, n] if whole else zero
                for i in range(done, K):
                    total = _fused(x[m, i], x.dtype.type(w[n, i]), total)
                out[m, n] = total


def columns_product(
    x: np.ndarray, w: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    """Put (x @ w) * scale + bias into out, in the columns from first to last.

    x, out      (M, K) and (M, N), of one dtype, float32 or float64; contiguous rows
    w           (K, N), contiguous rows, or (P, K, PANEL) as `panels` makes it; of that dtype, or int8
    scale, bias (N,), of size 0 where there is none

    `first` is 0 or a multiple of PANEL if w is in panels. Whole vectors of columns are fast, what is left over is slow.
    """
    if w.ndim == 3:
        w = w.transpose(1, 0, 2).reshape(w.shape[1], -1)
    part = x @ w[:, first:last].astype(x.dtype)
    part = part * scale[first:last] if scale.size else part
    out[:, first:last] = part + bias[first:last] if bias.size else part


def rows_product(x: np.ndarray, w: np.ndarray, scale: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    """Put (x @ w.T) * scale into out, in the columns from first to last; w (N, K), contiguous rows, else as above."""
    part = x @ w[first:last].astype(x.dtype).T
    out[:, first:last] = part * scale[first:last] if scale.size else part


def panels(w: np.ndarray) -> np.ndarray:
    """Return a matrix (K, N) as contiguous panels of columns, (P, K, PANEL); the last is padded with 0.

    One token needs a matrix once, so its time is that of reading it. Half a row of int8 is too short to be read at the
    speed of memory, a panel is not.
    """
    K, N = w.shape
    out = np.zeros((-(-N // PANEL), K, PANEL), w.dtype)
    for p in range(len(out)):
        part = w[:, p * PANEL : (p + 1) * PANEL]
        out[p, :, : part.shape[1]] = part
    return out


@extending.overload(columns_product, inline="never", jit_options=INNER)
def _columns_product(x: Any, w: Any, scale: Any, bias: Any, out: Any, first: Any, last: Any) -> Any:
    multiply = _panels if w.ndim == 3 else _columns

    def call(x: Any, w: Any, scale: Any, bias: Any, out: Any, first: Any, last: Any) -> None:
        multiply(x, w, out, first, last)
        _scaled(out, scale, bias, first, last)

    return call


@extending.overload(rows_product, inline="never", jit_options=INNER)
def _rows_product(x: Any, w: Any, scale: Any, out: Any, first: Any, last: Any) -> Any:
    def call(x: Any, w: Any, scale: Any, out: Any, first: Any, last: Any) -> None:
        _rows(x, w, out, first, last)
        _scaled(out, scale, scale[:0], first, last)

    return call
