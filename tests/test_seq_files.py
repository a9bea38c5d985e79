"""The files of a generator: what is written opens as it was, and what is damaged is refused by name."""

import json

import numpy as np
import pytest

from npgpt.hub.tensors import read_tensors, save_tensors
from npgpt.models.registry import new_generator, open_model, save_rounded, with_weights
from npgpt.models.seq import Seq2Seq
from npgpt.models.seq_config import DECODERS, Objective, SeqConfig
from tests.test_seq import E, encoder_config, model_of


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_saved_generator_opens_as_it_was(tmp_path, decoder):
    model = model_of(decoder=decoder, dtype="float32", ops="fast", bridge="last", embedding="encoder")
    model.objective, model.trained_blocks = Objective(label_smoothing=0.1), 0
    model.save_pretrained(tmp_path)
    ids = np.array([[E, 5, 6, E, 7, 8]])
    for other in open_model(tmp_path), model.load_pretrained(tmp_path):
        assert isinstance(other, Seq2Seq)
        assert other.config == model.config
        np.testing.assert_array_equal(other.forward(ids), model.forward(ids))
    assert (other.objective, other.trained_blocks) == (model.objective, 0)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "npgpt_generator"


def rewritten(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bridge": "gone"}, r"config\.json: bridge is missing"),
        ({"bridge": "last"}, r"config\.json: bridge is 'last', but model\.safetensors was saved with 'attention'"),
        ({"n_layer": 3}, r"config\.json: n_layer is 3, but model\.safetensors was saved with 2"),
        ({"encoder": 5}, r"config\.json: encoder is 5, but model\.safetensors was saved with"),
        ({"model_type": "gpt2"}, r"config\.json: "),
    ],
)
def test_a_changed_configuration_is_refused(tmp_path, changes, match):
    model_of().save_pretrained(tmp_path)
    rewritten(tmp_path, **changes)
    with pytest.raises(ValueError, match=match):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"decoder.norm.weight": None}, r"the tensor decoder\.norm\.weight is missing"),
        ({"decoder.more": np.zeros(2)}, r"the tensor decoder\.more does not belong"),
        ({"decoder.norm.weight": np.zeros(5)}, r"decoder\.norm\.weight has the shape \(5,\), expected \(6,\)"),
        ({"decoder.norm.weight": np.zeros(6, int)}, r"decoder\.norm\.weight has the dtype int64"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(tmp_path, changes, match):
    model = model_of()
    model.save_pretrained(tmp_path)
    tensors, metadata = read_tensors(tmp_path / "model.safetensors")
    tensors |= changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_tensors(tmp_path / "model.safetensors", kept, json.loads(metadata["npgpt_config"]))
    with pytest.raises(ValueError, match=r"model\.safetensors: .*" + match):
        open_model(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    model_of().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors: its checksum does not match"):
        open_model(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        open_model(tmp_path)


def test_what_a_generator_cannot_be_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="encoder needs an end token"):
        Seq2Seq(SeqConfig(encoder_config(eos_token_id=None)))
    model = model_of()
    with pytest.raises(ValueError, match="encoder is a GPT, which this is not: a generator: GRU of 2 layers"):
        new_generator(model)
    with pytest.raises(ValueError, match=r"a generator: .* has no such weights"):
        with_weights(model, "int8")
    with pytest.raises(ValueError, match="no other library reads a generator: "):
        save_rounded(model, tmp_path, "float16")
