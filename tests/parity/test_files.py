"""Model folders both ways: npgpt's open in transformers, and those of transformers in npgpt."""

from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT, Tokenizer
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

from .helpers import (
    TOLERANCES,
    every_combination,
    every_combination_of_transformers,
    make_model,
    open_in_transformers,
    random_ids,
    relative_error,
    torch,
    torch_params,
    torch_twin,
    transformers,
)


def assert_same_model(model: GPT, twin) -> None:
    """Hold that the parameters are the same bit for bit, and that the configs compute the same."""
    expected = {name: p.detach().numpy() for name, p in torch_params(twin).items()}
    assert model.params.keys() <= expected.keys()
    for name, array in expected.items():
        got = model.params.get(name, np.zeros_like(array))  # no bias is a bias of zero
        np.testing.assert_array_equal(got, array, strict=True, err_msg=name)
    ids = random_ids(np.random.default_rng(1))
    assert relative_error(model.logits(ids), twin(torch.tensor(ids)).logits) < TOLERANCES["float64"]


@every_combination
def test_npgpt_to_transformers_and_back(changes: dict, tmp_path: Path) -> None:
    model = make_model(**changes)
    model.save_pretrained(tmp_path / "npgpt")
    twin = open_in_transformers(tmp_path / "npgpt")
    assert_same_model(model, twin)

    twin.save_pretrained(tmp_path / "back")
    back = GPT.from_pretrained(tmp_path / "back", dtype="float64")
    assert back.config == model.config
    np.testing.assert_array_equal(back.params.flat, model.params.flat)


@every_combination_of_transformers
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_transformers_to_npgpt(changes: dict, dtype: str, tmp_path: Path) -> None:
    twin = torch_twin(make_model(**changes)).to(getattr(torch, dtype))
    twin.save_pretrained(tmp_path)
    # float64 holds what a narrower file holds, exactly
    assert_same_model(GPT.from_pretrained(tmp_path, dtype="float64"), twin.double())


def test_newer_name_of_gelu_new(tmp_path: Path) -> None:
    twin = torch_twin(make_model(), activation_function="gelu_pytorch_tanh")
    twin.save_pretrained(tmp_path)
    assert_same_model(GPT.from_pretrained(tmp_path, dtype="float64"), twin)


def test_biases_that_transformers_trained_come_back(tmp_path: Path) -> None:
    make_model(bias=False).save_pretrained(tmp_path)
    twin = open_in_transformers(tmp_path)
    with torch.no_grad():
        twin.transformer.ln_f.bias[3] = 0.5
    twin.save_pretrained(tmp_path)
    model = GPT.from_pretrained(tmp_path, dtype="float64")
    assert model.config.bias
    assert_same_model(model, twin)


@pytest.mark.parametrize("kind", ["bytes", "chars"])
def test_whole_run_folder(kind: str, tmp_path: Path) -> None:
    text = "A [UNK]  tab\t, line\r\n, 中文 e\u0301 👩\u200d💻"
    tokenizer = ByteTokenizer() if kind == "bytes" else CharTokenizer([text])
    model = make_model(vocab_size=tokenizer.vocab_size)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert_same_model(model, open_in_transformers(tmp_path))
    # beside a config.json of GPT-2 transformers must not take its own GPT-2 tokenizer
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(text).tolist()
    assert auto.encode(text) == ids
    assert auto.decode(ids) == tokenizer.decode(ids) == text


def test_the_end_token_is_the_same_in_model_and_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["low lower lowest"], 262)
    make_model(vocab_size=262, eos_token_id=tokenizer.end_id, bos_token_id=tokenizer.end_id).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    twin = open_in_transformers(tmp_path)
    ends = {auto.eos_token_id, auto.bos_token_id, twin.config.eos_token_id, twin.generation_config.eos_token_id}
    assert ends == {tokenizer.end_id}
    assert auto.encode("low<|endoftext|>") == [*tokenizer.encode("low"), tokenizer.end_id]
    auto.save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again").end_id == tokenizer.end_id
