"""The hub: Hugging Face's files to configurations and arrays, and back. GPT-2 folders, PEFT adapters, safetensors.

Imports of npgpt: config, support. Models import the hub, so it knows no model.
"""
