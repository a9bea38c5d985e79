"""GRU and LSTM against PyTorch's: the outputs, the last states, and every gradient."""

import numpy as np
import pytest

from npgpt.models.recurrent import stack_backward, stack_forward
from npgpt.ops import get_ops

from .helpers import both_ops, relative_error, torch

# Six steps through two layers are some hundred roundings deep, of 1.1e-16 each
TOLERANCE = 1e-12
GATES = {"gru": 3, "lstm": 4}
B, T, N_IN, H = 4, 6, 5, 3


def torch_run(kind, module, x, states, lengths):
    """Run a module of PyTorch; return the output and the last states, as rows of these lengths have them."""
    given = states[0] if kind == "gru" else states
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, last = module(x, given)
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=T)
    return out, (last,) if kind == "gru" else last


@both_ops
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("lengths", [None, [3, 6, 1, 5], [6, 6, 6, 6], [2, 2, 4, 4]])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_forward_and_every_gradient(ops, kind, lengths, bidirectional, n_layer):
    directions, rng = 1 + bidirectional, np.random.default_rng(0)
    module = getattr(torch.nn, kind.upper())(N_IN, H, n_layer, batch_first=True, bidirectional=bidirectional).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.tensor(rng.standard_normal(parameter.shape)))
    names = [f"l{layer}{end}" for layer in range(n_layer) for end in ("", "_reverse")[:directions]]
    tensors = [[getattr(module, f"{part}_{name}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
               for name in names]  # fmt: skip
    x = rng.standard_normal((B, T, N_IN))
    states = [rng.standard_normal((n_layer * directions, B, H)) for _ in range(GATES[kind] - 2)]
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *states)]
    wanted, wanted_last = torch_run(kind, module, leaves[0], tuple(leaves[1:]), lengths)

    weights = [tuple(tensor.detach().numpy() for tensor in group) for group in tensors]
    given = None if lengths is None else np.array(lengths)
    out, cache = stack_forward(x, states, weights, get_ops(ops), given, bidirectional)
    assert relative_error(out, wanted) < TOLERANCE
    for state, want in zip(cache.states, wanted_last, strict=True):
        assert relative_error(state, want) < TOLERANCE

    dout, dlast = rng.standard_normal(out.shape), [rng.standard_normal(state.shape) for state in states]
    torch.autograd.backward([wanted, *wanted_last], [torch.tensor(array) for array in (dout, *dlast)])
    dx, dstates, dweights = stack_backward(dout, cache, dlast)
    for grad, leaf in zip((dx, *dstates), leaves, strict=True):
        assert relative_error(grad, leaf.grad) < TOLERANCE
    for grads, group in zip(dweights, tensors, strict=True):
        for grad, tensor in zip(grads, group, strict=True):
            assert relative_error(grad, tensor.grad) < TOLERANCE


@both_ops
@pytest.mark.parametrize("kind", GATES)
def test_truncated_gradients_are_those_of_detached_states(ops, kind):
    rng, table = np.random.default_rng(1), get_ops(ops)
    module = getattr(torch.nn, kind.upper())(N_IN, H, batch_first=True).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.tensor(rng.standard_normal(parameter.shape)))
    tensors = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]
    x, states = rng.standard_normal((B, T, N_IN)), [rng.standard_normal((1, B, H)) for _ in range(GATES[kind] - 2)]
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *states)]
    dout, last, outs = rng.standard_normal((B, T, H)), tuple(leaves[1:]), []
    for first in (0, 4):
        out, last = torch_run(kind, module, leaves[0][:, first : first + 4], last, None)
        outs.append(out)
        last = tuple(state.detach() for state in last)
    torch.cat(outs, dim=1).backward(torch.tensor(dout))

    arrays = [x, *(state[0] for state in states), *(tensor.detach().numpy() for tensor in tensors)]
    _, cache = getattr(table, f"{kind}_forward")(*arrays, bptt=4)
    grads = getattr(table, f"{kind}_backward")(dout, cache)
    wanted = [leaf.grad if n == 0 else leaf.grad[0] for n, leaf in enumerate(leaves)]
    for grad, want in zip(grads, [*wanted, *(tensor.grad for tensor in tensors)], strict=True):
        assert relative_error(grad, want) < TOLERANCE
