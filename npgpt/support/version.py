"""The version of npgpt, which a run writes into train.json."""

__version__ = "0.1.0"
