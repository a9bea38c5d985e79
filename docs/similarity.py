"""The numbers of docs/similarity.md: the cosine of a tale's features and those of the same tale with a change in it.

    python docs/similarity.py RUN [--tales N]

RUN is a run folder of `npgpt train --data tales`.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import npgpt
from npgpt.data.tales import Tale, load_grammar, styles, tales, tell
from npgpt.models.seq_similarity import similarity_backward, similarity_forward

FEW = 5  # pairs of equal length, below which no gradient is shown
SURE = 0.9  # the probability of the token that the generator would write
Rng = np.random.Generator


class Pair(NamedTuple):
    """What was wanted and what is written instead, as ids."""

    wanted: list[int]
    written: list[int]


def retold(tale: Tale, lang: str, seed: int) -> str:
    """Tell a tale in the phrasings that a seed chooses, the same ones for other words."""
    return tell(tale, lang, styles(seed, lang))


def with_word(tale: Tale, kind: str, rng: Rng) -> Tale | None:
    """Return the tale with one of its words of a set, "names" or "numbers", replaced by another; None without one."""
    words = load_grammar().words[kind]
    used = [var for var, word in tale.words.items() if any(word is other for other in words)]
    if not used:
        return None
    var = used[rng.integers(len(used))]
    others = [word for word in words if all(word is not there for there in tale.words.values())]
    return tale._replace(words=tale.words | {var: others[rng.integers(len(others))]})


def with_roles_exchanged(tale: Tale) -> Tale | None:
    """Return the tale in which the first two names are exchanged: who gave and who got."""
    names = load_grammar().words["names"]
    used = [var for var, word in tale.words.items() if any(word is other for other in names)]
    if len(used) < 2:
        return None
    first, second = used[:2]
    return tale._replace(words=tale.words | {first: tale.words[second], second: tale.words[first]})


def swapped(ids: list[int], rng: Rng) -> list[int]:
    """Return ids with two different ones exchanged."""
    out = list(ids)
    a, b = rng.choice(len(out), 2, replace=False)
    while out[a] == out[b]:
        a, b = rng.choice(len(out), 2, replace=False)
    out[a], out[b] = out[b], out[a]
    return out


def changes(tale: Tale, other: Tale, lang: str, seed: int, encode: Callable, rng: Rng) -> Iterator[tuple[str, Pair]]:
    """Yield each kind of change and its pair, where the tale has room for it."""
    wanted = encode(retold(tale, lang, seed))
    yield "two tokens exchanged", Pair(wanted, swapped(wanted, rng))
    yield "all tokens shuffled", Pair(wanted, list(rng.permutation(wanted)))
    for kind in ("names", "numbers"):
        changed = with_word(tale, kind, rng)
        if changed is not None:
            yield f"one of the {kind} replaced", Pair(wanted, encode(retold(changed, lang, seed)))
    exchanged = with_roles_exchanged(tale)
    if exchanged is not None:
        yield "two names exchanged", Pair(wanted, encode(retold(exchanged, lang, seed)))
    yield "other phrasing of the same tale", Pair(wanted, encode(retold(tale, lang, seed + 10**6)))
    yield (
        "the same tale in the other language",
        Pair(wanted, encode(retold(tale, "zh" if lang == "en" else "en", seed))),
    )
    yield "another tale", Pair(wanted, encode(retold(other, lang, seed)))


def pooled(model: npgpt.GPT, ids: list[int]) -> np.ndarray:
    return model.features(np.array([ids]))[0].mean(axis=0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pull(model: npgpt.GPT, pair: Pair) -> tuple[float, list[int]] | None:
    """Return the gradient's size beside that of cross-entropy, and where it ranks the right tokens; None if the two
    texts differ in length.

    The generator gives 0.9 to what is written and shares the rest among all tokens. A rank of 1 says that the gradient
    raises the right token the most of all, at a place where a wrong one is written.
    """
    if len(pair.written) != len(pair.wanted):
        return None
    wanted, written = np.array([pair.wanted]), np.array(pair.written)
    V, T = model.config.vocab_size, len(written)
    logits = np.full((1, T, V), np.log((1 - SURE) / V), model.dtype)
    logits[0, np.arange(T), written] = np.log(SURE + (1 - SURE) / V)
    _, cache = similarity_forward(logits, wanted, np.array([T]), model)
    dlogits = similarity_backward(1.0, cache)[0]
    _, cache = model.ops.cross_entropy_forward(logits, wanted)
    plain = model.ops.cross_entropy_backward(1.0, cache)
    wrong = np.flatnonzero(written != wanted[0])
    ranks = [int((dlogits[t] < dlogits[t, wanted[0, t]]).sum()) + 1 for t in wrong]
    return float(np.linalg.norm(dlogits) / np.linalg.norm(plain)), ranks


def measure(model: npgpt.GPT, encode: Callable, lang: str, count: int) -> dict[str, dict[str, list[float]]]:
    """Return {kind: {what: numbers}} over so many tales of a language."""
    found: dict[str, dict[str, list[float]]] = {}
    rng, drawn = np.random.default_rng(0), tales(977)
    for seed in range(count):
        tale, other = next(drawn), next(drawn)
        for kind, pair in changes(tale, other, lang, seed, encode, rng):
            numbers = found.setdefault(kind, {"cosine": [], "gradient": [], "ranks": []})
            numbers["cosine"].append(cosine(pooled(model, pair.wanted), pooled(model, pair.written)))
            pulled = pull(model, pair)
            if pulled is not None:
                numbers["gradient"].append(pulled[0])
                numbers["ranks"] += pulled[1]
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a run folder of `npgpt train --data tales`")
    parser.add_argument("--tales", type=int, default=100, help="tales of each language; the default is 100")
    options = parser.parse_args(argv)
    model, tokenizer = npgpt.GPT.from_pretrained(options.run), npgpt.Tokenizer.from_pretrained(options.run)
    for lang in ("en", "zh"):
        print(f"{lang}: 1 - cos (10%, median, 90%); gradient / that of cross-entropy; median rank of the right token")
        for kind, numbers in measure(model, tokenizer.encode, lang, options.tales).items():
            low, middle, high = np.quantile(1 - np.array(numbers["cosine"]), [0.1, 0.5, 0.9])
            row = f"  {kind:36}{low:9.5f}{middle:9.5f}{high:9.5f}"
            pulled = len(numbers["gradient"])
            if pulled >= FEW:
                row += f"{np.median(numbers['gradient']):11.5f}{np.median(numbers['ranks']):8.0f}"
            print(f"{row}  {len(numbers['cosine'])} pairs, {pulled} of equal length")


if __name__ == "__main__":
    main()
