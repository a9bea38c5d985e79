"""Draw README's pictures again: `npgpt train --out RUN`, then `python docs/pictures.py RUN`. Needs matplotlib.

loss.png       a run's loss beside the lowest loss that any model could reach
gradcheck.png  causal attention whose backward has one slip: in dk, dscores is not transposed
"""

import sys
from pathlib import Path

import numpy as np

import npgpt
from npgpt.cli import main

FOLDER = Path(__file__).parent / "pictures"


def attention_forward(qkv):
    """Return one head's output (T, D) for queries, keys and values side by side (T, 3D), and the cache."""
    q, k, v = np.split(qkv, 3, axis=1)
    T, D = q.shape
    scores = np.where(np.tri(T, dtype=bool), q @ k.T / np.sqrt(D), -np.inf)
    probs = np.exp(scores - scores.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    return probs @ v, (q, k, v, probs)


def attention_backward(dout, cache):
    """Return dqkv (T, 3D). The keys' third of it is wrong."""
    q, k, v, probs = cache
    dprobs = dout @ v.T
    dscores = probs * (dprobs - (probs * dprobs).sum(axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    dq = dscores @ k
    dk = dscores @ q  # the slip: dscores.T @ q has the same shape
    dv = probs.T @ dout
    return np.concatenate((dq, dk, dv), axis=1)


def check():
    """Check the backward with the slip."""
    qkv = np.random.default_rng(0).standard_normal((17, 24))
    return npgpt.check_backward(attention_forward, attention_backward, qkv)


def draw(run, folder=FOLDER):
    """Write both pictures into a folder."""
    if code := main(["plot", str(run), "--out", str(folder / "loss.png")]):
        sys.exit(code)
    report = check()
    print(report)
    report.plot().savefig(folder / "gradcheck.png", dpi=150)


if __name__ == "__main__":
    draw(sys.argv[1])
