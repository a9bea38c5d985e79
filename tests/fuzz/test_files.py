"""Files with a byte changed or an end cut off: refused with an error that a user can read, or harmless."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli.options import read_toml
from npgpt.models.lora import Adapters, load_adapter, save_adapter
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

FILES = ["model.safetensors", "config.json", "tokenizer.json"]


@functools.cache
def whole():
    """Return the bytes of every file of a small run folder."""
    with tempfile.TemporaryDirectory() as folder:
        GPT(GPTConfig(vocab_size=3, n_positions=2, n_embd=2, n_layer=1, n_head=1)).save_pretrained(folder)
        CharTokenizer(["a中b"]).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def opened(files):
    """Open a folder of these files; return the parameters and the tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return GPT.from_pretrained(folder).params.flat, Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_changed_byte(name, data):
    content = bytearray(whole()[name])
    where = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255))
    assume(content[where] != byte)
    content[where] = byte
    try:
        flat, tokenizer = opened(whole() | {name: bytes(content)})
    except (ValueError, FileNotFoundError) as error:
        assert name in str(error) or "model.safetensors" in str(error)  # which a wrong config.json does not fit
    else:
        # a key that nobody reads, or another number that is possible; but never other weights
        np.testing.assert_array_equal(flat, opened(whole())[0])
        assert tokenizer.vocab_size == 3


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_file_cut_off(name, data):
    content = whole()[name]
    length = data.draw(st.integers(0, len(content.rstrip()) - 1))
    with pytest.raises(ValueError, match=name):
        opened(whole() | {name: content[:length]})


@functools.cache
def model_and_adapter():
    """Return a small model, and adapters of it with the bytes of their files."""
    model = GPT(GPTConfig(vocab_size=3, n_positions=2, n_embd=2, n_layer=1, n_head=1))
    adapters = Adapters(model, rank=1, targets=["mlp.c_fc"])
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(folder, adapters, "base")
        return model, adapters, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@given(data=st.data())
def test_an_adapter_with_a_changed_byte_or_cut_off(name, data):
    model, adapters, files = model_and_adapter()
    content = bytearray(files[name])
    where = data.draw(st.integers(0, len(content.rstrip()) - 1))
    byte = data.draw(st.none() | st.integers(0, 255))
    assume(content[where] != byte)
    content[where:] = b"" if byte is None else bytes([byte]) + content[where + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        for file, whole_content in files.items():
            (Path(folder) / file).write_bytes(content if file == name else whole_content)
        try:
            found = load_adapter(folder, model)
        except ValueError as error:
            assert name in str(error) or "adapter_model.safetensors" in str(error)
        else:
            assert byte is not None
            np.testing.assert_array_equal(found.params.flat, adapters.params.flat)
            assert found.targets == adapters.targets


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_config_toml(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(content)
        try:
            assert isinstance(read_toml(str(path)), dict)
        except ValueError as error:
            assert str(path) in str(error)


@given(st.binary())
def test_any_bytes_decode(content):
    assert ByteTokenizer().decode(content) == content.decode(errors="replace")
    assert "".join(ByteTokenizer().decode_stream(content)) == content.decode(errors="replace")
