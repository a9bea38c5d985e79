"""Training: the loop, one step, workers, checkpoints, evaluation, recipes, and the life of a run folder.

It imports every room above it (config, ops, support, optim, hub, models, data, tokenizer), and knows no terminal.
"""
