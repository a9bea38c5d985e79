"""The processor's peak: fused multiply-adds that stay in registers, as many at once as there are units for."""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm

TURNS = 200_000  # of the loop, which take one or two milliseconds
ROUNDS = 100  # of which the fastest counts


def peak_flops(threads: int) -> float:
    """Measure how many operations in float32 the threads do together in a second; a multiply-add counts two."""
    features = llvm.get_host_cpu_features()
    # the width of a register in numbers, and enough sums that none waits for its own last addition
    width, sums = (16, 24) if features.get("avx512f") else (8, 12) if features.get("fma") else (4, 24)
    loop = compiled(source(width, sums))
    with ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            list(pool.map(loop, [TURNS] * threads))
            times.append(time.perf_counter() - start)
    return threads * TURNS * sums * width * 2 / min(times)


def source(width: int, sums: int) -> str:
    """Return LLVM code of a loop with so many sums, each a vector; it returns one number, so that all are needed."""
    kind = f"<{width} x float>"
    each = range(sums)
    phis = "\n".join(f"  %a{i} = phi {kind} [ %start, %entry ], [ %b{i}, %loop ]" for i in each)
    adds = "\n".join(
        f"  %b{i} = call {kind} @llvm.fma.v{width}f32({kind} %a{i}, {kind} %x, {kind} %start)" for i in each
    )
    total = "\n".join(f"  %t{i + 1} = fadd {kind} %t{i}, %b{i + 1}" for i in range(sums - 1))
    return f"""
declare {kind} @llvm.fma.v{width}f32({kind}, {kind}, {kind})
define float @run(i64 %n, float %s) {{
entry:
  %one = insertelement {kind} poison, float %s, i32 0
  %start = shufflevector {kind} %one, {kind} poison, <{width} x i32> zeroinitializer
  %x = fmul {kind} %start, %start
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{adds}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  %t0 = fadd {kind} %b0, %start
{total}
  %result = extractelement {kind} %t{sums - 1}, i32 0
  ret float %result
}}
"""


def compiled(code: str) -> Callable[[int], float]:
    """Return the compiled function of that code, which runs without the interpreter's lock."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(code), target)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)(engine.get_function_address("run"))
    return lambda n, _engine=engine: run(n, 0.5)
