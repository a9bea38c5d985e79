"""A model whose weights are mapped from their file: the same model, one copy, and nothing in the file is trusted."""

import copy
import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt import GPT, AdamW, GPTConfig
from npgpt.data.batch import Batch
from npgpt.hub.tensors import map_tensors, save_tensors
from npgpt.models.registry import open_model, verify
from npgpt.support.parameters import Parameters

SIZES = {"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 3}
IDS = np.array([[0, 6, 3, 3, 1], [2, 5, 0, 4, 6]])
TARGETS = np.array([[6, 3, 3, 1, 2], [5, 0, 4, 6, 6]])


def random_model(dtype: str = "float32", **changes) -> GPT:
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.params.flat[:] = np.random.default_rng(4).standard_normal(model.params.flat.size)
    return model


def is_mapped(model: GPT) -> bool:
    return model.file is not None and np.shares_memory(model.params["wte.weight"], model.file.flat)


@pytest.fixture
def saved(tmp_path):
    """A folder with a model."""
    random_model().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("ops", ["fast", "reference"])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"bias": False, "n_inner": 5}], ids=str)
def test_a_mapped_model_computes_what_one_that_was_read_does(tmp_path, ops, changes):
    random_model(**changes).save_pretrained(tmp_path)
    read, mapped = GPT.from_pretrained(tmp_path, ops=ops), GPT.from_pretrained(tmp_path, ops=ops, mapped=True)
    assert is_mapped(mapped)
    assert mapped.config == read.config
    assert mapped.size == read.size
    for name, array in read.params.items():
        np.testing.assert_array_equal(mapped.params[name], array)
        place = mapped.params.places[name]
        np.testing.assert_array_equal(mapped.params.flat[place], array.ravel())
    assert mapped.logits(IDS).tobytes() == read.logits(IDS).tobytes()
    assert mapped.loss(IDS, TARGETS) == read.loss(IDS, TARGETS)
    mapped.verify()


def test_gradients_of_a_mapped_model_are_those_of_one_that_was_read(saved):
    for ops in ("fast", "reference"):
        read, mapped = GPT.from_pretrained(saved, ops=ops), GPT.from_pretrained(saved, ops=ops, mapped=True)
        for name, found in mapped.loss_and_grads(IDS, TARGETS)[1].items():
            np.testing.assert_allclose(found, read.loss_and_grads(IDS, TARGETS)[1][name], rtol=1e-4, atol=1e-5)


def test_a_mapped_model_is_not_trained(saved):
    model = GPT.from_pretrained(saved, mapped=True)
    with pytest.raises(ValueError, match="mapped from a file cannot be trained: open the model without mapped"):
        AdamW(model.params)
    with pytest.raises(ValueError, match="cannot be trained"):
        model.team(1).accumulate_grads(0, [Batch(IDS, TARGETS)], 10, model.params.empty_like(), None)


def test_data_begin_on_a_cache_line(saved):
    assert GPT.from_pretrained(saved, mapped=True).params.flat.ctypes.data % 64 == 0


def test_files_of_other_writers_are_mapped_too(saved):
    """With a prefix, in another order, with masks and the tied head between the weights."""
    tensors = load_file(saved / "model.safetensors")
    others = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    others |= {"transformer.h.0.attn.bias": np.tri(5, dtype=np.float32).reshape(1, 1, 5, 5)}
    others |= {"transformer.h.1.attn.masked_bias": np.zeros(4, np.uint8), "lm_head.weight": tensors["wte.weight"]}
    save_file(others, saved / "model.safetensors")
    model = GPT.from_pretrained(saved, mapped=True)
    assert is_mapped(model)
    assert model.logits(IDS).tobytes() == random_model().logits(IDS).tobytes()
    model.verify()  # without a checksum there is nothing to compare


@pytest.mark.parametrize("stored", ["float16", "float64", "bfloat16", "odd"])
def test_what_cannot_be_mapped_is_read(saved, stored):
    tensors = load_file(saved / "model.safetensors")
    path = saved / "model.safetensors"
    if stored == "bfloat16":
        data = (tensors["wte.weight"].view(np.uint32) >> 16).astype(np.uint16)
        save_file(tensors | {"wte.weight": data}, path)
        path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"'))
        shorten_header(path)
    elif stored == "odd":
        write_raw(path, {"h.0.attn.bias": np.zeros(3, np.uint8)} | tensors)
    else:
        save_file({name: tensor.astype(stored) for name, tensor in tensors.items()}, path)
    mapped, read = GPT.from_pretrained(saved, mapped=True), GPT.from_pretrained(saved)
    assert not is_mapped(mapped)
    assert mapped.params.flat.tobytes() == read.params.flat.tobytes()


def write_raw(path, tensors) -> None:
    """Write tensors in this order, aligned or not."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        dtype = {"float32": "F32", "uint8": "U8"}[tensor.dtype.name]
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def shorten_header(path) -> None:
    """Correct the length of a header that has grown by a replacement."""
    data = path.read_bytes()
    end = data.index(b"}}") + 2
    while data[end : end + 1] == b" ":
        end += 1
    path.write_bytes(struct.pack("<Q", end - 8) + data[8:])


def test_a_model_in_float64_is_a_copy(saved):
    model = GPT.from_pretrained(saved, "float64", mapped=True)
    assert model.file is None
    assert model.dtype == "float64"
    random_model("float64").save_pretrained(saved)
    assert not is_mapped(GPT.from_pretrained(saved, "float64", mapped=True))


def damage(path) -> None:
    """Change a weight in place, as a failing disk does."""
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<f", 1.5))


def test_a_damaged_weight_is_found_by_verify_and_by_opening_without_a_map(saved):
    damage(saved / "model.safetensors")
    model = GPT.from_pretrained(saved, mapped=True)
    model.logits(IDS)
    for check in (model.verify, lambda: verify(model), lambda: GPT.from_pretrained(saved)):
        with pytest.raises(ValueError, match=r"model\.safetensors: its checksum does not match"):
            check()
    with pytest.raises(ValueError, match=r"model\.safetensors: its checksum does not match"):
        GPT.from_pretrained(saved, "float64", mapped=True)  # a copy is verified before it is made


def test_damage_while_a_file_is_mapped_is_found(saved):
    model = GPT.from_pretrained(saved, mapped=True)
    model.verify()
    damage(saved / "model.safetensors")
    with pytest.raises(ValueError, match="checksum does not match"):
        model.verify()


def test_a_file_that_was_cut_short_is_not_read_by_verify(saved):
    model = GPT.from_pretrained(saved, mapped=True)
    with (saved / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"model\.safetensors: 100 bytes long, and it was"):
        model.verify()


def test_a_replaced_file_leaves_a_mapped_model_as_it_was(saved):
    model = GPT.from_pretrained(saved, mapped=True)
    GPT(model.config, seed=3).save_pretrained(saved)
    assert model.logits(IDS).tobytes() == random_model().logits(IDS).tobytes()
    model.verify()


def test_what_is_written_into_a_mapped_model_does_not_reach_the_file(saved):
    before = (saved / "model.safetensors").read_bytes()
    model = GPT.from_pretrained(saved, mapped=True)
    model.params["wte.weight"] = 0
    assert (saved / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_mapped_model_needs_no_file(saved, duplicate):
    model = GPT.from_pretrained(saved, ops="reference", mapped=True)
    other = duplicate(model)
    assert not np.shares_memory(other.params.flat, model.params.flat)
    assert np.shares_memory(other.params["wpe.weight"], other.params.flat)
    assert other.logits(IDS).tobytes() == model.logits(IDS).tobytes()
    other.verify()


def test_no_byte_of_the_header_makes_a_map_read_outside(saved):
    """Each byte of it damaged in turn: a model of the right shapes, or an error that names a file."""
    path = saved / "model.safetensors"
    data = path.read_bytes()
    end, refused = data.index(b"}}") + 2, 0
    for position in range(0, end, 7):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            GPT.from_pretrained(saved, mapped=True).verify()
        except ValueError as error:
            assert str(saved) in str(error)
            refused += 1
    assert refused > 0.9 * end / 7


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"data_offsets": [0, 400]}, "w is at 0..400"),
        ({"data_offsets": [8, 32]}, "w is at 8..32"),
        ({"data_offsets": [-8, 16]}, "w is at -8..16"),
        ({"data_offsets": [24, 0]}, "w is at 24..0"),
        ({"shape": [7]}, r"in \[7\]"),
        ({"shape": [-6]}, r"in \[-6\]"),
    ],
)
def test_a_header_that_the_library_let_pass_would_be_refused(tmp_path, monkeypatch, entry, match):
    from npgpt.hub import tensors

    class LetsAllPass:
        def __init__(self, path, framework):
            self.metadata = dict

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    header = json.dumps({"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]} | entry}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    monkeypatch.setattr(tensors, "safe_open", LetsAllPass)
    with pytest.raises(ValueError, match=match):
        map_tensors(tmp_path / "a")


def test_parameters_with_gaps_do_not_overlap():
    flat, shapes = np.arange(12.0), {"a": (2, 2), "b": (3,)}
    params = Parameters(shapes, flat, {"a": 7, "b": 1})
    np.testing.assert_array_equal(params["a"], [[7, 8], [9, 10]])
    np.testing.assert_array_equal(params["b"], [1, 2, 3])
    assert list(params.starts(("b", "c", "a"))) == [1, -1, 7]
    assert params.size == 7
    assert params.empty_like().flat.shape == (7,)
    for starts in ({"a": 0, "b": 3}, {"a": 9, "b": 0}, {"a": -1, "b": 5}, {"a": 5, "b": 10}):
        with pytest.raises(ValueError, match="where it has no room"):
            Parameters(shapes, flat, starts)


def test_only_who_asks_gets_a_map(saved):
    assert is_mapped(open_model(saved, mapped=True))
    assert not is_mapped(open_model(saved))
    assert not is_mapped(GPT.from_pretrained(saved, mapped=True).load_pretrained(saved))


def test_on_windows_a_file_is_read_because_a_map_would_lock_it(saved, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    assert not is_mapped(GPT.from_pretrained(saved, mapped=True))


def test_a_file_without_tensors_is_mapped(tmp_path):
    save_tensors(tmp_path / "a", {"none": np.zeros((0, 3), np.float32)})
    file = map_tensors(tmp_path / "a")
    assert file.tensors["none"].shape == (0, 3)
    file.verify()
