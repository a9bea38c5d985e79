"""LoRA: a weight plus the product of two thin matrices. Only these two are trained."""

import numpy as np


def lora_forward(weight: np.ndarray, lora_A: np.ndarray, lora_B: np.ndarray, scale: float) -> tuple[np.ndarray, tuple]:
    """Merge an adapter into the weight that it adapts: `out = weight + scale * (lora_B @ lora_A).T`.

    weight  (I, O), as in GPT-2's Conv1D
    lora_A  (r, I), lora_B (O, r): the orientation of PEFT and of PyTorch's Linear
    scale   alpha / r in the paper
    out     (I, O)

    A linear layer with out as its weight computes `x @ weight + scale * (x @ lora_A.T) @ lora_B.T`.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.
    """
    # (lora_B @ lora_A).T = lora_A.T @ lora_B.T; scaling the thin matrix is cheaper than scaling the product
    out = weight + lora_A.T @ (scale * lora_B.T)
    return out, (lora_A, lora_B, scale)


def lora_backward(
    dout: np.ndarray, cache: tuple, dlora_A: np.ndarray | None = None, dlora_B: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `dweight, dlora_A, dlora_B`; dweight is dout itself.

    dout     (I, O)
    dweight  (I, O)
    dlora_A  (r, I)  scale * lora_B.T @ dout.T
    dlora_B  (O, r)  scale * dout.T @ lora_A.T
    """
    lora_A, lora_B, scale = cache
    # out = weight + ..., so dweight = dout. It is not copied, because nothing uses this gradient, and over all layers
    # the copies would be as large as the model.
    # out.T = ... + scale * lora_B @ lora_A
    dlora_A = np.matmul(scale * lora_B.T, dout.T, out=dlora_A)
    dlora_B = np.matmul(dout.T, scale * lora_A.T, out=dlora_B)
    return dout, dlora_A, dlora_B
