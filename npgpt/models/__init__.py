"""Models: what they compute, forward and backward.

They import config, ops, layers, support, and hub for their files. `base.py` says what training and generation ask of a
model; `registry.py` finds its class.
"""
