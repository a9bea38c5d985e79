"""A GGUF file, read back by the package gguf: every weight is where llama.cpp looks for it, or the model is refused."""

import sys

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main
from npgpt.hub import gguf as ours
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from npgpt.tokenizer.llama import llama_vocabulary

gguf = pytest.importorskip("gguf", reason="gguf is not installed; these tests need npgpt[gguf]")

TEXT = "the cat sat on the mat. 中文 é 👩‍💻\r\n" * 4
SIZES = {"vocab_size": 260, "n_positions": 5, "n_embd": 32, "n_layer": 2, "n_head": 4}
LAYERS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
MODELS = [
    {},
    {"bias": False},
    {"tie_word_embeddings": False, "n_inner": 37, "layer_norm_epsilon": 1e-3, "n_head": 1},
]


def random_model(dtype="float32", **changes):
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.params.flat[:] = np.random.default_rng(4).standard_normal(model.params.flat.size)
    return model


def write(path, model, dtype="f32", tokenizer=None, ends=()):
    vocabulary = llama_vocabulary(tokenizer or ByteTokenizer(), model.config.vocab_size, ends)
    return ours.write_gguf(path, model.config, model.params, vocabulary, dtype, "poems")


def read(path):
    """Return the keys of a file, and its tensors as floats with the names of their dtypes."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {t.name: (t.tensor_type.name, gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    return keys, tensors


def expected_of(model):
    """Return {name in the file: array} as the page of llama.cpp's names has them, written here by hand."""
    config, params = model.config, model.params
    found = {"token_embd.weight": params["wte.weight"], "position_embd.weight": params["wpe.weight"]}
    for own, name in [(f"h.{i}.{o}", f"blk.{i}.{n}") for i in range(config.n_layer) for o, n in LAYERS.items()]:
        found[f"{name}.weight"] = params[f"{own}.weight"].T
        found[f"{name}.bias"] = params.get(f"{own}.bias", np.zeros(params[f"{own}.weight"].shape[-1]))
    found["output_norm.weight"] = params["ln_f.weight"]
    found["output_norm.bias"] = params.get("ln_f.bias", np.zeros(config.n_embd))
    if not config.tie_word_embeddings:
        found["output.weight"] = params["lm_head.weight"]
    return found


@pytest.mark.parametrize("changes", MODELS, ids=lambda changes: ",".join(changes) or "plain")
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_every_weight_comes_back_under_its_name(tmp_path, dtype, changes):
    model = random_model(**changes)
    written = write(tmp_path / "m.gguf", model, dtype)
    _, tensors = read(tmp_path / "m.gguf")
    expected = expected_of(model)
    assert tensors.keys() == expected.keys()
    assert sorted(name for names in written.values() for name in names) == sorted(expected)
    for name, array in expected.items():
        kind, found = tensors[name]
        assert name in written[kind.lower()]
        # half a unit in the last place of float16; half a step of 127 to the largest of 32, and that of the step
        most = {"F32": 0, "F16": np.abs(array) / 2048 + 3e-8, "Q8_0": np.abs(array).max() * (0.5 / 127 + 1 / 2048)}
        assert found.shape == array.shape, name
        assert (np.abs(found - array) <= most[kind]).all(), name
        kept = array.ndim == 1 or name == "position_embd.weight"
        fits = dtype != "q8_0" or array.shape[-1] % 32 == 0
        assert kind == ("F32" if kept else dtype.upper() if fits else "F16"), name


def test_the_keys_are_those_of_the_model(tmp_path):
    tokenizer = Tokenizer.train([TEXT], 262, special_tokens=("<|endoftext|>", "<|user|>"))
    model = random_model(vocab_size=264, n_inner=37, layer_norm_epsilon=1e-3, n_head=8)
    write(tmp_path / "m.gguf", model, "f16", tokenizer, [tokenizer.special_tokens["<|user|>"]])
    keys, _ = read(tmp_path / "m.gguf")
    assert keys["general.architecture"] == "gpt2"
    assert keys["general.name"] == "poems"
    assert keys["general.file_type"] == 1
    expected = {"context_length": 5, "embedding_length": 32, "feed_forward_length": 37, "block_count": 2}
    expected |= {"attention.head_count": 8, "attention.layer_norm_epsilon": np.float32(1e-3), "vocab_size": 264}
    assert {name: keys[f"gpt2.{name}"] for name in expected} == expected
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[258:262] == [tokens[258], tokens[259], "<|endoftext|>", "<|user|>"]
    assert tokens[262:] == ["[PAD262]", "[PAD263]"]
    assert types == [1] * 260 + [3, 3, 5, 5]
    assert tokens[ord(" ")] == "Ġ"
    assert len(keys["tokenizer.ggml.merges"]) == 4
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert keys["tokenizer.ggml.eos_token_id"] == 261
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.ggml.add_space_prefix"] is False


def test_exact_gelu_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"activation_function='gelu'.*tanh form"):
        write(tmp_path / "m.gguf", random_model(activation_function="gelu"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "weight"), [("f16", 7e4), ("q8_0", 1e7), ("f32", np.inf), ("f32", np.nan)])
def test_a_weight_that_a_dtype_cannot_hold_is_refused_by_its_tensor(tmp_path, dtype, weight):
    model = random_model()
    model.params["h.1.mlp.c_fc.weight"][3, 2] = weight
    with pytest.raises(ValueError, match=rf"blk\.1\.ffn_up\.weight has the weight .*{dtype}"):
        write(tmp_path / "m.gguf", model, dtype)
    assert not list(tmp_path.iterdir())


def test_an_infinite_weight_never_becomes_a_scale(tmp_path):
    model = random_model()
    model.params["wte.weight"][0, 0] = 65504 * 127  # the largest that has a scale
    write(tmp_path / "m.gguf", model, "q8_0")
    assert np.isfinite(read(tmp_path / "m.gguf")[1]["token_embd.weight"][1]).all()


def test_without_the_extra_its_name_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"npgpt\[gguf\]"):
        write(tmp_path / "m.gguf", random_model())


@pytest.mark.parametrize("name", ["Phi-3 poems", "my phi3"])
def test_no_name_makes_llama_cpp_strip_spaces(tmp_path, name):
    model = random_model()
    vocabulary = llama_vocabulary(ByteTokenizer(), 260, [])
    ours.write_gguf(tmp_path / "m.gguf", model.config, model.params, vocabulary, "f32", name)
    assert read(tmp_path / "m.gguf")[0]["general.name"] == "npgpt"


BYTES = [bytes([byte]) for byte in range(256)]
AB_BC = {"special_tokens": {"<ab>": 256, "b>c": 257}}


@pytest.mark.parametrize(
    ("tokenizer", "match"),
    [
        (lambda: Tokenizer.train([TEXT], 258, pattern="chinese"), "no pattern like 'chinese'"),
        (lambda: Tokenizer.train([TEXT], 258, pattern=r"\w+|\W+"), r"no pattern like '\\\\w\+"),
        (lambda: BPETokenizer([*BYTES, b"<ab>", b"b>c"], [], **AB_BC), "'<ab>' and 'b>c' can overlap"),
        (lambda: BPETokenizer([*BYTES, b"<EOT>"], [], added_tokens={"<EOT>": 256}), "'<EOT>' a meaning of its own"),
        (lambda: BPETokenizer([*BYTES, b"ab"], [], whole=True), "no merges lead to the token 'ab'"),
        (lambda: BPETokenizer([*BYTES, b"ab"], [], pattern="gpt4"), "no merges lead to the token 'ab'"),
        (lambda: BPETokenizer([*BYTES, b"\n "], [(10, 32)], pattern="gpt4"), "has spaces after its last line end"),
        (lambda: Tokenizer.train([TEXT], 265), "265 tokens, the model only 264"),
    ],
)
def test_a_vocabulary_that_would_give_other_ids_is_refused(tokenizer, match):
    with pytest.raises(ValueError, match=match):
        llama_vocabulary(tokenizer(), 264, [])


def test_a_token_beyond_the_model_is_not_in_the_file_whatever_its_name(caplog):
    for kind in ("special_tokens", "added_tokens"):
        whole = BPETokenizer([*BYTES, b"[PAD]"], [], **{kind: {"[PAD]": 256}})
        caplog.clear()
        assert "[PAD]" not in llama_vocabulary(whole.below(256), 256, [])["tokens"]
        assert "lacks the tokens beyond the model's, such as '[PAD]'" in caplog.text


def test_a_vocabulary_whose_merges_lead_everywhere_may_be_whole_or_not():
    merged = ([*BYTES, b"ab", b"abc"], [(97, 98), (256, 99)])
    for whole in (True, False):
        for pattern in ("gpt2", "gpt4"):
            assert llama_vocabulary(BPETokenizer(*merged, pattern=pattern, whole=whole), 258, [])["merges"]


def test_a_model_without_an_end_token_ends_at_a_byte_that_no_text_has():
    assert llama_vocabulary(BPETokenizer(BYTES, []), 256, [])["eos_token_id"] == 255
    assert "eos_token_id" not in llama_vocabulary(ByteTokenizer(), 256, [])
    lacking = BPETokenizer(BYTES[:255], [])
    with pytest.raises(ValueError, match="no end token"):
        llama_vocabulary(lacking, 256, [])


def test_up_to_three_end_tokens_are_kept_and_more_are_refused():
    names = {f"<{i}>": 256 + i for i in range(5)}
    tokenizer = BPETokenizer([*BYTES, *(name.encode() for name in names)], [], special_tokens=names)
    found = llama_vocabulary(tokenizer, 261, [257, 258, 260])
    assert [found[f"{name}_token_id"] for name in ("eos", "eot", "eom")] == [257, 258, 260]
    with pytest.raises(ValueError, match="ends at 4 tokens"):
        llama_vocabulary(tokenizer, 261, [257, 258, 259, 260])


def test_a_token_at_which_llama_cpp_ends_by_its_name_is_said(caplog):
    names = {"<|im_end|>": 256, "<end>": 257}
    tokenizer = BPETokenizer([*BYTES, *(name.encode() for name in names)], [], special_tokens=names)
    llama_vocabulary(tokenizer, 258, [257])
    assert "ends a text at <|im_end|>" in caplog.text


@pytest.fixture
def folder(tmp_path):
    def save(model, tokenizer=None):
        model.save_pretrained(tmp_path / "r")
        (tokenizer or ByteTokenizer()).save_pretrained(tmp_path / "r")
        return str(tmp_path / "r"), tmp_path / "m.gguf"

    return save


def test_export_writes_one_file_and_says_how_to_run_it(folder, capsys, caplog):
    run, out = folder(random_model(n_inner=37))
    assert main(["export", run, "--format", "gguf", "--dtype", "q8_0", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"llama-cli -m {out} -c 5" in printed.out
    assert "2 matrices are f16" in caplog.text
    assert read(out)[0]["general.file_type"] == 7
    before = out.read_bytes()
    assert main(["export", run, "--format", "gguf", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_the_same_model_gives_the_same_file(folder):
    run, out = folder(random_model(), CharTokenizer(["the cat"]))
    other = out.with_name("n.gguf")
    for path in (out, other):
        assert main(["export", run, "--format", "gguf", "--out", str(path)]) == 0
    assert out.read_bytes() == other.read_bytes()


def test_what_fails_while_it_is_written_leaves_nothing(folder, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    run, out = folder(random_model())
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    assert main(["export", run, "--format", "gguf", "--out", str(out)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["r"]


def test_characters_at_which_llama_cpp_can_hang_need_a_flag(folder, capsys, caplog):
    run, out = folder(random_model(), CharTokenizer(["the cat é"]))
    assert main(["export", run, "--format", "gguf", "--out", str(out)]) == 2
    assert "beyond ASCII, such as 'é': llama.cpp hangs" in capsys.readouterr().err
    assert not out.exists()
    assert main(["export", run, "--format", "gguf", "--anyway", "--out", str(out)]) == 0
    assert "llama.cpp hangs" in caplog.text


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(["[PAD]0123456789"])], ids=["bytes", "chars"])
def test_no_text_has_the_name_of_a_token_that_is_padding(tokenizer):
    tokens = llama_vocabulary(tokenizer, 260, [])["tokens"]
    assert len(set(tokens)) == 260
    assert all(name.startswith(r"\xff[PAD") for name in tokens[tokenizer.vocab_size :])  # UTF-8 has no such byte


def test_float64_weights_are_rounded_and_that_is_said(folder, caplog):
    run, out = folder(random_model("float64"))
    assert main(["export", run, "--format", "gguf", "--out", str(out)]) == 0
    assert "float64 weights, which are rounded to float32" in caplog.text
