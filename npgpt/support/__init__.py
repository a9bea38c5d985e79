"""What knows no model: parameters in one buffer, memory, compiling, files, hints.

It imports nothing else of npgpt.
"""
