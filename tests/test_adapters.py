"""Adapters as a PEFT folder: they come back to the bit, and what is damaged, of another model or kind is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt.hub.peft_config import Patterns
from npgpt.models.gpt2_int8 import Int8GPT
from npgpt.models.lora import checksum_of, load_adapter, merged, save_adapter
from npgpt.models.registry import open_model, verify
from tests.test_lora import IDS, make_adapters, make_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"

# as PEFT 0.21 writes it, letter by letter
OF_PEFT = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": True,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 3,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 2,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["mlp.c_proj", "c_attn"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}


@pytest.fixture
def saved(tmp_path):
    """A folder with adapters of a model, without the checksum that npgpt adds; the model; and the tensors."""
    model = make_model("float32")
    save_adapter(tmp_path, make_adapters(model, targets=["c_attn", "mlp.c_proj"]), "base")
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors, tmp_path / WEIGHTS)
    return tmp_path, model, tensors


def change_config(folder, **changes):
    path = folder / CONFIG
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"rank": 3, "alpha": 4.5}, {"targets": ["c_proj"], "alpha": 32}], ids=str)
def test_adapters_come_back_to_the_bit(tmp_path, dtype, options):
    model = make_model(dtype)
    adapters = make_adapters(model, **options)
    save_adapter(tmp_path / "new" / "folder", adapters, "base")
    before = model.params.flat.copy()
    other = load_adapter(str(tmp_path / "new" / "folder"), model)
    np.testing.assert_array_equal(model.params.flat, before)
    assert (other.rank, other.alpha, other.targets) == (adapters.rank, adapters.alpha, adapters.targets)
    assert other.params.shapes == adapters.params.shapes
    assert other.params.flat.tobytes() == adapters.params.flat.tobytes()
    adapters.merge_into(model)
    merged = model.logits(IDS)
    model.params.flat[:] = before
    other.merge_into(model)
    np.testing.assert_array_equal(model.logits(IDS), merged)


def test_the_files_are_as_peft_names_things(tmp_path):
    model = make_model("float32")
    adapters = make_adapters(model, alpha=3, targets=["c_attn", "c_proj"])
    save_adapter(tmp_path, adapters, tmp_path / "base")
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(tmp_path / "base"),
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.0,
        "target_modules": ["attn.c_attn", "attn.c_proj", "mlp.c_proj"],
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }
    assert isinstance(config["lora_alpha"], int)  # as PEFT declares it
    tensors = load_file(tmp_path / WEIGHTS)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f"base_model.model.transformer.h.{i}.{layer}.lora_{factor}.weight": shape
        for i in range(2)
        for layer, n_in, n_out in [("attn.c_attn", 6, 18), ("attn.c_proj", 6, 6), ("mlp.c_proj", 10, 6)]
        for factor, shape in [("A", (2, n_in)), ("B", (n_out, 2))]
    }
    np.testing.assert_array_equal(tensors[FIRST], adapters.params["h.0.attn.c_attn.lora_A.weight"])


@pytest.mark.parametrize("changes", [{}, {"task_type": None}, {"init_lora_weights": "gaussian", "r": 2}], ids=str)
def test_a_config_of_peft_is_read(saved, changes):
    folder, model, tensors = saved
    (folder / CONFIG).write_text(json.dumps(OF_PEFT | changes))
    adapters = load_adapter(folder, model)
    assert (adapters.rank, adapters.alpha, adapters.targets) == (2, 3, ("attn.c_attn", "mlp.c_proj"))
    np.testing.assert_array_equal(adapters.params["h.0.attn.c_attn.lora_A.weight"], tensors[FIRST])


def test_targets_that_are_named_block_by_block_are_read(saved):
    folder, model, _ = saved
    change_config(folder, target_modules=["transformer.h.1.attn.c_attn", "mlp.c_proj", "h.0.attn.c_attn"])
    assert load_adapter(folder, model).targets == ("attn.c_attn", "mlp.c_proj")


def test_an_adapter_of_a_model_without_a_head_is_read(saved):
    folder, model, tensors = saved
    save_file({name.replace("transformer.", ""): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
    adapters = load_adapter(folder, model)
    np.testing.assert_array_equal(adapters.params["h.0.attn.c_attn.lora_A.weight"], tensors[FIRST])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' scales activations with learned vectors (IA3), and npgpt opens LORA"),
        ({"peft_type": "NEW"}, "peft_type='NEW' is another kind of adapter"),
        ({"peft_type": ...}, "peft_type is missing"),
        ({"task_type": "SEQ_CLS"}, "task_type='SEQ_CLS' is not supported, only 'CAUSAL_LM' or None"),
        ({"use_dora": True}, "use_dora=True is not supported: DoRA"),
        ({"layer_replication": [[0, 1]]}, "layer_replication=[[0, 1]] is not supported"),
        ({"bias": "some"}, "bias='some' must be 'none', 'all' or 'lora_only'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save='lm_head' must be a list of names"),
        ({"rank_pattern": [4]}, "rank_pattern=[4] must be an object"),
        ({"rank_pattern": {"c_attn": 0}}, "rank_pattern['c_attn']=0 must be at least 1"),
        ({"alpha_pattern": {"c_attn": "4"}}, "alpha_pattern['c_attn']='4' must be a number"),
        ({"alpha_pattern": {"(": 4}}, "the pattern '(' is not possible"),
        ({"layers_to_transform": [-1]}, "layers_to_transform=[-1] must be a list of numbers"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported: such an adapter begins by"),
        ({"init_lora_weights": 1}, "init_lora_weights=1 is not supported"),
        ({"use_something_new": "yes"}, "use_something_new='yes' is not supported"),
        ({"use_rslora": 1}, "use_rslora=1 must be true or false"),
        ({"trainable_token_indices": [7]}, "trainable_token_indices has 7, which is no token"),
        ({"trainable_token_indices": {"lm_head": [1]}}, "is supported for wte alone"),
        ({"r": ...}, "r is missing"),
        ({"r": 0}, "r=0 must be at least 1"),
        ({"r": "2"}, "r='2' must be an integer"),
        ({"r": True}, "r=True must be an integer"),
        ({"r": 2.0}, "r=2.0 must be an integer"),
        ({"lora_alpha": ...}, "lora_alpha is missing"),
        ({"lora_alpha": None}, "lora_alpha=None must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan must be a number"),
        ({"lora_alpha": 10**400}, "too large"),
        ({"target_modules": ...}, "target_modules=[] names no layer of this model"),
        ({"target_modules": "c_fx"}, "target_modules='c_fx' names no layer of this model"),
        ({"target_modules": "(x+x+)+y|" * 200}, "is not supported: it has { in it, or over 1000 characters"),
        ({"target_modules": "a{999}"}, "the pattern 'a{999}' is not supported"),
        ({"target_modules": [1]}, "target_modules=[1] must be a list of names or a pattern"),
        ({"target_modules": []}, "names no layer of this model"),
        ({"target_modules": "c_attn", "layers_to_transform": 1}, "layers_to_transform cannot be used"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_npgpt_does_not_compute_is_refused(saved, changes, message):
    folder, model, _ = saved
    change_config(folder, **changes)
    with pytest.raises(ValueError) as error:  # noqa: PT011, the text is compared below
        load_adapter(folder, model)
    assert str(error.value).startswith(f"{folder / CONFIG}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 10**9}, r"has the shape \(2, 6\), expected \(1000000000, 6\)"),
        ({"target_modules": ["c_attn", "mlp.c_proj", "lm_head"]}, r"lm_head\.lora_A\.weight is missing"),
        ({"target_modules": ["h.1.mlp.c_proj", "c_attn"]}, r"h\.0\.mlp\.c_proj\.lora_A\.weight does not belong"),
        ({"modules_to_save": ["ln_f"]}, r"ln_f\.(weight|bias) is missing"),
    ],
    ids=str,
)
def test_tensors_that_the_config_does_not_ask_for_are_refused(saved, changes, message):
    folder, model, _ = saved
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_adapter(folder, model)


def test_a_pattern_that_would_hang_is_stopped(monkeypatch):
    monkeypatch.setattr("npgpt.hub.peft_config.SECONDS", 0.05)
    with pytest.raises(ValueError, match="takes too long to match"):
        Patterns().find("(?:", r"(a|a|aa)+[^a-z]", r")\Z", "a" * 60 + "b")


def test_adapters_of_several_ranks_can_be_merged_only(saved):
    folder, model, tensors = saved
    change_config(folder, rank_pattern={"h.0.attn.c_attn": 1})
    names = FIRST, FIRST.replace("lora_A", "lora_B")
    thin = {names[0]: tensors[names[0]][:1], names[1]: np.ascontiguousarray(tensors[names[1]][:, :1])}
    save_file(tensors | thin, folder / WEIGHTS)
    with pytest.raises(ValueError, match="this one can be merged into its base"):
        load_adapter(folder, model)
    expected = model.params["h.0.attn.c_attn.weight"] + 2 * (thin[names[1]] @ thin[names[0]]).T  # alpha / rank
    merged(folder, model)
    np.testing.assert_allclose(model.params["h.0.attn.c_attn.weight"], expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """The folders "base" and "adapter" in the working directory, and the model with the adapter merged in."""
    monkeypatch.chdir(tmp_path)
    model = make_model("float32")
    model.save_pretrained("base")
    adapters = make_adapters(model, targets=["c_attn"])
    save_adapter("adapter", adapters, "base", checksum_of(model))
    adapters.merge_into(model)
    return model


def test_an_adapter_folder_opens_with_its_base(on_disk):
    for opened in open_model("adapter"), open_model("adapter", mapped=True), open_model("adapter", base="base"):
        np.testing.assert_array_equal(opened.params.flat, on_disk.params.flat)
        verify(opened)
    np.testing.assert_array_equal(open_model("base").logits(IDS), make_model("float32").logits(IDS))  # as it was


def test_a_merged_folder_is_a_plain_run(on_disk):
    open_model("adapter").save_pretrained("merged")
    np.testing.assert_array_equal(open_model("merged").params.flat, on_disk.params.flat)


def test_a_base_that_is_not_there_or_has_changed_is_named(on_disk):
    other = make_model("float32")
    other.params.flat[3] += 1
    other.save_pretrained("other")
    with pytest.raises(ValueError, match=r"adapter: its base has changed .* --base RUN"):
        open_model("adapter", base="other")
    with pytest.raises(ValueError, match="--base other is for an adapter, and base is a whole model"):
        open_model("base", base="other")
    Path("base").rename("elsewhere")
    with pytest.raises(FileNotFoundError, match=r"^adapter is an adapter of base: no such folder.*--base RUN$"):
        open_model("adapter")
    np.testing.assert_array_equal(open_model("adapter", base="elsewhere").params.flat, on_disk.params.flat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "adapter"}, "is an adapter of itself"),
        ({"base_model_name_or_path": None}, "does not say what its base is: give it with --base RUN"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path=7 must be a name"),
        ({"base_model_name_or_path": "a\nb"}, r"base_model_name_or_path='a\\nb' must be a name"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("on_disk")
def test_a_base_that_is_none_is_refused(changes, message):
    change_config(Path("adapter"), **changes)
    with pytest.raises(ValueError, match=message):
        open_model("adapter")


@pytest.mark.usefixtures("on_disk")
def test_an_adapter_of_an_int8_base_is_refused():
    Int8GPT.of(make_model("float32")).save_pretrained("small")
    with pytest.raises(ValueError, match=r"cannot be merged into .* weights of 8 bits: give the run"):
        open_model("adapter", base="small")


@pytest.mark.usefixtures("on_disk")
def test_a_folder_of_several_adapters_names_them():
    Path("both/one").mkdir(parents=True)
    Path("adapter").rename("both/two")
    (Path("both/one") / CONFIG).write_text("{}")
    with pytest.raises(ValueError, match="both holds adapters in its folders one, two: give one of them"):
        open_model("both")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {FIRST: None}, f"the tensor {FIRST} is missing"),
        (lambda a: {FIRST: a[:, :5]}, r"c_attn.lora_A.weight has the shape \(2, 5\), expected \(2, 6\)"),
        (lambda a: {FIRST: a.T}, r"c_attn.lora_A.weight has the shape \(6, 2\), expected \(2, 6\)"),
        (lambda a: {FIRST: a * np.nan}, "lora_A.weight has a number that is not finite"),
        (lambda a: {FIRST: a.astype(np.int32)}, "has the dtype int32, expected floats"),
        (lambda a: {FIRST.replace("h.0", "h.2"): a}, "h.2.attn.c_attn.lora_A.weight does not belong"),
        (lambda a: {"base_model.model.lm_head.weight": a}, r"lm_head.weight has the shape \(2, 6\), expected"),
    ],
    ids=["missing", "short", "transposed", "nan", "integers", "another block", "a head"],
)
def test_tensors_that_do_not_fit_are_refused(saved, change, message):
    folder, model, tensors = saved
    new = tensors | change(tensors[FIRST])
    save_file({name: np.ascontiguousarray(t) for name, t in new.items() if t is not None}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=message):
        load_adapter(folder, model)


def test_adapters_of_another_model_are_refused(saved):
    folder, _, _ = saved
    with pytest.raises(ValueError, match=r"expected \(2, 9\)"):
        load_adapter(folder, make_model(n_embd=9))
    with pytest.raises(ValueError, match=r"h\.2\.attn\.c_attn\.lora_A\.weight is missing"):
        load_adapter(folder, make_model(n_layer=3))


def test_weights_that_were_changed_under_the_checksum_are_refused(tmp_path):
    model = make_model()
    save_adapter(tmp_path, make_adapters(model), "base")
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        load_adapter(tmp_path, model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CONFIG, "is not an adapter: it has no adapter_config.json"),
        (WEIGHTS, "adapter_model.safetensors: no such file"),
    ],
)
def test_a_missing_file_is_named(saved, name, message):
    folder, model, _ = saved
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_adapter(folder, model)


def test_a_pickle_is_named_and_not_opened(saved):
    folder, model, _ = saved
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.bin is a pickle, which npgpt never opens"):
        load_adapter(folder, model)


def test_what_was_there_stays_whole_when_writing_fails(saved, monkeypatch):
    folder, model, _ = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args, **kwargs):
        raise OSError("no space left")

    for function in ("os.replace", "npgpt.hub.tensors._write"):
        with monkeypatch.context() as patch:
            patch.setattr(function, full)
            with pytest.raises(OSError, match="no space left"):
                save_adapter(folder, make_adapters(model, rank=1), "base")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
