"""Adapters as a PEFT folder: they come back to the bit, and what is damaged, of another model or kind is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt.models.lora import load_adapter, save_adapter
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
        ({"peft_type": "IA3"}, "peft_type='IA3' is not supported, only 'LORA'"),
        ({"peft_type": ...}, "peft_type is missing"),
        ({"task_type": "SEQ_CLS"}, "task_type='SEQ_CLS' is not supported, only 'CAUSAL_LM' or None"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"use_rslora": True}, "use_rslora=True is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"bias": "lora_only"}, "bias='lora_only' is not supported, only 'none'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head'] is not supported"),
        ({"rank_pattern": {"c_attn": 4}}, "rank_pattern={'c_attn': 4} is not supported"),
        ({"alpha_pattern": {"c_attn": 4}}, "alpha_pattern={'c_attn': 4} is not supported"),
        ({"layers_to_transform": [0]}, "layers_to_transform=[0] is not supported"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights='pissa' is not supported, only True or False or 'gaussian'",
        ),
        ({"init_lora_weights": 1}, "init_lora_weights=1 is not supported"),
        ({"use_something_new": "yes"}, "use_something_new='yes' is not supported"),
        ({"r": ...}, "r is missing"),
        ({"r": 0}, "rank=0 must be at least 1"),
        ({"r": 10**9}, "rank=1000000000 is more than"),
        ({"r": "2"}, "r='2' must be an integer"),
        ({"r": True}, "r=True must be an integer"),
        ({"r": 2.0}, "r=2.0 must be an integer"),
        ({"lora_alpha": ...}, "lora_alpha is missing"),
        ({"lora_alpha": None}, "lora_alpha=None must be a number"),
        ({"lora_alpha": float("nan")}, "alpha=nan must be a number above 0"),
        ({"lora_alpha": -1}, "alpha=-1 must be a number above 0"),
        ({"lora_alpha": 10**400}, "too large"),
        ({"target_modules": ...}, "target_modules is missing"),
        ({"target_modules": "c_attn"}, "target_modules='c_attn' must be a list of names"),
        ({"target_modules": [1]}, "target_modules=[1] must be a list of names"),
        ({"target_modules": []}, "there is no target"),
        ({"target_modules": ["c_attn", "lm_head"]}, "unknown target 'lm_head'"),
        ({"target_modules": ["h.1.mlp.c_fc"]}, "target_modules has mlp.c_fc of blocks [1] only, not of all 2"),
        ({"target_modules": ["h.0.mlp.c_fx", "transformer.h.1.mlp.c_fx"]}, "unknown target 'mlp.c_fx'"),
    ],
    ids=str,
)
def test_what_npgpt_does_not_compute_is_refused(saved, changes, message):
    folder, model, _ = saved
    change_config(folder, **changes)
    with pytest.raises(ValueError) as error:  # noqa: PT011, the text is compared below
        load_adapter(folder, model)
    assert str(error.value).startswith(f"{folder / CONFIG}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {FIRST: None}, f"the tensor {FIRST} is missing"),
        (lambda a: {FIRST: a[:, :5]}, r"c_attn.lora_A.weight has the shape \(2, 5\), expected \(2, 6\)"),
        (lambda a: {FIRST: a.T}, r"c_attn.lora_A.weight has the shape \(6, 2\), expected \(2, 6\)"),
        (lambda a: {FIRST: a.astype(np.int32)}, "has the dtype int32, expected floats"),
        (lambda a: {FIRST.replace("h.0", "h.2"): a}, "h.2.attn.c_attn.lora_A.weight does not belong"),
        (lambda a: {"base_model.model.lm_head.weight": a}, "lm_head.weight does not belong"),
    ],
    ids=["missing", "short", "transposed", "integers", "another block", "a head"],
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
