"""What a run is made of is checked as a whole: a file that was changed or damaged is named by every command."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main
from npgpt.hub.tensors import read_tensors, save_tensors
from npgpt.models.lora import Adapters, load_adapter, save_adapter
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.training.checkpoint import STATE

TEXT = "The quick brown fox 学而时习之. " * 100
SMALL = ["--ops", "reference", "--eval-batches", "1", "--batch-size", "2", "--max-steps", "2", "--threads", "1"]
TRAIN = ["train", "--data", "text", "--tokenizer", "bpe:270", "--n-layer", "1", "--n-embd", "16", "--n-head", "4"]
TRAIN += ["--n-positions", "16", "--sample-tokens", "0", "--out", "run", *SMALL]
COMMANDS = {
    "sample": ["sample", "run", "--max-new-tokens", "1"],
    "sample --last": ["sample", "run", "--max-new-tokens", "1", "--last"],
    "eval": ["eval", "run", "--data", "text"],
    "ask": ["ask", "run", "--prompt", "fox", "--max-new-tokens", "1"],
    "finetune": ["finetune", "run", "--data", "lines", "--out", "tuned", *SMALL],
    "resume": ["train", "--resume", "--max-steps", "3", "--out", "run"],
}
# for each field of GPTConfig a value that is possible, too, and that no tensor shows
OTHERS = {
    "n_head": 2,
    "activation_function": "gelu",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-4,
    "initializer_range": 0.1,
    "bos_token_id": 5,
    "eos_token_id": 5,
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text").write_text(TEXT, encoding="utf-8")
        Path("lines").write_text('{"prompt": "fox", "completion": " 学"}\n' * 20, encoding="utf-8")
        assert main(TRAIN) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path, change):
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    change(content)
    Path(path).write_text(json.dumps(content), encoding="utf-8")


def exchange(content):
    """Give two tokens each other's ids: still a vocabulary, but of other texts."""
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


EDITS = {
    "config.json": lambda: edit("run/config.json", lambda c: c.update(n_head=2)),
    "train.json": lambda: edit("run/train.json", lambda c: c["train"].update(learning_rate=0.5)),
    "train.json of another": lambda: another_train_json(),
    "train.json without a part": lambda: edit("run/train.json", lambda c: c.pop("data")),
    "tokenizer.json": lambda: edit("run/tokenizer.json", exchange),
    "tokenizer_config.json": lambda: Path("run/tokenizer_config.json").write_text('{"eos'),
    "generation_config.json": lambda: edit("run/generation_config.json", lambda c: c.update(eos_token_id=5)),
}


def another_train_json():
    saved = read_sealed_json(Path("run/train.json"))
    saved["model"]["n_head"] = 2
    write_sealed_json(Path("run/train.json"), saved)


# a resumed run does not read tokenizer_config.json
@pytest.mark.parametrize(
    ("name", "command"), [(n, c) for n in EDITS for c in COMMANDS if (n, c) != ("tokenizer_config.json", "resume")]
)
def test_every_command_names_the_file_that_was_changed(here, capsys, name, command):
    EDITS[name]()
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert main(COMMANDS[command]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "compiling" not in line]
    assert len(errors) == 1
    assert name.split()[0] in errors[0]
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
    assert not Path("tuned").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_as_it_was_written_opens_without_a_word(here, caplog, command):
    assert main(COMMANDS[command]) == 0
    assert not caplog.records


def test_the_values_are_all_that_tensors_do_not_show():
    shown = {"vocab_size", "n_positions", "n_embd", "n_layer", "n_inner", "tie_word_embeddings", "bias"}
    assert OTHERS.keys() | shown == {field.name for field in dataclasses.fields(GPTConfig)}


CONFIG = GPTConfig(vocab_size=7, n_positions=5, n_embd=8, n_layer=1, n_head=4, eos_token_id=3, layer_norm_epsilon=1e-3)


@pytest.fixture
def saved(tmp_path):
    GPT(CONFIG).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "value"), OTHERS.items())
def test_a_model_is_opened_only_with_the_config_that_it_was_saved_with(saved, name, value):
    edit(saved / "config.json", lambda c: c.update({name: value}))
    with pytest.raises(ValueError, match=rf"config\.json: {name} is {value!r}, but model\.safetensors was saved with"):
        GPT.from_pretrained(saved)


@pytest.mark.parametrize("name", ["n_head", "layer_norm_epsilon", "resid_pdrop", "eos_token_id"])
def test_a_key_that_is_damaged_is_no_default(saved, name):
    edit(saved / "config.json", lambda c: c.update({f"{name}x": c.pop(name)}))
    with pytest.raises(ValueError, match=r"config\.json"):
        GPT.from_pretrained(saved)


@pytest.mark.parametrize("name", ["n_head", "layer_norm_epsilon", "n_inner"])
def test_a_key_that_is_missing_in_npgpts_own_config_is_named(saved, name):
    edit(saved / "config.json", lambda c: c.pop(name))
    with pytest.raises(ValueError, match=rf"config\.json: {name} is missing"):
        GPT.from_pretrained(saved)


def test_a_size_that_is_missing_is_named_where_its_default_does_not_fit(saved):
    without_metadata(saved / "model.safetensors", "npgpt_sha256", "npgpt_config")
    edit(saved / "config.json", lambda c: c.update(n_hexd=c.pop("n_head")))
    with pytest.raises(ValueError, match=r"n_head=12 does not divide n_embd=8 \(n_head by default, because the file"):
        GPT.from_pretrained(saved)


def test_another_order_and_further_keys_of_config_json_are_no_damage(saved):
    edit(saved / "config.json", lambda c: c.update({"transformers_version": "5.0", "n_head": c.pop("n_head")}))
    assert GPT.from_pretrained(saved).config == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.7, "top_k": 40, "max_new_tokens": 100},
        {"eos_token_id": [3, 5]},
        {"bos_token_id": None},
    ],
)
def test_what_a_user_may_set_in_generation_config_is_free(saved, change):
    edit(saved / "generation_config.json", lambda c: c.update(change))
    GPT.from_pretrained(saved)
    (saved / "generation_config.json").unlink()
    GPT.from_pretrained(saved)


def without_metadata(path, *keys):
    """Write a safetensors file as another library, or an earlier npgpt, would."""
    with safe_open(path, "numpy") as file:
        metadata = {key: value for key, value in file.metadata().items() if key not in keys}
    save_file(load_file(path), path, metadata)


def test_another_librarys_config_is_read_with_a_notice_of_what_was_assumed(saved, caplog):
    without_metadata(saved / "model.safetensors", "npgpt_sha256", "npgpt_config")
    GPT.from_pretrained(saved)
    assert not caplog.records
    edit(saved / "config.json", lambda c: [c.pop(name) for name in ("layer_norm_epsilon", "attn_pdrop")])
    with caplog.at_level(logging.WARNING, "npgpt"):
        model = GPT.from_pretrained(saved)
    assert (model.config.layer_norm_epsilon, model.config.attn_pdrop) == (1e-5, 0.1)
    (record,) = caplog.records
    said = "assumed layer_norm_epsilon=1e-05, attn_pdrop=0.1 as in GPT-2, because config.json does not say"
    assert said in record.message


def test_a_run_whose_texts_may_end_with_more_tokens_opens_and_resumes(here):
    edit("run/generation_config.json", lambda c: c.update(eos_token_id=[c["eos_token_id"], 5]))
    for words in COMMANDS.values():
        assert main(words) == 0


@pytest.fixture
def old(here):
    """A run as versions before the checksums wrote it."""
    for name in ("model.safetensors", STATE):
        tensors, metadata = read_tensors(Path("run") / name)
        del metadata["npgpt_config"], metadata["npgpt_run"]
        Path("run/train.json").rename("kept")
        save_tensors(Path("run") / name, tensors, **metadata)
        Path("kept").rename("run/train.json")
    edit("run/train.json", lambda c: [c.pop("sha256"), c.pop("run"), c["data"].pop("tokenizer_json")])
    return here


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_an_earlier_version_opens(old, caplog, command):
    assert main(COMMANDS[command]) == 0
    assert not caplog.records


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_run_of_an_earlier_version_is_compared_with_its_train_json(old, capsys, command, name):
    EDITS[name]()
    assert main(COMMANDS[command]) == 2
    assert name in capsys.readouterr().err


def test_a_model_that_another_program_wrote_into_the_run_is_not_what_train_json_says(here):
    without_metadata(Path("run/model.safetensors"), "npgpt_sha256", "npgpt_config")
    edit("run/config.json", lambda c: c.update(resid_pdrop=0.5))
    assert main(COMMANDS["sample"]) == 0


def test_the_state_of_another_model_is_refused(here, capsys):
    Path("run").rename("one")
    assert main([word if word != "4" else "2" for word in TRAIN]) == 0
    shutil.copy(Path("one") / STATE, "run")
    for command in ("sample --last", "resume"):
        assert main(COMMANDS[command]) == 2
        assert f"n_head is 2, but {STATE} was saved with 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "commands"),
    [("model.safetensors", COMMANDS), (STATE, ["sample --last", "resume"])],
)
def test_the_files_of_another_run_of_equal_shapes_are_refused(here, capsys, name, commands):
    Path("run").rename("one")
    assert main([*TRAIN, "--seed", "2"]) == 0
    shutil.copy(Path("one") / name, "run")
    for command in commands:
        assert main(COMMANDS[command]) == 2
        assert f"{Path('run') / name} and train.json are of two runs" in capsys.readouterr().err


def test_the_files_of_another_finetuning_are_refused(here, capsys):
    finetune = COMMANDS["finetune"]
    assert main(finetune) == 0
    Path("tuned").rename("one")
    assert main([*finetune, "--lr", "1e-5"]) == 0
    resume = ["finetune", "run", "--data", "lines", "--out", "tuned", "--resume", "--max-steps", "3"]
    for name in ("model.safetensors", STATE):
        shutil.copytree("tuned", "saved")
        shutil.copy(Path("one") / name, "tuned")
        capsys.readouterr()
        assert main(resume) == 2
        assert f"{Path('tuned') / name} and train.json are of two runs" in capsys.readouterr().err
        shutil.rmtree("tuned")
        Path("saved").rename("tuned")
    assert main(resume) == 0


def test_a_resumed_run_keeps_its_id_and_an_equal_run_has_the_same(here):
    before = read_sealed_json(Path("run/train.json"))["run"]
    assert main([*COMMANDS["resume"], "--lr", "0.01"]) == 0
    assert read_sealed_json(Path("run/train.json"))["run"] == before
    assert main([*TRAIN[: -len(SMALL) - 1], "again", *SMALL]) == 0
    assert read_sealed_json(Path("again/train.json"))["run"] == before
    for words in COMMANDS.values():
        assert main(words) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_train_json_without_its_seal_is_refused(here, capsys, command):
    edit("run/train.json", lambda c: c.pop("sha256"))
    assert main(COMMANDS[command]) == 2
    assert "train.json: sha256 is missing" in capsys.readouterr().err


def test_a_model_without_train_json_is_no_run_to_continue(here, capsys):
    Path("run/train.json").unlink()
    assert main(TRAIN) == 2
    error = capsys.readouterr().err
    assert "already holds config.json without a train.json" in error
    assert "continue it" not in error


@pytest.mark.parametrize("ids", [[999999], [-1], 999999])
def test_an_end_token_outside_the_vocabulary_is_refused(here, capsys, ids):
    def change(content):
        content["eos_token_id"] = [content["eos_token_id"], *ids] if isinstance(ids, list) else ids

    edit("run/generation_config.json", change)
    assert main(COMMANDS["sample"]) == 2
    error = capsys.readouterr().err
    assert "generation_config.json: eos_token_id" in error
    assert str(ids).strip("[]") in error
    assert "no id below 270" in error or "delete the line" in error


def test_every_flipped_bit_of_train_json_is_found(here):
    path = Path("run/train.json")
    data = path.read_bytes()
    whole = read_sealed_json(path)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        try:
            assert read_sealed_json(path) == whole, "only space between values may differ"
        except ValueError as error:
            assert "train.json" in str(error)


def test_an_equal_tokenizer_in_another_spelling_is_no_damage(here):
    edit("run/tokenizer.json", lambda c: c.update(version=c.pop("version")))
    assert main(COMMANDS["sample"]) == 0
    assert Tokenizer.from_pretrained("run").vocab_size == 270


def test_adapters_are_opened_only_as_they_were_saved(tmp_path):
    model = GPT(CONFIG)
    save_adapter(tmp_path, Adapters(model, 2, alpha=4.0), "base")
    assert load_adapter(tmp_path, model).alpha == 4
    edit(tmp_path / "adapter_config.json", lambda c: c.update(lora_alpha=8))
    with pytest.raises(ValueError, match=r"adapter_config\.json: alpha is 8, but adapter_model\.safetensors was saved"):
        load_adapter(tmp_path, model)


def test_transformers_format_stays(saved):
    with safe_open(saved / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
    assert np.isfinite(GPT.from_pretrained(saved).params.flat).all()
