"""`npgpt export` as folders: what is written opens again with the rounded weights, or the model is refused by name."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main
from npgpt.generation.opening import open_run
from npgpt.hub.tensors import rounded, save_tensors
from npgpt.models.lora import Adapters, save_adapter
from npgpt.models.registry import open_model, save_rounded, verify
from npgpt.support.files import file_digest, write_sealed_json
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

SIZES = {"vocab_size": 256, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 3}


@pytest.fixture
def folder(tmp_path):
    """Return a function that saves a random model with these changes: its name, the model, and where to write."""

    def save(**changes):
        model = GPT(GPTConfig(**SIZES | changes))
        model.params.flat[:] = np.random.default_rng(4).standard_normal(model.params.flat.size)
        model.save_pretrained(tmp_path / "r")
        ByteTokenizer().save_pretrained(tmp_path / "r")
        return str(tmp_path / "r"), model, tmp_path / "new"

    return save


def export(run, out, *flags):
    return main(["export", run, "--out", str(out), *flags])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_folder_of_another_precision_opens_with_the_rounded_weights(folder, capsys, dtype, bias):
    run, model, out = folder(bias=bias)
    assert export(run, out, "--format", "safetensors", "--dtype", dtype) == 0
    back = GPT.from_pretrained(out)
    assert back.config == model.config
    assert ("see what it costs" in capsys.readouterr().out) == (dtype != "float32")
    for name, array in model.params.items():
        np.testing.assert_array_equal(back.params[name], rounded(name, array, dtype).astype(np.float32))
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]}
    assert (out / "tokenizer.json").exists()


def test_bfloat16_is_the_nearest_and_of_two_the_even_one():
    bits = np.array([0x3F800000, 0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF808000, 1, 0x80000000], np.uint32)
    nearest = [0x3F80, 0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF80, 0, 0x8000]
    found = rounded("x", bits.view(np.float32), "bfloat16").view(np.uint32)
    np.testing.assert_array_equal(found, np.array(nearest, np.uint32) << 16)


@pytest.mark.parametrize(("dtype", "weight"), [("float16", 65520), ("bfloat16", 3.4e38)])
def test_a_weight_too_large_for_a_dtype_is_refused_by_its_tensor(folder, capsys, dtype, weight):
    run, model, out = folder()
    model.params["h.1.mlp.c_fc.weight"][2, 3] = weight
    model.save_pretrained(run)
    assert export(run, out, "--format", "safetensors", "--dtype", dtype) == 2
    assert f"h.1.mlp.c_fc.weight has the number {weight:g}, too large for {dtype}" in capsys.readouterr().err
    assert not out.exists()


def test_a_damaged_file_of_bfloat16_is_refused(folder):
    run, _, out = folder()
    assert export(run, out, "--format", "safetensors", "--dtype", "bfloat16") == 0
    path = out / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        GPT.from_pretrained(out)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_flipped_bit_of_smaller_weights_goes_unnoticed(tmp_path, dtype, mapped):
    model = GPT(GPTConfig(vocab_size=2, n_positions=1, n_embd=1, n_layer=1, n_head=1))
    save_rounded(model, tmp_path, dtype)
    path = tmp_path / "model.safetensors"
    weights, data = GPT.from_pretrained(tmp_path).params.flat.tobytes(), path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = set()
    for position in [*range(0, start, 31), *range(start, len(data))]:  # all of the weights, some of what precedes them
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            opened = open_model(tmp_path, mapped=mapped)
            verify(opened)
            assert opened.params.flat.tobytes() == weights, position  # of spaces, or of the checksum's own name
        except ValueError as error:
            assert "model.safetensors" in str(error)
            found.add(position)
    assert found >= {*range(start, len(data))}


def test_a_float32_file_is_the_bytes_that_it_always_was(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float64)}
    save_tensors(tmp_path / "a.safetensors", tensors)
    for name, array in load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


@pytest.mark.parametrize("bias", [True, False])
def test_torch_names_has_nanogpts_names_and_layout(folder, caplog, bias):
    run, model, out = folder(bias=bias, resid_pdrop=0.1)
    assert export(run, out, "--format", "torch-names", "--anyway") == 0
    assert "approximate='tanh'" in caplog.text
    tensors = load_file(out / "model.safetensors")
    assert tensors.keys() == {*(f"transformer.{name}" for name in model.params), "lm_head.weight"}
    np.testing.assert_array_equal(tensors["lm_head.weight"], model.params["wte.weight"])
    np.testing.assert_array_equal(tensors["transformer.wpe.weight"], model.params["wpe.weight"])
    name = "h.1.attn.c_proj.weight"  # square: its shape does not show which way it lies
    np.testing.assert_array_equal(tensors[f"transformer.{name}"], model.params[name].T)
    arguments = {"block_size": 5, "vocab_size": 256, "n_layer": 2, "n_head": 3, "n_embd": 6}
    assert json.loads((out / "model_args.json").read_text()) == arguments | {"dropout": 0.1, "bias": bias}
    assert not (out / "config.json").exists()  # the folder is none that transformers may open


def test_a_folder_of_nanogpts_opens_with_its_arguments_as_config(folder, capsys):
    run, model, out = folder()
    assert export(run, out, "--format", "torch-names", "--anyway") == 0
    assert main(["info", str(out)]) == 2
    assert "copy nanoGPT's model_args.json to config.json" in capsys.readouterr().err
    arguments = json.loads((out / "model_args.json").read_text())
    (out / "config.json").write_text(json.dumps({"model_args": arguments}))
    with pytest.raises(ValueError, match="the content of nanoGPT's model_args alone"):
        GPT.from_pretrained(out)
    (out / "config.json").write_text(json.dumps(arguments | {"activation_function": "gelu_new"}))
    back = GPT.from_pretrained(out)
    assert back.config.activation_function == "gelu_new"
    for name, array in model.params.items():
        np.testing.assert_array_equal(back.params[name], array)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tie_word_embeddings": False}, "the head is not tied"),
        ({"n_inner": 5}, "n_inner=5"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon=0.001"),
        ({}, "nanoGPT's model.py computes the exact one: write nn.GELU(approximate='tanh') there, and export with --"),
    ],
)
def test_what_nanogpt_cannot_compute_is_refused(folder, capsys, changes, match):
    run, _, out = folder(**changes)
    assert export(run, out, "--format", "torch-names") == 2
    assert match in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("flags", [["--merge"], ["--format", "safetensors"]], ids=" ".join)
@pytest.mark.parametrize("own", [True, False], ids=["its own tokenizer", "the tokenizer of its base"])
def test_what_is_exported_of_an_adapter_opens_as_a_run(folder, own, flags):
    run, model, out = folder()
    data = {"tokenizer": ByteTokenizer().fingerprint(), "tokenizer_json": file_digest(Path(run) / "tokenizer.json")}
    saved = {"run": "1", "model": dataclasses.asdict(model.config), "data": data}
    write_sealed_json(Path(run) / "train.json", saved)
    model.save_pretrained(run)
    adapter = Path(run).with_name("adapter")
    save_adapter(adapter, Adapters(model, 2, 3.0, ("attn.c_attn",)), run)
    tokenizer = CharTokenizer(["abc"]) if own else ByteTokenizer()
    if own:
        tokenizer.save_pretrained(adapter)
    assert export(str(adapter), out, *flags) == 0
    opened, found = open_run(out)
    assert found.fingerprint() == tokenizer.fingerprint()
    for name, array in model.params.items():  # the second factor of new adapters is zero
        np.testing.assert_array_equal(opened.params[name], array)
    if not own:
        assert (out / "train.json").read_bytes() == (Path(run) / "train.json").read_bytes()


def test_exact_gelu_needs_no_flag_and_no_notice_for_nanogpt(folder, caplog):
    run, _, out = folder(activation_function="gelu")
    assert export(run, out, "--format", "torch-names") == 0
    assert "GELU" not in caplog.text


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ([], "--format"),
        (["--format", "onnx"], "onnx"),
        (["--format", "gguf", "--weights", "int8"], "not allowed with"),
        (["--weights", "int8", "--dtype", "f16"], "--dtype f16 does not apply"),
        (["--format", "torch-names", "--dtype", "float16"], "--dtype float16 does not apply"),
        (["--format", "safetensors", "--dtype", "f16"], "which has float32, float16, bfloat16"),
        (["--format", "gguf", "--dtype", "float16"], "which has f32, f16, q8_0"),
        (["--format", "safetensors", "--anyway"], "--anyway does not apply"),
        (["--weights", "int8", "--anyway"], "--anyway does not apply"),
        (["--merge"], "is no adapter"),
    ],
    ids=" ".join,
)
def test_flags_that_do_not_apply_are_refused_by_name(folder, capsys, flags, match):
    run, _, out = folder()
    assert export(run, out, *flags) == 2
    assert match in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("form", ["safetensors", "torch-names", "gguf"])
def test_weights_of_8_bits_are_refused(folder, capsys, form):
    run, _, out = folder()
    assert export(run, out, "--weights", "int8") == 0
    assert export(str(out), f"{out}2", "--format", form) == 2
    assert "give the run that they were made from" in capsys.readouterr().err


def test_a_tokenizer_of_several_files_comes_along_whole(tmp_path):
    tokenizer = Tokenizer.train(["ab ab 中"], 259, special_tokens=())
    tokenizer.save_pretrained(tmp_path / "r")
    (tmp_path / "r" / "tokenizer.json").unlink()  # as older folders of transformers: vocab.json, merges.txt and others
    (tmp_path / "r" / "added_tokens.json").write_text(json.dumps({"<x>": tokenizer.vocab_size}))
    (tmp_path / "r" / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<x>"}))
    config = GPTConfig(**SIZES | {"vocab_size": tokenizer.vocab_size + 1})
    GPT(config).save_pretrained(tmp_path / "r")
    assert export(str(tmp_path / "r"), tmp_path / "new", "--format", "safetensors") == 0
    before, after = (Tokenizer.from_pretrained(tmp_path / name) for name in ("r", "new"))
    assert after.special_tokens == before.special_tokens == {"<x>": tokenizer.vocab_size}
    assert after.end_id == before.end_id


def test_float64_under_its_older_name_is_said_to_be_rounded(folder, caplog):
    run, _, out = folder()
    path = Path(run) / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "dtype": None, "torch_dtype": "float64"}))
    assert export(run, out, "--format", "safetensors") == 0
    assert "has float64 weights, which are rounded to float32" in caplog.text
