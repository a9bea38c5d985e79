"""Support: what every other room may use. Parameters in one buffer, memory, compiling, files, hints.

Imports of npgpt: none.
"""
