"""Generation: writing with a trained model. The engine, the rules by which a token is drawn, prompts, opening a run.

Imports of npgpt: models, support, tokenizer, data for the templates of prompts, hub for the folders of an adapter, and
training, which knows the files of a run folder.
"""
