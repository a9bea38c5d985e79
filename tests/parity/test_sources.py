"""What reads a source of several lengths, against PyTorch and transformers: layers, and the transformer decoder."""

import numpy as np
import pytest

from npgpt import GPTConfig
from npgpt.models.seq_config import SeqConfig
from npgpt.models.seq_transformer import (
    TransformerPast,
    decoder_part,
    transformer_backward,
    transformer_forward,
    transformer_shapes,
)
from npgpt.ops import get_ops
from npgpt.support.parameters import zeros

from .helpers import both_ops, relative_error, torch, transformers
from .test_layers import assert_same, normal

F = torch.nn.functional
LENGTHS = np.array([3, 7, 1])
lengths_or_none = pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "whole"])


def real(lengths, S=7):
    """Return which of the positions of three sources are real, as PyTorch's mask."""
    return torch.tensor(np.arange(S) < (np.full(3, S) if lengths is None else lengths)[:, None])


def torch_cross_attention(n_head, lengths):
    def forward(q, kv):
        q, k, v = (x.unflatten(-1, (n_head, -1)).transpose(1, 2) for x in (q, *kv.chunk(2, dim=-1)))
        mask = real(lengths)[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    return forward


@both_ops
@lengths_or_none
@pytest.mark.parametrize(("T", "H", "D"), [(1, 1, 1), (5, 3, 7), (37, 2, 5)])
def test_cross_attention(ops: str, lengths, T: int, H: int, D: int) -> None:
    args = normal(3, T, H * D), normal(3, 7, 2 * H * D)
    assert_same(ops, "cross_attention", torch_cross_attention(H, lengths), *args, n_head=H, lengths=lengths)


@both_ops
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 7), (2, 129)])
def test_rmsnorm(ops: str, shape: tuple) -> None:
    C = shape[-1]
    args = 1 + normal(*shape, scale=2), normal(C)
    assert_same(ops, "rmsnorm", lambda x, weight: F.rms_norm(x, (C,), weight, eps=1e-3), *args, eps=1e-3)


@both_ops
@lengths_or_none
@pytest.mark.parametrize("how", ["mean", "last"])
def test_pool(ops: str, lengths, how: str) -> None:
    counts = real(lengths).sum(dim=1)

    def torch_forward(x):
        if how == "last":
            return x[torch.arange(3), counts - 1]
        return (x * real(lengths)[:, :, None]).sum(dim=1) / counts[:, None]

    assert_same(ops, "pool", torch_forward, normal(3, 7, 5), how=how, lengths=lengths)


@both_ops
@lengths_or_none
def test_attention_pool(ops: str, lengths) -> None:
    def torch_forward(x, weight):
        scores = (x @ weight).masked_fill(~real(lengths), -torch.inf)
        return (scores.softmax(dim=1)[:, None] @ x)[:, 0]

    assert_same(ops, "attention_pool", torch_forward, normal(3, 7, 5), normal(5), lengths=lengths)


@both_ops
@lengths_or_none
def test_transformer_decoder(ops: str, lengths) -> None:
    encoder = GPTConfig(vocab_size=5, n_positions=9, n_embd=12, n_layer=1, n_head=3, layer_norm_epsilon=1e-3)
    config = SeqConfig(encoder, "transformer", n_layer=2)
    params = zeros(transformer_shapes(config), "float64")
    for name, param in params.items():
        centre = 1.0 if param.ndim == 1 and name.endswith("weight") else 0.0
        params[name] = centre + (1.0 if "wpe" in name else 0.5) * np.random.default_rng(len(name)).standard_normal(
            param.shape
        )
    x, source, dy = normal(3, 4, 12), normal(3, 7, 12), normal(3, 4, 12, scale=2)
    table = get_ops(ops)
    y, cache = transformer_forward(params, x, source, lengths, config, table)
    grads = params.empty_like()
    dx, dsource = transformer_backward(dy, cache, grads)

    sizes = {"n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "layer_norm_epsilon": 1e-3, "vocab_size": 5}
    pdrop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    twin = transformers.GPT2Model(transformers.GPT2Config(**sizes, **pdrop, add_cross_attention=True)).double()
    del twin.wte  # the embeddings come in
    ours = decoder_part(params, config)
    named = dict(twin.named_parameters())
    assert named.keys() == ours.keys()
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(torch.tensor(ours[name]))
    tx, ts = torch.tensor(x, requires_grad=True), torch.tensor(source, requires_grad=True)
    mask = real(lengths).long()
    wanted = twin(inputs_embeds=tx, encoder_hidden_states=ts, encoder_attention_mask=mask, use_cache=False)[0]
    wanted.backward(torch.tensor(dy))
    # two blocks are some hundreds of roundings of 1.1e-16 deep, some 1e-14 together
    assert relative_error(y, wanted) < 1e-10
    assert relative_error(dx, tx.grad) < 1e-10
    assert relative_error(dsource, ts.grad) < 1e-10
    for name, grad in decoder_part(grads, config).items():
        assert np.linalg.norm(grad) > 1e-3, name  # a wrong one could not pass for rounding
        assert relative_error(grad, named[name].grad) < 1e-10, name

    past, steps = TransformerPast(), []
    for t in range(4):
        part = source if t == 0 else None
        steps.append(transformer_forward(params, x[:, t : t + 1], part, lengths, config, table, past=past)[0])
    assert relative_error(np.concatenate(steps, axis=1), wanted) < 1e-10
