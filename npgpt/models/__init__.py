"""Models: the forward and backward passes of whole models, their parameters, their pasts, taps and adapters.

`base.py` says what training and generation ask of a model, and `registry.py` finds its class.

Imports of npgpt: config, layers, ops, support, hub for a model's files, and for type checkers Batch of data.
"""
