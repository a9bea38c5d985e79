"""A model as a GPT-2 folder: it comes back to the bit, and a file that is damaged or of another model is refused."""

import json
import pickle
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt import GPT, GPTConfig

SIZES = {"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 3}
IDS = np.array([[0, 6, 3, 3, 1], [2, 5, 0, 4, 6]])
SHAPES = {  # as transformers writes them for these sizes
    "wte.weight": (7, 6),
    "wpe.weight": (5, 6),
    "h.1.ln_1.bias": (6,),
    "h.0.attn.c_attn.weight": (6, 18),
    "h.1.attn.c_attn.bias": (18,),
    "h.1.mlp.c_fc.weight": (6, 24),
    "h.0.mlp.c_proj.weight": (24, 6),
    "ln_f.weight": (6,),
}


def random_model(dtype: str = "float32", **changes) -> GPT:
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.params.flat[:] = np.random.default_rng(4).standard_normal(model.params.flat.size)
    return model


@pytest.fixture
def saved(tmp_path):
    """A folder with a model, without the checksum that npgpt adds, and a function that changes its tensors."""
    random_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors, path)

    def change(**changes):
        new = tensors | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: np.ascontiguousarray(t) for name, t in new.items() if t is not None}, path)

    return tmp_path, tensors, change


def change_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"bias": False},
        {"tie_word_embeddings": False, "bias": False, "n_inner": 5},
        {"activation_function": "gelu", "layer_norm_epsilon": 1e-3, "initializer_range": 0.5},
        {"resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3, "bos_token_id": 1, "eos_token_id": 2},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_a_model_comes_back_to_the_bit(tmp_path, dtype, changes):
    model = random_model(dtype, **changes)
    model.save_pretrained(tmp_path)
    other = GPT.from_pretrained(tmp_path, dtype)
    assert other.config == model.config
    assert other.dtype == dtype
    assert list(other.params) == list(model.params)
    assert other.params.flat.tobytes() == model.params.flat.tobytes()
    assert other.logits(IDS).tobytes() == model.logits(IDS).tobytes()


@pytest.mark.parametrize("bias", [True, False])
def test_the_file_holds_every_tensor_of_gpt2_under_its_name(tmp_path, bias):
    model = random_model(bias=bias)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == 2 + 2 * 12 + 2
    for name, shape in SHAPES.items():
        assert tensors[name].shape == shape, name
        expected = model.params.get(name, np.zeros(shape, np.float32))  # without biases: zeros, which change nothing
        np.testing.assert_array_equal(tensors[name], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_config_json_is_that_of_a_gpt2(tmp_path, dtype):
    random_model(dtype, eos_token_id=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == dtype
    assert config["model_type"] == "gpt2"
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert {key: config[key] for key in SIZES} == SIZES
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2


def test_no_single_flipped_bit_goes_unnoticed(tmp_path):
    model = GPT(GPTConfig(vocab_size=2, n_positions=1, n_embd=1, n_layer=1, n_head=1))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    weights = model.params.flat.tobytes()
    errors = []
    for position in range(0, len(data), 3):  # every third byte, each of the eight bits in turn
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            # a flip in the header's padding or in the checksum's own name changes no weight
            assert GPT.from_pretrained(tmp_path).params.flat.tobytes() == weights, position
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 0.9 * len(data) / 3
    assert all("model.safetensors" in error for error in errors)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    random_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(data), len(data) // 25), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
            GPT.from_pretrained(tmp_path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        GPT.from_pretrained(tmp_path)


def test_weights_that_were_changed_under_the_checksum_are_refused(tmp_path):
    random_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = struct.pack("<f", 1.5)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum does not match"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ln_f__bias": None}, r"the tensor ln_f\.bias is missing"),
        ({"wte__weight": None}, r"wte\.weight is missing"),
        ({"h__2__ln_1__bias": np.zeros(6, np.float32)}, r"h\.2\.ln_1\.bias does not belong"),
        ({"wpe__weight": np.zeros((6, 6), np.float32)}, r"wpe\.weight has the shape \(6, 6\).*\(5, 6\)"),
        ({"ln_f__weight": np.zeros((6, 1), np.float32)}, r"ln_f\.weight has the shape \(6, 1\)"),
        ({"h__0__mlp__c_fc__weight": np.zeros((24, 6), np.float32)}, r"h\.0\.mlp\.c_fc\.weight .*\(6, 24\)"),
        ({"wte__weight": np.zeros((7, 6), np.int64)}, r"wte\.weight has the dtype int64"),
        ({"wte__weight": np.zeros((7, 6), np.uint8)}, r"wte\.weight has the dtype uint8"),
        ({"ln_f__weight": np.ones(6, bool)}, r"ln_f\.weight has the dtype bool"),
        ({"lm_head__weight": np.ones((8, 6), np.float32)}, r"lm_head\.weight has the shape \(8, 6\)"),
        (
            {"wpe__weight": np.full((5, 6), np.nan, np.float32)},
            r"wpe\.weight has a weight that is not a finite float32",
        ),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(saved, changes, match):
    folder, _, change = saved
    change(**changes)
    with pytest.raises(ValueError, match=r"model\.safetensors: .*" + match):
        GPT.from_pretrained(folder)


def test_half_precision_weights_are_widened(saved):
    folder, tensors, change = saved
    half = tensors["wte.weight"].astype(np.float16)
    change(wte__weight=half)
    np.testing.assert_array_equal(GPT.from_pretrained(folder).params["wte.weight"], half.astype(np.float32))


def write_raw(path, dtype: str, size: int) -> None:
    """Write a safetensors file of one tensor whose dtype NumPy need not have."""
    header = json.dumps({"wte.weight": {"dtype": dtype, "shape": [7, 6], "data_offsets": [0, 42 * size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(42 * size))


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("I32", 4), ("F31", 4)])
def test_a_dtype_that_numpy_lacks_is_refused(saved, dtype, size):
    folder, _, _ = saved
    write_raw(folder / "model.safetensors", dtype, size)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        GPT.from_pretrained(folder)


def test_names_and_masks_of_other_writers_are_understood(saved):
    folder, tensors, _ = saved
    model = GPT.from_pretrained(folder)
    others = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    others |= {"transformer.h.0.attn.bias": np.tri(5, dtype=np.uint8).reshape(1, 1, 5, 5)}
    others |= {"h.1.attn.masked_bias": np.float32(-1e4).reshape(1), "lm_head.weight": tensors["wte.weight"]}
    save_file(others, folder / "model.safetensors")
    assert GPT.from_pretrained(folder).params.flat.tobytes() == model.params.flat.tobytes()


def test_biases_that_were_trained_elsewhere_are_used(tmp_path):
    random_model(bias=False).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["h.1.mlp.c_fc.bias"][2] = 0.5
    save_file(tensors, tmp_path / "model.safetensors")
    model = GPT.from_pretrained(tmp_path)
    assert model.config.bias
    assert model.params["h.1.mlp.c_fc.bias"][2] == 0.5


def test_what_config_json_leaves_out_is_as_in_gpt2(saved):
    folder, _, _ = saved
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **SIZES}))
    config = GPT.from_pretrained(folder).config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.1, 0.1, 0.1)
    assert (config.bos_token_id, config.eos_token_id) == (50256, 50256)
    assert config.activation_function == "gelu_new"
    assert config.tie_word_embeddings


def test_the_newer_name_of_gelu_is_understood(saved):
    folder, _, _ = saved
    change_config(folder, activation_function="gelu_pytorch_tanh")
    assert GPT.from_pretrained(folder).config.activation_function == "gelu_new"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "llama"}, "'llama' is not 'gpt2'"),
        ({"model_type": ...}, "model_type"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"activation_function": "relu"}, "relu"),
        ({"activation_function": ["gelu"]}, "activation_function"),
        ({"n_head": 4}, "n_head=4 does not divide n_embd=6"),
        ({"n_embd": ...}, r"\(18,\), expected \(2304,\) by config\.json"),
        ({"n_layer": "2"}, "n_layer='2' must be of type int"),
        ({"n_layer": [2]}, "n_layer"),
        ({"n_layer": None}, "n_layer"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"n_layer": -(10**30)}, "n_layer"),
        ({"n_layer": 1}, "2 blocks.*n_layer=1"),
        ({"n_layer": 3}, "2 blocks.*n_layer=3"),
        ({"bias": "no"}, "bias"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight is missing"),
        ({"n_inner": 5}, r"c_fc"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"attn_pdrop": 1}, "attn_pdrop"),
    ],
    ids=str,
)
def test_a_config_that_is_not_the_models_is_refused(saved, changes, match):
    folder, _, _ = saved
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=match):
        GPT.from_pretrained(folder)


OPEN_EACH = """
import json, pathlib, sys, npgpt
path = pathlib.Path(sys.argv[1], "config.json")
content = json.loads(path.read_text())
for name in ("n_positions", "n_embd", "n_inner", "n_layer"):
    for value in (10**9, 10**30):
        path.write_text(json.dumps(content | {"n_head": 1, name: value}))
        try:
            npgpt.GPT.from_pretrained(sys.argv[1])
        except ValueError as error:
            print("refused", error)
"""


def test_a_config_with_a_huge_size_is_refused_before_it_takes_memory(saved):
    """In a process of its own with 2 GB of address space, so that a failure does not take the machine's memory."""
    folder, _, _ = saved

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    command = [sys.executable, "-c", OPEN_EACH, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, timeout=60)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert all(line.startswith(f"refused {folder}") for line in lines), done.stdout


class Payload:
    """A pickle that opens a file for writing when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "ckpt.pt"])
def test_a_pickle_is_named_and_never_opened(saved, tmp_path, name):
    folder, _, _ = saved
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    with pytest.raises(FileNotFoundError, match=rf"{name} is a pickle, which npgpt never opens"):
        GPT.from_pretrained(folder)
    assert not (tmp_path / "opened").exists()


def test_a_pickle_under_the_name_of_a_safetensors_file_is_never_opened(saved, tmp_path):
    folder, _, _ = saved
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
        GPT.from_pretrained(folder)
    assert not (tmp_path / "opened").exists()


def test_an_index_without_files_is_refused(saved):
    folder, _, _ = saved
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json: has no weight_map"):
        GPT.from_pretrained(folder)


def test_a_head_that_differs_from_its_embedding_is_one_of_its_own(saved, caplog):
    folder, tensors, change = saved
    change(lm_head__weight=np.ones((7, 6), np.float32))
    model = GPT.from_pretrained(folder)
    assert not model.config.tie_word_embeddings
    assert (model.params["lm_head.weight"] == 1).all()
    np.testing.assert_array_equal(model.params["wte.weight"], tensors["wte.weight"])
    assert "lm_head.weight is not wte.weight, so it is a head of its own" in caplog.text


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere", "a b", "../x", ""])
def test_a_name_that_is_neither_folder_nor_on_the_hub(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # asking the hub would be an ImportError
    with pytest.raises(FileNotFoundError, match=r"no such folder|not a run folder"):
        GPT.from_pretrained(name)


def test_a_file_in_place_of_a_folder_is_said_to_be_one(tmp_path):
    for name, words in ("model.gguf", ": a model for llama.cpp: transformers converts it"), ("a.txt", "$"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(FileNotFoundError, match=rf"{name} is a file, not a folder{words}"):
            GPT.from_pretrained(tmp_path / name)


def test_without_the_hub_extra_its_name_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"openai/gpt2: no such folder.*npgpt\[hub\]"):
        GPT.from_pretrained("openai/gpt2")
