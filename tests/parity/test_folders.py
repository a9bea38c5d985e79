"""Folders as others write them: npgpt opens them with transformers' logits, or refuses them with a line of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT

from .helpers import torch, transformers

safetensors = pytest.importorskip("safetensors.torch")

SIZES = {"vocab_size": 61, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
ENDS = {"bos_token_id": 0, "eos_token_id": [0, 60]}
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# of logits of order ten, both in float32: some hundred roundings of 6e-8 each
TOLERANCE = 2e-4


def make(scale: float = 0.5, **changes):
    """Return a GPT2LMHeadModel whose logits are of order ten."""
    torch.manual_seed(3)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(SIZES | ENDS | changes))).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (1 if p.ndim == 1 and "ln_f" not in name else scale))
    return model


def assert_same_logits(folder: Path, twin, **options) -> GPT:
    model = GPT.from_pretrained(folder, **options)
    ids = np.random.default_rng(1).integers(0, twin.config.vocab_size, (2, 12))
    with torch.no_grad():
        expected = twin.float()(torch.tensor(ids)).logits.numpy()
    assert 1 < np.abs(expected).max() < 200
    np.testing.assert_allclose(model.logits(ids), expected, atol=TOLERANCE, rtol=0)
    return model


def write(folder: Path, tensors: dict, config: dict) -> None:
    folder.mkdir(exist_ok=True)
    safetensors.save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def out_in(tensors: dict) -> dict:
    return {name: t.T if name.endswith(MATRICES) else t for name, t in tensors.items()}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", ["whole", "20KB"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_what_transformers_saves(tmp_path, dtype, shards, tied, mapped) -> None:
    twin = make(tie_word_embeddings=tied).to(getattr(torch, dtype))
    twin.save_pretrained(tmp_path, **({} if shards == "whole" else {"max_shard_size": shards}))
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards != "whole")
    assert_same_logits(tmp_path, twin, mapped=mapped)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.", "model.module.module."]
)
def test_prefixes(tmp_path, prefix, dtype) -> None:
    twin = make().to(getattr(torch, dtype))
    write(tmp_path, {f"{prefix}{n}": t for n, t in twin.state_dict().items()}, twin.config.to_dict())
    assert_same_logits(tmp_path, twin)


@pytest.mark.parametrize("name", ["gelu", "gelu_python", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"])
def test_names_of_gelu(tmp_path, name) -> None:
    twin = make(activation_function=name)
    twin.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, twin)


@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification"])
def test_other_classes(tmp_path, kind) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES, **ENDS, pad_token_id=0, initializer_range=0.5)
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    assert_same_logits(tmp_path, transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval())


def test_a_head_that_differs_is_used_as_in_transformers(tmp_path) -> None:
    twin = make(tie_word_embeddings=False)
    write(tmp_path, twin.state_dict(), twin.config.to_dict() | {"tie_word_embeddings": True})
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert not torch.equal(again.lm_head.weight, again.transformer.wte.weight)
    assert_same_logits(tmp_path, again)


@pytest.mark.parametrize("stored", ["exact", "padded"])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("writer", ["nanoGPT", "minGPT"])
def test_nanogpt_and_mingpt(tmp_path, writer, masks, stored) -> None:
    nano = writer == "nanoGPT"
    twin = make(tie_word_embeddings=nano, activation_function="gelu" if nano else "gelu_new", vocab_size=64)
    tensors = out_in(twin.state_dict())
    if masks:
        tensors |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)}
    config = {"vocab_size": 64 if stored == "exact" else 61, "block_size": 16, "n_layer": 2, "n_head": 3, "n_embd": 24}
    config |= {"dropout": 0.0, "bias": True} if nano else {"model_type": None, "embd_pdrop": 0.1}
    write(tmp_path, tensors, config)
    model = assert_same_logits(tmp_path, twin)
    assert model.config.tie_word_embeddings == nano


def test_nanogpt_without_biases(tmp_path) -> None:
    twin = make(activation_function="gelu")
    tensors = {n: t for n, t in out_in(twin.state_dict()).items() if not n.endswith(".bias")}
    with torch.no_grad():
        for name, p in twin.named_parameters():
            if name.endswith(".bias"):
                p.zero_()
    args = {"vocab_size": 61, "block_size": 16, "n_layer": 2, "n_head": 3, "n_embd": 24, "dropout": 0.1, "bias": False}
    write(tmp_path, tensors, args)
    assert not assert_same_logits(tmp_path, twin).config.bias


REFUSED = {
    "relu": {"activation_function": "relu"},
    "gelu_10": {"activation_function": "gelu_10"},
    "quick_gelu": {"activation_function": "quick_gelu"},
    "scale_attn_weights": {"scale_attn_weights": False},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "add_cross_attention": {"add_cross_attention": True},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes"}},
    "'llama' is not 'gpt2'": {"model_type": "llama"},
    "has the shape": {"n_positions": 17},
    "2 blocks": {"n_layer": 3},
    "lm_head.weight is missing, and config.json unties it": {"tie_word_embeddings": False},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_npgpt_cannot_compute_is_refused_by_name(tmp_path, words) -> None:
    twin = make()
    twin.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(twin.config.to_dict() | REFUSED[words]))
    with pytest.raises(ValueError, match=words):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ckpt.pt", "model.pt", "shards"])
def test_the_python_in_the_error_of_a_pickle_converts_it(tmp_path, name) -> None:
    nano = name == "ckpt.pt"
    twin = make(activation_function="gelu" if nano else "gelu_new")
    state = twin.state_dict()
    if nano:
        args = {"vocab_size": 61, "block_size": 16, "n_layer": 2, "n_head": 3, "n_embd": 24, "dropout": 0, "bias": True}
        state = {"model": {f"_orig_mod.{n}": t for n, t in out_in(state).items()}, "model_args": args, "iter_num": 7}
    else:
        (tmp_path / "config.json").write_text(json.dumps(twin.config.to_dict()))
    if name == "shards":
        names = list(state)
        for i, part in enumerate((names[:9], names[9:])):
            torch.save({n: state[n] for n in part}, tmp_path / f"pytorch_model-0000{i + 1}-of-00002.bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    else:
        torch.save(state, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="a pickle, which npgpt never opens") as error:
        GPT.from_pretrained(tmp_path)
    code = str(error.value).split("with PyTorch: ")[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert_same_logits(tmp_path, twin)


def test_round_trip_with_a_step_of_training_in_transformers(tmp_path) -> None:
    make().save_pretrained(tmp_path / "a")
    GPT.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    twin = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "b")
    ids = torch.arange(24).reshape(2, 12)
    twin(ids, labels=ids).loss.backward()
    before = twin.transformer.wte.weight.detach().clone()
    torch.optim.SGD(twin.parameters(), 0.01).step()
    assert not torch.equal(before, twin.transformer.wte.weight)
    twin.save_pretrained(tmp_path / "c")
    assert_same_logits(tmp_path / "c", twin.eval())


@pytest.mark.big
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("layers", "heads", "width"), [(12, 12, 768), (24, 16, 1024)], ids=["gpt2", "gpt2-medium"])
def test_shapes_of_presets(tmp_path, layers, heads, width, dtype) -> None:
    sizes = {"vocab_size": 50257, "n_positions": 1024, "n_embd": width, "n_layer": layers, "n_head": heads}
    twin = make(0.08, **sizes, eos_token_id=50256).to(getattr(torch, dtype))
    twin.save_pretrained(tmp_path, max_shard_size="300MB")
    assert_same_logits(tmp_path, twin)
