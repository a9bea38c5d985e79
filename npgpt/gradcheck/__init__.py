"""Check a hand-written backward pass against finite differences. NumPy alone; nothing here knows of a GPT.

>>> report = check_backward(forward, backward, x, weight)   # out, cache = forward(x, weight)
>>> print(report)                                           # dx, dweight = backward(dout, cache)
"""

from npgpt.gradcheck.check import check_backward
from npgpt.gradcheck.numeric import numerical_gradient
from npgpt.gradcheck.report import ArgumentReport, Report, table

__all__ = ["ArgumentReport", "Report", "check_backward", "numerical_gradient", "table"]
