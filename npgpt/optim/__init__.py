"""Optimizers: AdamW, Muon, clipping, the schedule of the learning rate, and the mean of weights.

Imports of npgpt: support.
"""

from npgpt.optim.adamw import AdamW
from npgpt.optim.averaging import Mean
from npgpt.optim.muon import Muon

Optimizer = AdamW | Muon

__all__ = ["AdamW", "Mean", "Muon", "Optimizer"]
