"""Check a hand-written backward pass against numerical derivatives. It needs NumPy alone, and knows of no GPT.

>>> report = check_backward(forward, backward, x, weight)   # out, cache = forward(x, weight)
>>> print(report)                                           # dx, dweight = backward(dout, cache)

Imports: NumPy alone; matplotlib for pictures and pytest in its plugin, when they are used.
"""

from .accumulation import check_accumulation
from .adapters import check_autograd_function, check_gradient, check_vjp
from .against import compare
from .check import check_backward
from .dead import find_dead
from .dependence import check_batch_independence, check_causality
from .hessian import check_double_backward, check_gradient_penalty, check_hessian
from .jvp import check_jvp
from .layer import check_layer
from .numeric import numerical_gradient
from .report import ArgumentReport, Report
from .second import check_adjoint, check_float32
from .table import table

__all__ = [
    "ArgumentReport",
    "Report",
    "check_accumulation",
    "check_adjoint",
    "check_autograd_function",
    "check_backward",
    "check_batch_independence",
    "check_causality",
    "check_double_backward",
    "check_float32",
    "check_gradient",
    "check_gradient_penalty",
    "check_hessian",
    "check_jvp",
    "check_layer",
    "check_vjp",
    "compare",
    "find_dead",
    "numerical_gradient",
    "table",
]
