"""What the ops of a training step cost, counted from shapes: floating-point operations, and numbers moved in memory."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from npgpt.config import GPTConfig
from npgpt.kernels.clock import ACTIVATION, ATTENTION, BACKWARD, EMBED, HEAD, LINEAR, LOSS, MLP, NORM
from npgpt.optim.muon import products_of
from npgpt.support.parameters import Shapes


class Cost(NamedTuple):
    """The operations of matrix products, and the numbers read and written by ops that are limited by memory."""

    flops: float = 0.0
    numbers: float = 0.0


def costs_of_ops(config: GPTConfig, tokens: int) -> dict[int, Cost]:
    """Return {op: cost} of the forward and backward passes over `tokens` tokens, in rows of n_positions.

    A product counts two operations for each multiplication and its addition; in attention, for the (T + 1) / 2 keys
    that a token sees on average, however many the kernel computes. The backward of a product is two more of its size.
    So the sum over all ops is 3 * flops_per_token for each token.

    The other ops move numbers. Each is counted as if it read its inputs from memory once and wrote its results there.
    """
    C, F, L, T, V = config.n_embd, config.mlp_width, config.n_layer, config.n_positions, config.vocab_size
    products = {LINEAR: L * 4 * C * C, ATTENTION: L * 2 * C * (T + 1) / 2, MLP: L * 2 * C * F, HEAD: V * C}
    # 2 L + 1 norms, and 2 L additions of a branch to the residual stream
    forward = {EMBED: 3 * C, NORM: (2 * L + 1) * 2 * C + 2 * L * 3 * C, ACTIVATION: L * 3 * F, LOSS: 2 * V}
    backward = {EMBED: 3 * C, NORM: (2 * L + 1) * 3 * C + 2 * L * 3 * C, ACTIVATION: L * 3 * F}
    return {
        **{op: Cost(flops=2 * number * tokens) for op, number in products.items()},
        **{BACKWARD + op: Cost(flops=4 * number * tokens) for op, number in products.items()},
        **{op: Cost(numbers=number * tokens) for op, number in forward.items()},
        **{BACKWARD + op: Cost(numbers=number * tokens) for op, number in backward.items()},
    }


def cost_of_adding(size: int, buffers: int) -> Cost:
    """Return the cost of adding up `size` gradients from several buffers, and of their norm.

    All are read, and unless there is one buffer only, the sum is written.
    """
    return Cost(numbers=(buffers + (buffers > 1)) * size)


def cost_of_muon(shapes: Shapes, matrices: Mapping[str, int]) -> Cost:
    """Return the cost of Muon's step for the parameters of these shapes: the operations of its compiled products.

    matrices  {name: count} of those that it trains, each `count` matrices side by side
    """
    sides = {name: (shapes[name][0], shapes[name][1] // count) for name, count in matrices.items() if name in shapes}
    return Cost(flops=sum(2 * matrices[name] * products_of(*shape) for name, shape in sides.items()))


def cost_of_adamw(shapes: Shapes) -> Cost:
    """Return the cost of AdamW's step for the parameters of these shapes.

    It reads a parameter, its gradient and two averages, and writes all but the gradient.
    """
    return Cost(numbers=7 * sum(map(math.prod, shapes.values())))
