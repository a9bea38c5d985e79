"""The same GPT in PyTorch and in JAX, as tight as their users write it: the peers of the step's benchmark.

Parameters are taken from npgpt's by name, and each peer gives its loss and gradients under these names, so that a
benchmark can see first that all of them compute the same. Nothing is imported before it is asked for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from npgpt import GPTConfig

Grads = dict[str, np.ndarray]
Step = Callable[[np.ndarray, np.ndarray], float]

LR, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0


def torch_model(config: GPTConfig, params: Mapping[str, np.ndarray]) -> Any:
    """Return nanoGPT's model as a torch.nn.Module: scaled_dot_product_attention, tanh GELU, tied head."""
    from torch import nn
    from torch.nn import functional

    C, H = config.n_embd, config.n_head

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x: Any) -> Any:
            B, T, _ = x.shape
            q, k, v = (part.view(B, T, H, C // H).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(C, dim=2))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.mlp_proj(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(config.vocab_size, C), nn.Embedding(config.n_positions, C)
            self.h = nn.ModuleList(Block() for _ in range(config.n_layer))
            self.ln_f = nn.LayerNorm(C)

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
            for block in self.h:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    model = Model()
    load(model, params)
    return model


def load(model: Any, params: Mapping[str, np.ndarray]) -> None:
    """Give a model of torch_model the weights of npgpt's."""
    import torch

    with torch.no_grad():
        for name, tensor in torch_names(model).items():
            value = torch.from_numpy(np.array(params[name]))
            tensor.copy_(value.T if is_linear(name) else value)


def torch_weights(model: Any) -> Grads:
    """Return a copy of every weight, in npgpt's names and layouts."""
    found = {n: p.detach().numpy() for n, p in torch_names(model).items()}
    return {n: (value.T if is_linear(n) else value).copy() for n, value in found.items()}


def is_linear(name: str) -> bool:
    """Say whether PyTorch stores the weight of this name the other way round, (out, in)."""
    return name.endswith(".weight") and any(part in name for part in ("c_attn", "c_proj", "c_fc"))


def torch_names(model: Any) -> dict[str, Any]:
    """Return the model's parameters under npgpt's names."""
    places = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}
    found = {}
    for name, tensor in model.named_parameters():
        parts = [places.get(part, part) for part in name.split(".")]
        found[".".join(parts)] = tensor
    return found


def torch_grads(model: Any, ids: np.ndarray, targets: np.ndarray) -> tuple[float, Grads]:
    """Return the loss and every gradient, in npgpt's names and layouts."""
    import torch

    loss = model(torch.from_numpy(ids), torch.from_numpy(targets))
    loss.backward()
    grads = {n: (p.grad.T if is_linear(n) else p.grad).numpy().copy() for n, p in torch_names(model).items()}
    model.zero_grad(set_to_none=True)
    return loss.item(), grads


def torch_step(model: Any, compiled: bool = False, fused: bool = True) -> Step:
    """Return a whole training step: forward, backward, clip, AdamW; fused, or over a list of tensors (foreach)."""
    import torch

    step = torch_step_at(torch.compile(model) if compiled else model, torch_optimizers(model, fused=fused))
    return lambda ids, targets: step(ids, targets, LR)


def torch_optimizers(model: Any, fused: bool = True, muon: bool = False) -> list[Any]:
    """Return AdamW for all parameters or, with muon, PyTorch's Muon for the blocks' matrices and AdamW for the rest."""
    import torch

    blocks = [p for n, p in torch_names(model).items() if muon and n.startswith("h.") and p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is block for block in blocks)]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = {"fused": True} if fused else {"foreach": True}
    found = [torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, **kind)]
    if muon:  # with a step as long as AdamW's, so that the same rate suits both
        found.append(torch.optim.Muon(blocks, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"))
    return found


def torch_step_at(forward: Any, optimizers: Sequence[Any]) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """Return a whole training step at a learning rate: forward, backward, clip, update."""
    import torch

    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"]]

    def step(ids: np.ndarray, targets: np.ndarray, lr: float) -> float:
        for group in groups:
            group["lr"] = lr
        loss = forward(torch.from_numpy(ids), torch.from_numpy(targets))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def transformers_model(config: GPTConfig, params: Mapping[str, np.ndarray]) -> Any:
    """Return transformers' own GPT2LMHeadModel with these weights, without dropout."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    model = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False)).train()
    with torch.no_grad():
        for name, tensor in model.transformer.named_parameters():
            tensor.copy_(torch.from_numpy(np.array(params[name])))
    return model


def transformers_loss(model: Any) -> Any:
    """Return the model as a function from ids and targets to the loss, with the attributes that torch_step needs."""
    from torch import nn
    from torch.nn import functional

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, targets: Any) -> Any:
            logits = self.model(ids).logits
            return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    return Loss()


def jax_loss(config: GPTConfig) -> Callable:
    """Return the loss of the same GPT as a pure function of its parameters, ids and targets."""
    import jax
    import jax.numpy as jnp

    H, eps = config.n_head, config.layer_norm_epsilon

    def layernorm(x: Any, p: Mapping[str, Any], name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * p[f"{name}.weight"]
            + p[f"{name}.bias"]
        )

    def linear(x: Any, p: Mapping[str, Any], name: str) -> Any:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def loss(p: Mapping[str, Any], ids: Any, targets: Any) -> Any:
        B, T = ids.shape
        x = p["wte.weight"][ids] + p["wpe.weight"][:T]
        hidden = jnp.tril(jnp.ones((T, T), bool))
        for i in range(config.n_layer):
            h = f"h.{i}"
            q, k, v = jnp.split(linear(layernorm(x, p, f"{h}.ln_1"), p, f"{h}.attn.c_attn"), 3, axis=-1)
            q, k, v = (part.reshape(B, T, H, -1).swapaxes(1, 2) for part in (q, k, v))
            scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
            att = jax.nn.softmax(jnp.where(hidden, scores, -jnp.inf), axis=-1)
            x = x + linear((att @ v).swapaxes(1, 2).reshape(B, T, -1), p, f"{h}.attn.c_proj")
            y = linear(layernorm(x, p, f"{h}.ln_2"), p, f"{h}.mlp.c_fc")
            x = x + linear(jax.nn.gelu(y, approximate=True), p, f"{h}.mlp.c_proj")
        logp = jax.nn.log_softmax(layernorm(x, p, "ln_f") @ p["wte.weight"].T)
        return -jnp.take_along_axis(logp, targets[..., None], axis=-1).mean()

    return loss


def jax_grads(config: GPTConfig, params: Mapping[str, np.ndarray], ids: Any, targets: Any) -> tuple[float, Grads]:
    """Return the loss and every gradient."""
    import jax

    loss, grads = jax.value_and_grad(jax_loss(config))({n: np.array(p) for n, p in params.items()}, ids, targets)
    return float(loss), {name: np.asarray(grad) for name, grad in grads.items()}


def jax_step(config: GPTConfig, params: Mapping[str, np.ndarray]) -> Step:
    """Return a whole training step under one jit, parameters and averages donated."""
    import jax
    import jax.numpy as jnp

    loss_and_grads = jax.value_and_grad(jax_loss(config))

    def update(state: tuple, ids: Any, targets: Any) -> tuple:
        p, m, v, t = state
        loss, g = loss_and_grads(p, ids, targets)
        norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
        scale = jnp.minimum(CLIP / (norm + 1e-6), 1.0)
        t = t + 1
        g = jax.tree.map(lambda x: x * scale, g)
        m = jax.tree.map(lambda a, x: BETAS[0] * a + (1 - BETAS[0]) * x, m, g)
        v = jax.tree.map(lambda a, x: BETAS[1] * a + (1 - BETAS[1]) * x * x, v, g)

        def new(x: Any, a: Any, b: Any) -> Any:
            decayed = x * (1 - LR * DECAY) if x.ndim >= 2 else x
            return decayed - LR / (1 - BETAS[0] ** t) * a / (jnp.sqrt(b / (1 - BETAS[1] ** t)) + EPS)

        return (jax.tree.map(new, p, m, v), m, v, t), loss

    jitted = jax.jit(update, donate_argnums=0)
    start = {name: jnp.array(p) for name, p in params.items()}
    zeros = {name: jnp.zeros_like(p) for name, p in start.items()}
    state = (start, zeros, dict(jax.tree.map(jnp.zeros_like, zeros)), jnp.float32(0))

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        nonlocal state
        state, loss = jitted(state, ids, targets)
        return float(jax.block_until_ready(loss))

    return step
