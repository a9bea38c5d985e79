"""For people who work in Python: a run with its progress, its plot and its samples, as `npgpt.train` returns it.

It is to a notebook what `cli` is to a terminal.

Imports of npgpt: config, generation, inspection, models, support, tokenizer, training.
"""
