"""Adapters both ways: npgpt's open in PEFT, and those of PEFT in npgpt."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT
from npgpt.cli import main
from npgpt.generation.opening import open_run
from npgpt.models.lora import TARGETS, Adapters, load_adapter, save_adapter
from npgpt.models.registry import open_model
from npgpt.support.files import write_sealed_json
from npgpt.tokenizer import CharTokenizer

from .helpers import (
    TOLERANCES,
    WHY,
    make_model,
    random_batch,
    random_ids,
    relative_error,
    torch,
    torch_loss,
    torch_params,
    torch_twin,
    transformers,
)

peft = pytest.importorskip("peft", reason=WHY.format("peft"))

# PEFT asks a model of transformers for a property under its former name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")

CHOICES = [TARGETS, ("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc", "mlp.c_proj")]
every_choice = pytest.mark.parametrize("targets", CHOICES, ids=",".join)


def make_adapters(model: GPT, targets: tuple, alpha: float = 3) -> Adapters:
    """Return adapters of rank 2 whose factors are both of order one, the same numbers in both dtypes."""
    adapters = Adapters(model, rank=2, alpha=alpha, targets=targets)
    adapters.params.flat[:] = np.random.default_rng(3).standard_normal(adapters.params.flat.size, np.float32)
    return adapters


def make_peft(model: GPT, target_modules: list | str, **options):
    """Return PEFT's model around transformers' twin; its adapters are of order one."""
    options = {"target_modules": target_modules, "task_type": "CAUSAL_LM"} | options
    config = peft.LoraConfig(r=2, lora_alpha=5, fan_in_fan_out=True, **options)
    twin = peft.get_peft_model(torch_twin(model), config).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in twin.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return twin


@every_choice
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("alpha", [3, 0.5])
def test_npgpts_adapters_open_in_peft(targets: tuple, dtype: str, alpha: float, tmp_path: Path) -> None:
    model = make_model(dtype)
    twin = torch_twin(model)
    ids = random_ids(np.random.default_rng(1))
    plain = model.logits(ids)
    adapters = make_adapters(model, targets, alpha)
    save_adapter(tmp_path, adapters, "base")
    adapters.merge_into(model)

    twin = peft.PeftModel.from_pretrained(twin, tmp_path).eval()
    # every tensor of the file has found its place, and there is no place without one
    found = {name: p for name, p in twin.named_parameters() if "lora_" in name}
    assert len(found) == len(adapters.params)
    for name, array in adapters.params.items():
        place = f"base_model.model.transformer.{name.removesuffix('.weight')}.default.weight"
        np.testing.assert_array_equal(found[place].detach().numpy(), array)
    expected = twin.double()(torch.tensor(ids)).logits
    assert relative_error(model.logits(ids), expected) < TOLERANCES[dtype]
    assert relative_error(plain, expected) > 0.1  # and without the adapters they would not be the same
    merged = twin.merge_and_unload()
    assert relative_error(model.logits(ids), merged(torch.tensor(ids)).logits) < TOLERANCES[dtype]


@pytest.mark.parametrize("targets", [["c_attn"], ["c_proj"], ["c_attn", "c_proj", "c_fc"], "all-linear"], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_pefts_adapters_open_in_npgpt(targets: list, dtype: str, tmp_path: Path) -> None:
    model = make_model(dtype)
    twin = make_peft(model, targets, lora_dropout=0.1)
    twin.save_pretrained(tmp_path)
    ids = random_ids(np.random.default_rng(1))
    adapters = load_adapter(tmp_path, model)
    assert (adapters.rank, adapters.alpha) == (2, 5)
    adapters.merge_into(model)
    assert relative_error(model.logits(ids), twin(torch.tensor(ids)).logits) < TOLERANCES[dtype]

    save_adapter(tmp_path / "back", adapters, "base")
    back = peft.PeftModel.from_pretrained(torch_twin(make_model(dtype)), tmp_path / "back").double().eval()
    assert relative_error(model.logits(ids), back(torch.tensor(ids)).logits) < TOLERANCES[dtype]


@every_choice
def test_gradients_are_those_of_pefts_branch(targets: tuple, tmp_path: Path) -> None:
    """PEFT adds a branch beside the layer, npgpt merges it into the weight: the gradients must be the same."""
    model = make_model()
    twin = torch_twin(model)
    adapters = make_adapters(model, targets)
    save_adapter(tmp_path, adapters, "base")
    twin = peft.PeftModel.from_pretrained(twin, tmp_path, is_trainable=True).double().eval()
    ids, targets_ = random_batch(np.random.default_rng(1))
    torch_loss(twin, ids, targets_).backward()
    adapters.merge_into(model)
    grads = adapters.gradients(model.loss_and_grads(ids, targets_)[1])
    expected = {name: p.grad for name, p in torch_params(twin).items() if p.grad is not None}
    assert len(expected) == len(grads)
    for name, grad in grads.items():
        wanted = expected[f"base_model.model.transformer.{name.removesuffix('.weight')}.default.weight"]
        assert relative_error(grad, wanted) < TOLERANCES["float64"], name


# what PEFT can ask for, and whether its own merge computes the same as its model: an adapter of an embedding that is
# also the head is in effect on one side only, until PEFT merges it
KINDS = [
    {"use_rslora": True},
    {
        "target_modules": "all-linear",
        "rank_pattern": {"h.0.attn.c_attn": 1, "c_fc": 3},
        "alpha_pattern": {r"h\.\d\.mlp\.c_fc": 7},
    },
    {
        "target_modules": ["c_attn", "c_proj"],
        "use_rslora": True,
        "rank_pattern": {"attn.c_proj": 1},
        "alpha_pattern": {"c_proj": 0.5},
    },
    {"target_modules": r".*\.1\.(attn|mlp)\.c_(attn|fc)"},
    {"target_modules": "all-linear"},
    {"target_modules": ["c_proj"], "layers_to_transform": [1]},
    {"target_modules": ["c_proj"], "layers_to_transform": 0, "layers_pattern": "h"},
    {"target_modules": ["c_attn", "c_proj"], "exclude_modules": ["mlp.c_proj"]},
    {"target_modules": ["c_attn", "c_proj"], "exclude_modules": r".*\.0\..*"},
    {"modules_to_save": ["wte"]},
    {"modules_to_save": ["wpe", "ln_f"]},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["wte", "lm_head"]},
    {"modules_to_save": ["mlp", "ln_1"]},
    {"target_modules": ["wte", "wpe", "c_attn"]},
    {"target_modules": ["lm_head", "c_attn"]},
    {"target_modules": ["wte", "lm_head"]},
    {"trainable_token_indices": [1, 3]},
    {"trainable_token_indices": {"wte": [16]}, "target_modules": ["c_fc"]},
    {"bias": "all"},
    {"bias": "lora_only", "target_modules": ["c_proj"]},
    {"lora_bias": True},
    {"init_lora_weights": "orthogonal"},
    {"task_type": None, "target_modules": ["c_attn"]},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_peft_can_ask_for_is_merged(options: dict, tied: bool, bias: bool, tmp_path: Path) -> None:
    model = make_model("float32", tie_word_embeddings=tied, bias=bias)
    model.save_pretrained(tmp_path / "base")
    options = {"target_modules": ["c_attn"]} | options
    twin = make_peft(model, **options)
    with torch.no_grad():  # everything else that is trained: whole modules, rows, biases
        generator = torch.Generator().manual_seed(2)
        for name, tensor in twin.named_parameters():
            if tensor.requires_grad and "lora_" not in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator))
    twin.float().save_pretrained(tmp_path / "adapter")
    opened = open_model(tmp_path / "adapter", base=tmp_path / "base")
    ids = random_ids(np.random.default_rng(1))
    expected = twin.double()(torch.tensor(ids)).logits
    assert relative_error(model.logits(ids), expected) > 1e-3  # it does something
    assert relative_error(opened.logits(ids), expected) < TOLERANCES["float32"]

    opened.save_pretrained(tmp_path / "merged")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "merged").double().eval()
    with torch.no_grad():
        assert relative_error(opened.logits(ids), again(torch.tensor(ids)).logits) < TOLERANCES["float32"]
    if not (tied and {"wte", "lm_head"} & {*options["target_modules"]}):
        # which PEFT merges into both, although its own model does not
        merged = twin.merge_and_unload()
        assert relative_error(opened.logits(ids), merged(torch.tensor(ids)).logits) < TOLERANCES["float32"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_vocabulary_that_grew_comes_with_the_adapter(tmp_path: Path) -> None:
    model = make_model("float32")
    model.save_pretrained(tmp_path / "base")
    twin = torch_twin(model)
    twin.resize_token_embeddings(20)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
    twin = peft.get_peft_model(twin, config).float().eval()
    twin.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    opened = open_model(tmp_path / "adapter", base=tmp_path / "base")
    assert opened.config.vocab_size == 20
    ids = random_ids(np.random.default_rng(1)) + 3
    assert relative_error(opened.logits(ids), twin.double()(torch.tensor(ids)).logits) < TOLERANCES["float32"]


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 17), ({}, 20), ({"modules_to_save": ["wte", "lm_head"]}, 17), ({"modules_to_save": ["wte", "lm_head"]}, 20)],
    ids=str,
)
@pytest.mark.parametrize("own", [True, False], ids=["its own tokenizer", "the tokenizer of its base"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_merged_folder_is_a_run_with_the_logits_of_pefts(options: dict, size: int, own: bool, tmp_path: Path) -> None:
    model = make_model("float32", tie_word_embeddings=False)
    base = tmp_path / "base"
    base.mkdir()
    CharTokenizer(["abc"]).save_pretrained(base)
    saved = {"run": "1", "model": dataclasses.asdict(model.config), "data": {}}
    saved["data"] = {"tokenizer": CharTokenizer(["abc"]).fingerprint()}
    write_sealed_json(base / "train.json", saved)
    model.save_pretrained(base)
    twin = torch_twin(model)
    twin.resize_token_embeddings(size)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", **options)
    twin = peft.get_peft_model(twin, config).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in twin.parameters():
            if tensor.requires_grad:
                tensor.add_(torch.randn(tensor.shape, generator=generator))
    twin.save_pretrained(tmp_path / "adapter", save_embedding_layers=size > 17)
    if own:
        CharTokenizer(["abcd"]).save_pretrained(tmp_path / "adapter")
    flags = ["--base", str(base), "--merge", "--out", str(tmp_path / "new")]
    assert main(["export", str(tmp_path / "adapter"), *flags]) == 0
    opened, tokenizer = open_run(tmp_path / "new")
    assert (opened.config.vocab_size, tokenizer.vocab_size) == (size, 4 if own else 3)
    ids = random_ids(np.random.default_rng(1))
    ids[0, 0] = size - 1
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "new").double().eval()
    merged = twin.double().merge_and_unload()
    for found in (opened.logits(ids), theirs(torch.tensor(ids)).logits.detach().numpy()):
        assert relative_error(found, merged(torch.tensor(ids)).logits.detach()) < TOLERANCES["float32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kinds_that_npgpt_does_not_compute_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    model = make_model("float32")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", **options)
    peft.get_peft_model(torch_twin(model).float(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path, model)
