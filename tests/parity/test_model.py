"""The whole model against transformers' GPT-2: features, logits, loss and every gradient."""

from pathlib import Path

import numpy as np
import pytest

from npgpt.models.gpt2 import features_backward, features_forward

from .helpers import (
    TOLERANCES,
    both_ops,
    every_combination,
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


def pieces(name: str, grad: np.ndarray) -> dict[str, np.ndarray]:
    """Split c_attn.weight into queries, keys and values, lest a wrong part hide beside a large one.

    c_attn.bias stays whole: one bias on every key adds the same to all scores of a query, softmax
    takes that out again, and so the key part's true gradient is exactly zero. What either side has
    there is its own rounding, which the norm of the whole bounds: it must be as small as that.
    """
    if not name.endswith("c_attn.weight"):
        return {name: grad}
    q, k, v = np.split(grad, 3, axis=1)
    return {f"{name} (q)": q, f"{name} (k)": k, f"{name} (v)": v}


@both_ops
@pytest.mark.parametrize("dtype", TOLERANCES)
@every_combination
def test_logits_loss_and_every_gradient(changes: dict, dtype: str, ops: str) -> None:
    model, tolerance = make_model(dtype, ops, **changes), TOLERANCES[dtype]
    twin = torch_twin(model)
    ids, targets = random_batch(np.random.default_rng(1))
    loss, grads = model.loss_and_grads(ids, targets)
    expected_loss = torch_loss(twin, ids, targets)
    expected_loss.backward()
    assert relative_error(model.logits(ids), twin(torch.tensor(ids)).logits) < tolerance
    assert loss == pytest.approx(expected_loss.item(), rel=tolerance)

    expected = {name: p.grad.numpy() for name, p in torch_params(twin).items()}
    if not changes["bias"]:
        expected = {name: grad for name, grad in expected.items() if not name.endswith(".bias")}
    assert grads.keys() == model.params.keys() == expected.keys()
    assert grads.flat.dtype == dtype
    for name in grads:
        got = pieces(name, grads[name])
        for piece, wanted in pieces(name, expected[name]).items():
            # large enough that a wrong one could not pass for rounding
            assert np.sqrt(np.mean(wanted**2)) > 1e-3, piece
            error = relative_error(got[piece], wanted)
            assert error < tolerance, (piece, error)


@pytest.mark.parametrize(("B", "T"), [(1, 1), (2, 2), (5, 7)])  # 7 is n_positions
@every_combination
def test_features_and_logits(changes: dict, B: int, T: int, tmp_path: Path) -> None:
    model = make_model(**changes)
    model.save_pretrained(tmp_path)
    ids = random_ids(np.random.default_rng(2), B, T)
    body = transformers.AutoModel.from_pretrained(tmp_path)
    hidden = body(torch.tensor(ids)).last_hidden_state
    assert relative_error(model.features(ids), hidden) < TOLERANCES["float64"]
    logits = torch_twin(model)(torch.tensor(ids)).logits
    assert relative_error(model.logits(ids), logits) < TOLERANCES["float64"]


def test_targets_are_labels_shifted_by_one() -> None:
    model = make_model()
    ids = random_ids(np.random.default_rng(3))
    labels = np.where(np.arange(ids.size).reshape(ids.shape) % 5 == 4, -100, ids)
    targets = np.hstack((labels[:, 1:], np.full((len(ids), 1), -100)))
    expected = torch_twin(model)(torch.tensor(ids), labels=torch.tensor(labels)).loss
    # transformers takes this loss in float32 whatever the model is: a rounding of 6e-8 a logit
    assert model.loss(ids, targets) == pytest.approx(expected.item(), rel=1e-6)


@both_ops
def test_given_embeddings_and_their_gradient(ops: str) -> None:
    model = make_model("float64", ops)
    twin = torch_twin(model)
    embeds = np.random.default_rng(1).standard_normal((2, 5, model.config.n_embd))
    leaf = torch.tensor(embeds, requires_grad=True)
    expected = twin.transformer(inputs_embeds=leaf).last_hidden_state
    hidden, cache = features_forward(model.params, None, model.config, model.ops, inputs_embeds=embeds)
    assert relative_error(hidden, expected) < TOLERANCES["float64"]
    assert relative_error(model.forward(inputs_embeds=embeds), twin(inputs_embeds=leaf).logits) < TOLERANCES["float64"]
    dhidden = np.random.default_rng(2).standard_normal(hidden.shape)
    expected.backward(torch.tensor(dhidden))
    found = features_backward(dhidden, cache, model.params.empty_like(), blocks=0)
    assert relative_error(found, leaf.grad) < TOLERANCES["float64"]
