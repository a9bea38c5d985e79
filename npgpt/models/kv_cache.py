"""The keys and values of the tokens read so far, so that a new token costs one position, not all."""

import copy

import numpy as np

from npgpt.config import GPTConfig


class KVCache:
    """The past of a GPT: keys and values (n_layer, B, H, n_positions, D), filled up to `length`."""

    def __init__(self, config: GPTConfig, dtype: np.dtype, batch_size: int = 1) -> None:
        H, D = config.n_head, config.n_embd // config.n_head
        self.length = 0
        self.keys = np.empty((config.n_layer, batch_size, H, config.n_positions, D), dtype)
        self.values = np.empty_like(self.keys)

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keep the keys and values (B, H, T, D) of new tokens; return those of all tokens, (B, H, length + T, D).

        `length` stays, because every layer reads the same tokens: the model increases it after the last layer.
        """
        stop = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : stop] = k
        self.values[layer, :, :, self.length : stop] = v
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    def fork(self) -> "KVCache":
        """Return another past of the same tokens."""
        other = copy.copy(self)
        other.keys, other.values = np.empty_like(self.keys), np.empty_like(self.values)
        other.keys[..., : self.length, :] = self.keys[..., : self.length, :]
        other.values[..., : self.length, :] = self.values[..., : self.length, :]
        return other
