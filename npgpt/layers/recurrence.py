"""What GRU and LSTM share: the logistic function, and which row of a batch takes a step at which time."""

from typing import NamedTuple

import numpy as np

from npgpt.layers.lengths import real_positions


class Steps(NamedTuple):
    """When each row steps, and where its gradient stops."""

    order: range  # the times 0..T-1, or from the last to the first
    active: np.ndarray  # (B, T, 1) bool: a row that is not active keeps its state, and its output is 0
    cut: np.ndarray  # (B, T, 1) bool: no gradient goes from this step into the state before it


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return `1 / (1 + exp(-x))`, by an exponential of -|x|, which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def steps(B: int, T: int, lengths: np.ndarray | None, reverse: bool, bptt: int | None) -> Steps:
    """Return when each of B rows steps.

    Example: T = 3, lengths [3, 2], reverse and bptt = 1 step row 0 at 2, 1, 0 and row 1 at 1, 0. Cut are, in row 0,
    steps 1 and 0, and in row 1 step 0: the first step of a row passes its gradient on to the initial state.

    Raises ValueError for lengths that are not (B,) or not in 0..T, and for a bptt below 1; TypeError for lengths that
    are not integers.
    """
    if bptt is not None and bptt < 1:
        raise ValueError(f"bptt={bptt} must be 1 or more")
    active, times = real_positions(lengths, B, T), np.arange(T)
    # how many steps a row has made before this one
    done = active.sum(axis=1, keepdims=True) - 1 - times if reverse else np.broadcast_to(times, (B, T))
    cut = (done > 0) & (done % (bptt or T + 1) == 0)
    return Steps(range(T)[:: -1 if reverse else 1], active[..., None], cut[..., None])


def check_shapes(gates: int, x: np.ndarray, states: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays of a layer with that many gates fit together.

    states   h0, and c0 where there is one
    weights  w_ih, w_hh, b_ih and b_hh
    """
    if x.ndim != 3:
        raise ValueError(f"x must be (B, T, I), got the shape {x.shape}")
    H = states["h0"].shape[-1]
    wanted = {"w_ih": (gates * H, x.shape[2]), "w_hh": (gates * H, H), "b_ih": (gates * H,), "b_hh": (gates * H,)}
    for name, array in (states | weights).items():
        shape = wanted.get(name, (x.shape[0], H))
        if array.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {array.shape}")
