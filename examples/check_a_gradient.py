"""Check a backward pass: a layer of npgpt, then one of your own, first with a slip in it and then without."""

import numpy as np

import npgpt
from npgpt.layers import attention_backward, attention_forward

rng = np.random.default_rng(0)

print("npgpt's attention, 2 texts of 5 tokens, 3 heads of 2 channels:\n")
report = npgpt.check_backward(attention_forward, attention_backward, rng.standard_normal((2, 5, 18)), 3)
print(report)
assert report.verdict == "pass"


# RMSNorm, y = x / sqrt(mean(x^2)) * weight: like layer norm, but without taking the mean away
def rmsnorm_forward(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    rrms = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True))
    return x * rrms * weight, (x, rrms, weight)


def rmsnorm_backward_with_a_slip(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    x, rrms, weight = cache
    dweight = (dout * x * rrms).sum(axis=0)
    dx = dout * weight * rrms  # moving x moves rrms too: that term is missing
    return dx, dweight


def rmsnorm_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    x, rrms, weight = cache
    dweight = (dout * x * rrms).sum(axis=0)
    dxhat = dout * weight
    xhat = x * rrms
    dx = rrms * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, dweight


x, weight = rng.standard_normal((4, 3)), rng.standard_normal(3)
for backward in (rmsnorm_backward_with_a_slip, rmsnorm_backward):
    print(f"\n{backward.__name__}:\n")
    print(npgpt.check_backward(rmsnorm_forward, backward, x, weight))
