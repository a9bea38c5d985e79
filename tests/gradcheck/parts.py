"""A loss with masked targets, and ways to accumulate it over the parts of a batch, right and wrong."""

import numpy as np

RNG = np.random.default_rng(33)
PARAMS = {"w": RNG.standard_normal((3, 5)), "b": RNG.standard_normal(5)}
X = RNG.standard_normal((6, 4, 3))
TARGETS = RNG.integers(0, 5, (6, 4))
TARGETS[0, 1:] = TARGETS[3, 2] = TARGETS[5, 0] = -100
BATCH = {"x": X, "targets": TARGETS}


def count(batch):
    return int((batch["targets"] != -100).sum())


def forward(params, batch):
    """Return the mean cross-entropy over what is not masked."""
    z = batch["x"] @ params["w"] + params["b"]
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    real = batch["targets"] != -100
    chosen = np.take_along_axis(p, np.where(real, batch["targets"], 0)[..., None], -1)[..., 0]
    return -(np.log(chosen) * real).sum() / real.sum(), (batch, p, real)


def backward(dloss, cache):
    batch, p, real = cache
    dz = p.copy()
    np.put_along_axis(
        dz, (index := np.where(real, batch["targets"], 0)[..., None]), np.take_along_axis(dz, index, -1) - 1, -1
    )
    dz *= dloss * real[..., None] / real.sum()
    return {"w": np.einsum("btc,btv->cv", batch["x"], dz), "b": dz.sum((0, 1))}


def whole(params, batch):
    loss, cache = forward(params, batch)
    return loss, backward(1.0, cache)


def summed(params, batch):
    """Return the sum in the place of the mean."""
    loss, grads = whole(params, batch)
    return loss * count(batch), {name: grad * count(batch) for name, grad in grads.items()}


def over_all(params, batch):
    """Return the mean over all targets, the masked included: a plain mean over the parts is right."""
    loss, grads = summed(params, batch)
    return loss / batch["targets"].size, {name: grad / batch["targets"].size for name, grad in grads.items()}


def accumulate(weight, one=whole, initial=0.0, take=lambda parts: parts):
    """Return a loop that adds up what `one` gives for each part, times weight(part, parts)."""

    def accumulated(params, parts):
        loss, grads = initial, {name: np.full_like(value, initial) for name, value in params.items()}
        for part in take(parts):
            own, own_grads = one(params, part)
            loss += weight(part, parts) * own
            for name, grad in own_grads.items():
                grads[name] += weight(part, parts) * grad
        return loss, grads

    return accumulated


def targets_share(part, parts):
    return count(part) / sum(map(count, parts))


def scaled_dout(params, parts):
    """Give backward the weight in the place of 1, as a trainer does."""
    total = sum(map(count, parts))
    loss, grads = 0.0, {name: np.zeros_like(value) for name, value in params.items()}
    for part in parts:
        own, cache = forward(params, part)
        loss += own * count(part) / total
        for name, grad in backward(count(part) / total, cache).items():
            grads[name] += grad
    return loss, grads


def overwritten(params, parts):
    loss = 0.0
    for part in parts:
        own, grads = whole(params, part)
        loss += own * targets_share(part, parts)
    return loss, grads


def loss_alone_weighted(params, parts):
    return accumulate(targets_share)(params, parts)[0], accumulate(lambda p, all_: 1 / len(all_))(params, parts)[1]


def one_forgotten(params, parts):
    loss, grads = accumulate(targets_share)(params, parts)
    return loss, grads | {"b": whole(params, parts[-1])[1]["b"]}


def never_zeroed():
    held = {name: np.zeros_like(value) for name, value in PARAMS.items()}

    def accumulated(params, parts):
        loss, grads = accumulate(targets_share)(params, parts)
        for name, grad in grads.items():
            held[name] += grad
        return loss, {name: grad.copy() for name, grad in held.items()}

    return accumulated


def stepping(params, parts):
    """Update the parameters after each part, and not after all."""
    params = {name: value.copy() for name, value in params.items()}
    loss, grads = 0.0, {name: np.zeros_like(value) for name, value in params.items()}
    for part in parts:
        own, own_grads = whole(params, part)
        loss += targets_share(part, parts) * own
        for name, grad in own_grads.items():
            grads[name] += targets_share(part, parts) * grad
            params[name] -= 1e-3 * grad
    return loss, grads


RIGHT = {
    "weighted by targets": (whole, accumulate(targets_share)),
    "dout scaled": ((forward, backward), scaled_dout),
    "sums": (summed, accumulate(lambda part, parts: 1.0, summed)),
    "sums over the total": (whole, accumulate(lambda part, parts: 1 / sum(map(count, parts)), summed)),
    "mean over all targets": (over_all, accumulate(lambda part, parts: 1 / len(parts), over_all)),
    "backwards": (whole, accumulate(targets_share, take=lambda parts: parts[::-1])),
}

WRONG = {
    "mean of means": (whole, accumulate(lambda part, parts: 1 / len(parts))),
    "sum of means": (whole, accumulate(lambda part, parts: 1.0)),
    "weighted by samples": (whole, accumulate(lambda part, parts: len(part["x"]) / sum(len(p["x"]) for p in parts))),
    "the first part's count": (whole, accumulate(lambda part, parts: count(parts[0]) / sum(map(count, parts)))),
    "weighted by what is masked": (
        whole,
        accumulate(lambda part, parts: (part["targets"] == -100).sum() / (BATCH["targets"] == -100).sum()),
    ),
    "without the last": (whole, accumulate(targets_share, take=lambda parts: parts[:-1] or parts)),
    "the last twice": (whole, accumulate(targets_share, take=lambda parts: [*parts, parts[-1]][: len(parts) + 1])),
    "overwritten": (whole, overwritten),
    "the loss alone is weighted": (whole, loss_alone_weighted),
    "one gradient is overwritten": (whole, one_forgotten),
    "never zeroed": (whole, never_zeroed()),
    "a step after each part": (whole, stepping),
    "begins at a billionth": (whole, accumulate(targets_share, initial=1e-9)),
    "divided twice": (whole, accumulate(lambda part, parts: targets_share(part, parts) / len(parts))),
    "sums, and then a mean": (summed, accumulate(lambda part, parts: 1 / len(parts), summed)),
}
