"""Layer norm, one row at a time: a row is read from memory once, and then stays in the processor's cache."""

import numpy as np

from npgpt.kernels.rows import as_rows, or_empty
from npgpt.support.buffers import empty
from npgpt.support.jit import FASTMATH, jit


def layernorm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.layernorm_forward does, but keep x, mean and rstd instead of xhat."""
    rows = as_rows(x)
    out, mean, rstd = (empty(shape, x.dtype) for shape in (rows.shape, rows.shape[:1], rows.shape[:1]))
    normalize_rows(rows, weight, or_empty(bias, x.dtype), x.dtype.type(eps), out, mean, rstd)
    return out.reshape(x.shape), (rows, mean, rstd, weight, bias is not None)


def layernorm_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Do what npgpt.layers.layernorm_backward does."""
    rows, mean, rstd, weight, has_bias = cache
    dx = empty(rows.shape, rows.dtype)
    dweight = empty(weight.shape, weight.dtype) if dweight is None else dweight
    if has_bias and dbias is None:
        dbias = empty(weight.shape, weight.dtype)
    dshift = or_empty(dbias if has_bias else None, weight.dtype)
    normalize_rows_backward(as_rows(dout), rows, mean, rstd, weight, dx, dweight, dshift)
    return dx.reshape(dout.shape), dweight, dbias if has_bias else None


@jit
def normalize_rows(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
    out: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
) -> None:
    """Put the layer norm of the rows of x (N, C) into out, and what the backward needs into mean and rstd (N,).

    bias  (C,), or of size 0 if there is none
    """
    C = x.dtype.type(x.shape[1])
    one = x.dtype.type(1)
    for n in range(x.shape[0]):
        total = x.dtype.type(0)
        for c in range(x.shape[1]):
            total += x[n, c]
        m = total / C
        # from the centred numbers, because E[x^2] - E[x]^2 loses all digits when the mean is large
        square = x.dtype.type(0)
        for c in range(x.shape[1]):
            square += (x[n, c] - m) * (x[n, c] - m)
        r = one / np.sqrt(square / C + eps)
        for c in range(x.shape[1]):
            out[n, c] = (x[n, c] - m) * r * weight[c]
        if bias.size:
            for c in range(x.shape[1]):
                out[n, c] += bias[c]
        mean[n], rstd[n] = m, r


# Not "contract": it would round some products together with their sum and others before it. Differences that are
# exactly 0, as for C = 1, would become rounding errors, which rstd can multiply by a hundred.
@jit(fastmath=FASTMATH - {"contract"})
def normalize_rows_backward(
    dout: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    weight: np.ndarray,
    dx: np.ndarray,
    dweight: np.ndarray,
    dbias: np.ndarray,
) -> None:
    """Put the gradients of normalize_rows into dx (N, C), dweight (C,) and, unless it is of size 0, dbias (C,)."""
    C = x.dtype.type(x.shape[1])
    dweight[:] = 0
    dbias[:] = 0
    for n in range(x.shape[0]):
        m, r = mean[n], rstd[n]
        through_mean = through_rstd = x.dtype.type(0)
        for c in range(x.shape[1]):
            xhat = (x[n, c] - m) * r
            dxhat = dout[n, c] * weight[c]
            through_mean += dxhat
            through_rstd += dxhat * xhat
            dweight[c] += dout[n, c] * xhat
            if dbias.size:
                dbias[c] += dout[n, c]
        through_mean /= C
        through_rstd /= C
        for c in range(x.shape[1]):
            xhat = (x[n, c] - m) * r
            dx[n, c] = r * (dout[n, c] * weight[c] - through_mean - xhat * through_rstd)
