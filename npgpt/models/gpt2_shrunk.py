"""A smaller GPT from a trained one: what a student begins with, before it is taught."""

import dataclasses
from typing import Any

from npgpt.config import GPTConfig, divisor
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_parameters import init_parameters
from npgpt.ops import Ops

TABLES = ("wte.weight", "wpe.weight", "lm_head.weight", "ln_f.weight", "ln_f.bias")  # all that is in no block


def kept_blocks(n_layer: int, n_student: int) -> list[int]:
    """Return which of a teacher's blocks a student begins with: the first, the last, and evenly between them.

    Examples: 6 of 12 are 0 2 4 7 9 11, as of DistilGPT2; 2 of 4 are 0 and 3; 1 of 2 is 0.
    """
    if n_student == 1:
        return [0]
    return [round(i * (n_layer - 1) / (n_student - 1)) for i in range(n_student)]


def student_config(teacher: GPTConfig, **sizes: Any) -> GPTConfig:
    """Return the configuration of a student: the teacher's, with the sizes and the dropout that are given.

    sizes  n_layer, n_embd, n_head, and the three probabilities of dropout; None for what is not given

    Without n_layer it has half of the blocks, rounded up. With another n_embd alone, heads stay as wide as they are, if
    that is possible, and the MLP is four times as wide as the model. Raises ValueError for more blocks than the teacher
    has, and for sizes that are not possible.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    given.setdefault("n_layer", -(-teacher.n_layer // 2))
    if given["n_layer"] > teacher.n_layer:
        raise ValueError(f"n_layer={given['n_layer']} is more than the {teacher.n_layer} of the teacher")
    width = given.get("n_embd", teacher.n_embd)
    if width != teacher.n_embd:
        given["n_inner"] = None
        if "n_head" not in given and width > 0:
            head = teacher.n_embd // teacher.n_head
            given["n_head"] = divisor(max(1, width // head), width)
    return dataclasses.replace(teacher, **given)


def shrunk(teacher: GPT, config: GPTConfig, seed: int, init: str = "normal", ops: str | Ops | None = None) -> GPT:
    """Return a student that begins with what it can use of the teacher's weights.

    Of the same width it has the teacher's embeddings, final norm and head, and of the same heads some of its blocks,
    too (kept_blocks). All else is new, drawn by `seed` and `init`. The configurations differ in n_layer, n_embd, n_head
    and n_inner at most.

    Source: Sanh et al., "DistilBERT, a distilled version of BERT", arXiv:1910.01108, section 2.
    """
    params = init_parameters(config, seed, teacher.dtype.name, init)
    before = teacher.config
    if config.n_embd == before.n_embd:
        for name in TABLES:
            if name in params:
                params[name] = teacher.params[name]
        if (config.n_head, config.mlp_width) == (before.n_head, before.mlp_width):
            for i, block in enumerate(kept_blocks(before.n_layer, config.n_layer)):
                own = f"h.{i}."
                for name in params:
                    if name.startswith(own):
                        params[name] = teacher.params[f"h.{block}.{name.removeprefix(own)}"]
    return GPT(config, ops=teacher.ops if ops is None else ops, params=params)


def say_shrunk(teacher: GPTConfig, config: GPTConfig) -> str:
    """Return in words what `shrunk` takes from the teacher."""
    if config.n_embd != teacher.n_embd:
        return f"all weights are new, because the teacher is {teacher.n_embd} wide and the student {config.n_embd}"
    if config.n_head != teacher.n_head:
        return (
            f"embeddings and head are the teacher's, the blocks are new, because the teacher has {teacher.n_head} heads"
        )
    blocks = kept_blocks(teacher.n_layer, config.n_layer)
    return (
        f"embeddings and head are the teacher's, and so {'is block' if len(blocks) == 1 else 'are blocks'} "
        f"{', '.join(map(str, blocks))} of 0..{teacher.n_layer - 1}"
    )
