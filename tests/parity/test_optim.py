"""AdamW, clipping, the linear schedule and the mean of weights against PyTorch's."""

import numpy as np
import pytest

from npgpt.optim import AdamW, Mean
from npgpt.optim.schedule import clip_grad_norm, learning_rate_at
from npgpt.support.parameters import Parameters

from .helpers import (
    make_model,
    random_batch,
    relative_error,
    torch,
    torch_loss,
    torch_params,
    torch_twin,
)

STEPS = 50
# not the defaults, so that a constant in their place would show, and a decay that a bias would show
SETTINGS = {"eps": 1e-6, "weight_decay": 0.5}
BETAS = 0.8, 0.97
MAX_NORM = 1.0


def learning_rates() -> list[float]:
    """Return a rate for each step, all of them different: up for 10 steps, then down."""
    rates = [learning_rate_at(step, 3e-2, 1e-3, 10, STEPS) for step in range(STEPS)]
    assert len(set(rates)) == STEPS
    return rates


def torch_adamw(params: dict):
    """Return PyTorch's AdamW with decay for matrices alone."""
    matrices = [p for p in params.values() if p.ndim >= 2]
    vectors = [p for p in params.values() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, **SETTINGS)


def torch_step(optimizer, params: dict, lr: float) -> float:
    """Clip, take one step with this learning rate, and return the norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return float(norm)


def assert_moved_alike(params: Parameters, start: np.ndarray, twins: dict, tol: float) -> None:
    """Compare how far each parameter has moved; beside its size a wrong small step could hide."""
    before = Parameters(params.shapes, start)
    for name, param in params.items():
        moved = param - before[name]
        assert np.linalg.norm(moved) > 0.1, name
        error = relative_error(moved, twins[name].detach().numpy() - before[name])
        assert error < tol, (name, error)


# 50 steps leave at most a few hundred roundings in a parameter of order one that has moved by about
# as much: some 1e-14 of the way at 1.1e-16 each in float64, and 1e-6 at 6e-8 each in float32.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_fifty_steps_of_the_same_gradients(dtype: str, tolerance: float) -> None:
    model = make_model(dtype)
    params, start = model.params, model.params.flat.copy()
    twins = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    ours, theirs = AdamW(params, *BETAS, **SETTINGS), torch_adamw(twins)
    grads, rng = params.empty_like(), np.random.default_rng(0)
    # each element has its own size, from far below eps to far above, so that eps counts where it is
    sizes = 10.0 ** rng.uniform(-9, 0, params.flat.size)
    sizes[::7] = 0
    clipped = []
    for lr in learning_rates():
        grads.flat[:] = rng.uniform(0.005, 0.5) * sizes * rng.standard_normal(sizes.size)
        for name, twin in twins.items():
            twin.grad = torch.tensor(grads[name])
        norm = clip_grad_norm(grads, MAX_NORM)
        assert norm == pytest.approx(torch_step(theirs, twins, lr), rel=tolerance)
        ours.step(grads, lr)
        clipped.append(norm > MAX_NORM)
    assert 10 < sum(clipped) < 40  # steps of both kinds
    assert_moved_alike(params, start, twins, tolerance)
    assert params.flat.dtype == ours.exp_avg.flat.dtype == ours.exp_avg_sq.flat.dtype == dtype


# Each side's rounding now goes through its own weights into its next gradient and grows from there,
# to some 1e-11 in 50 steps.
@pytest.mark.parametrize("tied", [True, False])
def test_fifty_steps_of_training(tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    twin = torch_twin(model)
    start, expected = model.params.flat.copy(), torch_params(twin)
    ours, theirs = AdamW(model.params, *BETAS, **SETTINGS), torch_adamw(expected)
    rng, losses = np.random.default_rng(0), []
    for lr in learning_rates():
        ids, targets = random_batch(rng)
        loss, grads = model.loss_and_grads(ids, targets)
        clip_grad_norm(grads, MAX_NORM)
        ours.step(grads, lr)

        theirs.zero_grad()
        expected_loss = torch_loss(twin, ids, targets)
        expected_loss.backward()
        torch_step(theirs, expected, lr)
        assert loss == pytest.approx(expected_loss.item(), rel=1e-9)
        losses.append(loss)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert_moved_alike(model.params, start, expected, 1e-9)


@pytest.mark.parametrize(
    "gradient",
    [
        [0.3, 0.4],
        [30.0, 40.0],
        [0.0, 0.0],
        [0.6, np.inf],
        [0.6, 0.8 - 5e-7],  # within the limit, but not by the 1e-6 of the formula
        [0.6, np.nan],
    ],
)
def test_clipping(gradient: list[float]) -> None:
    shapes = {"a": (1,), "b": (1,)}
    grads, twin = Parameters(shapes, np.array(gradient)), torch.zeros(2, dtype=torch.float64)
    twin.grad = torch.tensor(gradient, dtype=torch.float64)
    with np.errstate(invalid="ignore"):  # 0 * inf is NaN on both sides
        norm = clip_grad_norm(grads, MAX_NORM)
    # one square root, one division and one product: a few roundings of 1.1e-16
    expected = torch.nn.utils.clip_grad_norm_([twin], MAX_NORM).item()
    np.testing.assert_allclose(norm, expected, rtol=1e-14)
    np.testing.assert_allclose(grads.flat, twin.grad, rtol=1e-14)


def test_a_line_is_pytorchs_linear_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.25, total_iters=STEPS)
    for step in range(STEPS + 5):
        (rate,) = schedule.get_last_lr()
        assert learning_rate_at(step, 3e-2, 0.25 * 3e-2, 0, STEPS, "linear") == pytest.approx(rate, rel=1e-12)
        optimizer.step()
        schedule.step()


def test_the_mean_of_weights_is_pytorchs(rng):
    params = Parameters({"a": (1000,)}, np.zeros(1000))
    twin, mean = torch.nn.ParameterList([torch.nn.Parameter(torch.from_numpy(params.flat))]), Mean(params)
    averaged = torch.optim.swa_utils.AveragedModel(twin)
    for _ in range(20):
        params.flat[:] = rng.standard_normal(1000)  # the twin's memory, too
        mean.add()
        averaged.update_parameters(twin)
    found = averaged.module[0].detach().numpy()
    np.testing.assert_allclose(mean.values.flat, found, rtol=0, atol=20 * 10 * np.finfo(float).eps)  # 20 roundings
