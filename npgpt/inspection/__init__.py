"""Inspection: looking into models. Their sizes and operations, the losses of a run, and where a step's time goes.

Imports of npgpt: config, data, kernels, models, ops, optim, support, training.
"""
