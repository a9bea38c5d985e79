"""Generation: the engine, the rules of drawing, prompts, and opening a run.

It imports models, tokenizer, support, and of training what reads a run folder.
"""
