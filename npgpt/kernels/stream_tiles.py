"""Tiles of products in LLVM IR, whose sums stay in registers while K goes by; `streams.py` says what they are for.

Each number of a tile is a chain of fused multiply-adds along K. Which tile computes it does not change its bits.
"""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import extending, types

# its type would have the calls in compiled code take the compiler's own argument, too
intrinsic: Any = extending.intrinsic

_features = llvmlite.binding.get_host_cpu_features()
VECTOR = 64 if _features.get("avx512f") else 32  # bytes
WIDE = VECTOR == 64  # such processors have twice the registers, too
FUSED = bool(_features.get("fma", True))  # every 64-bit ARM has it; without it, multiply and add are two roundings

COLUMNS = 2  # vectors in a tile of several rows; a tile's sums stay in registers while K goes by
SINGLE = 8 if WIDE else 4  # vectors in a tile of one row
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


def _come(variables: list, values: list, block: Any) -> None:
    """Give each variable of a loop its value where the loop is entered from a block."""
    for variable, value in zip(variables, values, strict=True):
        variable.add_incoming(value, block)


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
            following = [builder.add(k, _long(1)), builder.add(w_row, w_step), builder.add(offset, _long(size))]
            variables, firsts = [k, w_row, offset, *sums], [_long(0), w, _long(0)]
            _come(variables, [*firsts, *[ir.Constant(vector, None)] * len(places)], start)
            _come(variables, [*firsts, *old], resume)
            _come(variables, [*following, *results], loop)
            builder.cbranch(builder.icmp_signed("<", following[0], K), loop, after)
            builder.position_at_end(after)
            for place, result in zip(places, results, strict=True):
                builder.store(result, builder.inttoptr(place, vector.as_pointer())).align = size
            return context.get_dummy_value()

        return types.void(zero, weight, *[types.int64] * 9), generate

    return tile


tiles_8, tiles_4, tiles_2, tiles_1 = (_columns_tile(rows, COLUMNS) for rows in (8, 4, 2, 1))
one_8, one_1 = _columns_tile(1, SINGLE), _columns_tile(1, 1)


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
            ahead = builder.add(w_at, builder.mul(w_step, _long(2 * columns)))  # the tile after the next
            for row in ws:
                _prefetch(builder, builder.add(row, ahead))
            new = [_fma(builder, left[r], right[c], sums[r * columns + c]) for r in range(rows) for c in range(columns)]
            steps = [builder.add(k, _long(1)), builder.add(at, _long(VECTOR)), builder.add(w_at, _long(lanes * w_size))]
            starts = [_long(0)] * 3 + [ir.Constant(vector, None)] * len(sums)
            _come([k, at, w_at, *sums], starts, before)
            _come([k, at, w_at, *sums], [*steps, *new], loop)
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


dots_4, dots_2, dots_1 = (_rows_tile(rows, 4) for rows in (4 if WIDE else 2, 2, 1))
dots_8, dot = _rows_tile(1, 8), _rows_tile(1, 1)


@intrinsic
def fused(typing: Any, x: Any, y: Any, total: Any) -> Any:
    """Return x y + total of single numbers, rounded once as in vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _fma(builder, *arguments)

    return x(x, x, x), generate
