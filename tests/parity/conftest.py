"""Parity tests need the extra `parity`; where it is missing each file is skipped and says so."""

import os

# set before transformers is imported: nothing here may look at the network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
