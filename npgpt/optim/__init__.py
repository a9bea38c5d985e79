"""Optimizers: AdamW, Muon, clipping and the schedule. It imports support alone."""

from npgpt.optim.adamw import AdamW
from npgpt.optim.muon import Muon

Optimizer = AdamW | Muon

__all__ = ["AdamW", "Muon", "Optimizer"]
