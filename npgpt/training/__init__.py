"""Training: the loop, one step, workers, evaluation, checkpoints, recipes, and runs from first file to last record.

It yields records and prints nothing.

Imports of npgpt: config, data, hub, kernels, models, ops, optim, support, tokenizer.
"""
