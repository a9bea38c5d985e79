"""`export --format torch-names` in nanoGPT: its GPT, written here again, loads the file and computes the same."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from npgpt.cli import main
from npgpt.tokenizer import ByteTokenizer

from .helpers import make_model, relative_error, torch

nn = torch.nn


class LayerNorm(nn.Module):
    def __init__(self, size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Block(nn.Module):
    def __init__(self, config, gelu):
        super().__init__()
        C, self.n_head, self.gelu = config.n_embd, config.n_head, gelu
        self.ln_1, self.ln_2 = LayerNorm(C, config.bias), LayerNorm(C, config.bias)
        sizes = {"c_attn": (C, 3 * C), "c_proj": (C, C)}
        self.attn = nn.ModuleDict({name: nn.Linear(*size, bias=config.bias) for name, size in sizes.items()})
        sizes = {"c_fc": (C, 4 * C), "c_proj": (4 * C, C)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=config.bias) for name, size in sizes.items()})

    def forward(self, x):
        B, T, C = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(torch.ones(T, T).tril() == 0, float("-inf"))
        out = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + self.attn["c_proj"](out)
        return x + self.mlp["c_proj"](self.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, config, gelu):
        super().__init__()
        layers = {"wte": nn.Embedding(config.vocab_size, config.n_embd)}
        layers |= {"wpe": nn.Embedding(config.block_size, config.n_embd)}
        layers |= {"h": nn.ModuleList([Block(config, gelu) for _ in range(config.n_layer)])}
        self.transformer = nn.ModuleDict(layers | {"ln_f": LayerNorm(config.n_embd, config.bias)})
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_nanogpt_loads_the_file_and_computes_the_same(tmp_path, activation, bias):
    changes = {"vocab_size": 256, "layer_norm_epsilon": 1e-5, "activation_function": activation, "bias": bias}
    model = make_model("float32", **changes)
    model.save_pretrained(tmp_path / "r")
    ByteTokenizer().save_pretrained(tmp_path / "r")
    flags = ["--anyway"] if activation == "gelu_new" else []
    assert main(["export", str(tmp_path / "r"), "--format", "torch-names", "--out", str(tmp_path / "new"), *flags]) == 0
    config = SimpleNamespace(**json.loads((tmp_path / "new/model_args.json").read_text()))
    twin = NanoGPT(config, nn.GELU(approximate="tanh" if activation == "gelu_new" else "none"))
    tensors = load_file(tmp_path / "new/model.safetensors")
    twin.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})  # strict: none too many
    ids = np.random.default_rng(1).integers(0, 256, (2, 7))
    assert relative_error(model.logits(ids), twin(torch.tensor(ids)).detach()) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_transformers_opens_a_folder_of_another_precision(tmp_path, dtype):
    from npgpt import GPT

    from .helpers import open_in_transformers

    make_model("float32", vocab_size=256).save_pretrained(tmp_path / "r")
    ByteTokenizer().save_pretrained(tmp_path / "r")
    flags = ["--format", "safetensors", "--dtype", dtype, "--out", str(tmp_path / "new")]
    assert main(["export", str(tmp_path / "r"), *flags]) == 0
    twin, back = open_in_transformers(tmp_path / "new").float(), GPT.from_pretrained(tmp_path / "new")
    ids = np.random.default_rng(1).integers(0, 256, (2, 7))
    assert relative_error(back.logits(ids), twin(torch.tensor(ids)).logits) < 1e-5
