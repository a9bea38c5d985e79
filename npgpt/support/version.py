"""The version of npgpt, which each run records in train.json."""

__version__ = "0.1.0"
