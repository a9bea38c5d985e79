"""The proof of the gradient checker: bugs that it must catch, and correct functions that it must not fail."""
