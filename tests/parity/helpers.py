"""What the parity tests share: a GPT with weights of order one, and its twin in PyTorch."""

from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT, GPTConfig

WHY = "{} is not installed; the parity tests need npgpt[parity]"
torch = pytest.importorskip("torch", reason=WHY.format("torch"))
pytest.importorskip("tokenizers", reason=WHY.format("tokenizers"))
transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))

torch.set_num_threads(1)  # the arrays are tiny; threads would only wait for each other
transformers.logging.disable_progress_bar()

# npgpt against PyTorch, |a - b| / |b| of a whole array.
# float64: two blocks are a few hundred roundings of 1.1e-16 deep, some 1e-14 together.
# float32: the same depth at 6e-8 each. It is held against PyTorch's float64 on the same weights,
# since PyTorch's float32 is no nearer to the truth than npgpt's: over many seeds the worst gradient
# of either has a median of 1e-6, and passes 1e-5 in one of 200, where a position's variance is so
# small that layer norm blows its rounding up. Under the seed used here it is 4e-6.
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}

# odd and unequal, and an epsilon large enough to be seen where a layer forgets it
SIZES = {
    "vocab_size": 17,
    "n_positions": 7,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "layer_norm_epsilon": 1e-3,
}

COMBINATIONS = [
    {
        "tie_word_embeddings": tied,
        "activation_function": activation,
        "bias": bias,
        "n_inner": n_inner,
    }
    for tied in (True, False)
    for activation in ("gelu_new", "gelu")
    for bias in (True, False)
    for n_inner in (None, 11)
]


def combination_id(changes: dict) -> str:
    """Return the name of one of COMBINATIONS, as pytest shows it."""
    tied = "tied" if changes["tie_word_embeddings"] else "untied"
    bias = "bias" if changes["bias"] else "no_bias"
    return f"{tied}-{changes['activation_function']}-{bias}-n_inner_{changes['n_inner']}"


every_combination = pytest.mark.parametrize("changes", COMBINATIONS, ids=combination_id)
every_combination_of_transformers = pytest.mark.parametrize(
    "changes",
    [changes for changes in COMBINATIONS if changes["bias"]],  # its GPT-2 always has biases
    ids=combination_id,
)
both_ops = pytest.mark.parametrize("ops", ["reference", "fast"])


def make_model(dtype: str = "float64", ops: str = "fast", seed: int = 0, **changes) -> GPT:
    """Return a GPT with random parameters of order one, the same numbers in both dtypes.

    Under GPT-2's own 0.02 most gradients are so small that a wrong one would look right. Layer norm
    weights lie around one, as in a trained model, but none is one; all others lie around zero.
    """
    model = GPT(GPTConfig(**(SIZES | changes)), dtype=dtype, ops=ops)
    rng = np.random.default_rng(seed)
    for name, param in model.params.items():
        # wider embeddings: the larger a position's variance, the better layer norm is conditioned
        scale = 1.0 if name in ("wte.weight", "wpe.weight") else 0.5
        centre = 1.0 if param.ndim == 1 and name.endswith("weight") else 0.0
        model.params[name] = (centre + scale * rng.standard_normal(param.shape)).astype(np.float32)
    return model


def torch_twin(model: GPT, **changes):
    """Return transformers' model of the same config and weights in float64, without any file."""
    # field by field, so that one that npgpt fails to write to config.json is not missing here too
    fields = (*SIZES, "n_inner", "activation_function", "tie_word_embeddings", "eos_token_id")
    config = {name: getattr(model.config, name) for name in fields}
    config |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(**(config | {"bos_token_id": None} | changes))
    twin = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for name, tensor in torch_params(twin).items():
            # GPT-2 has biases: zero ones compute what none compute
            tensor.copy_(torch.tensor(model.params.get(name, np.zeros(tensor.shape))))
    return twin


def torch_params(twin) -> dict:
    """Return {npgpt's name: parameter}; of tied parameters PyTorch lists the embedding alone."""
    return {name.removeprefix("transformer."): p for name, p in twin.named_parameters()}


def open_in_transformers(folder: Path):
    """Open a folder; every parameter must find its tensor, and every tensor its parameter."""
    kind = transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys()
    assert not any(info.values()), info
    return model.eval()


def random_ids(rng: np.random.Generator, B: int = 3, T: int = 6) -> np.ndarray:
    return rng.integers(0, SIZES["vocab_size"], (B, T))


def random_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and targets (3, 6); about a third of the targets is -100, never all of them."""
    ids, targets = random_ids(rng), random_ids(rng)
    targets[rng.random(targets.shape) < 0.3] = -100
    targets[0] = -100, 5, -100, 3, 1, 1
    return ids, targets


def torch_loss(twin, ids: np.ndarray, targets: np.ndarray):
    """Return PyTorch's mean cross-entropy; transformers' own `labels=` would shift the targets."""
    logits = twin(torch.tensor(ids)).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())


def as_float64(x) -> np.ndarray:
    return np.asarray(x.detach() if torch.is_tensor(x) else x, np.float64)


def relative_error(got, expected) -> float:
    """Return |got - expected| / |expected|, Euclidean norms taken in float64."""
    got, expected = as_float64(got), as_float64(expected)
    assert got.shape == expected.shape
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
