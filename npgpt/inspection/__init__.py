"""Inspection: looking into models. Their sizes, and the operations they take.

Imports of npgpt: config, models, support.
"""
