"""Files of the Hugging Face world as configurations and arrays: GPT-2 folders, PEFT adapters, safetensors. No models.

It imports config and support.
"""
