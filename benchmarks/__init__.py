"""Measurements of npgpt beside its peers: `python -m benchmarks NAME`. Nothing here is imported by npgpt."""
