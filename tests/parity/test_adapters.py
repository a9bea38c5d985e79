"""Adapters both ways: npgpt's open in PEFT, and those of PEFT in npgpt."""

from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT
from npgpt.models.lora import TARGETS, Adapters, load_adapter, save_adapter

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


def make_peft(model: GPT, targets: list, **options):
    """Return PEFT's model around transformers' twin; its adapters are of order one."""
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=targets, fan_in_fan_out=True, task_type="CAUSAL_LM", **options
    )
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["ln_f"]}, "modules_to_save="),
        ({"rank_pattern": {"h.0.attn.c_attn": 1}}, "rank_pattern="),
        ({"alpha_pattern": {"h.0.attn.c_attn": 1}}, "alpha_pattern="),
        ({"layers_to_transform": [1]}, r"layers_to_transform=\[1\]"),
    ],
    ids=str,
)
def test_kinds_that_npgpt_does_not_compute_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    model = make_model()
    make_peft(model, ["c_attn"], **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path, model)
