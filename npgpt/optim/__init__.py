"""Optimizers: AdamW, Muon, clipping, and the schedule of the learning rate.

Imports of npgpt: support.
"""

from npgpt.optim.adamw import AdamW
from npgpt.optim.muon import Muon

Optimizer = AdamW | Muon

__all__ = ["AdamW", "Muon", "Optimizer"]
