"""What a model's methods ask of ids, targets, starts and precision, with errors that name the value."""

from typing import Any

import numpy as np

from npgpt.config import GPTConfig


def checked_batch(
    ids: Any, targets: Any, starts: Any, n_positions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return ids, targets and starts as arrays; ids may be a Batch, which holds all three."""
    if targets is None:
        if not hasattr(ids, "targets"):
            raise TypeError("targets are missing: give ids and targets, or a Batch")
        if starts is not None:
            raise TypeError("starts stand in the Batch: give them there alone")
        ids, targets, starts = ids.ids, ids.targets, ids.starts
    ids = checked_ids(ids, n_positions)
    return ids, integers("targets", targets, ids.shape), checked_starts(starts, ids.shape)


def checked_ids(ids: Any, n_positions: int, before: int = 0) -> np.ndarray:
    """Return ids as an array (B, T) that fits into n_positions after so many tokens before it."""
    ids = integers("ids", ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"ids must have the shape (B, T), both at least 1, got {ids.shape}")
    if before + ids.shape[1] > n_positions:
        raise ValueError(f"{before + ids.shape[1]} tokens are longer than n_positions={n_positions}")
    return ids


def checked_input(
    ids: Any, inputs_embeds: Any, config: GPTConfig, dtype: np.dtype, before: int = 0
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[int, ...]]:
    """Return ids (B, T), or inputs_embeds (B, T, C) in this dtype, of which one is None; and (B, T)."""
    if (ids is None) == (inputs_embeds is None):
        raise ValueError("give either ids or inputs_embeds")
    if inputs_embeds is None:
        ids = checked_ids(ids, config.n_positions, before)
        return ids, None, ids.shape
    embeds = np.asarray(inputs_embeds)
    if embeds.dtype.kind != "f":
        raise TypeError(f"inputs_embeds must be floats, got {embeds.dtype}")
    if embeds.ndim != 3 or 0 in embeds.shape or embeds.shape[2] != config.n_embd:
        raise ValueError(f"inputs_embeds must have the shape (B, T, {config.n_embd}), got {embeds.shape}")
    if before + embeds.shape[1] > config.n_positions:
        raise ValueError(f"{before + embeds.shape[1]} tokens are longer than n_positions={config.n_positions}")
    return None, embeds.astype(dtype, copy=False), embeds.shape[:2]


def require_known(ids: np.ndarray, vocab_size: int) -> None:
    """Raise ValueError for ids outside the vocabulary."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids {ids.min()}..{ids.max()} are not all in 0..{vocab_size - 1}")


def checked_starts(starts: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return starts as an array of the shape of ids, int64; each is a position up to its own."""
    if starts is None:
        return None
    starts = integers("starts", starts, shape)
    wrong = (starts < 0) | (starts > np.arange(starts.shape[1]))
    if wrong.any():
        raise ValueError(f"start {starts[wrong][0]} is not in 0..{np.nonzero(wrong)[1][0]}, its own position")
    return starts.astype(np.int64)  # positions are made by subtraction, which uint64 cannot hold


def integers(name: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a value as an array of integers, of this shape. Raises TypeError or ValueError for another."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} {array.shape} must have the shape of ids {shape}")
    return array


def rounds(compute: str, dtype: np.dtype) -> bool:
    """Say whether a model's steps round operands to bfloat16. Raises ValueError for a model that is not in float32."""
    if compute == "bf16" and dtype != np.float32:
        raise ValueError(f"compute='bf16' rounds operands in float32, and the model's dtype is {dtype.name!r}")
    return compute == "bf16"
