"""Generation beside transformers and CTranslate2: greedy text, int8, batches, a prompt, a tiny model, opening.

The weights are random, and the same for all. What a peer computes is first held against npgpt's: in float32 the same
tokens, in int8 nothing but their number, because the peers round weights in ways of their own.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_models import transformers_model
from benchmarks.timing import Contestant, against, agree, as_json, in_turns, installed, machine
from npgpt import GPT, Generator, GPTConfig
from npgpt.config import preset
from npgpt.models.registry import open_model
from npgpt.training.threads import n_threads

CASES = ("greedy", "int8", "batch", "prefill", "tiny", "open")
PACKAGES = ("torch", "transformers", "ctranslate2")
PROMPT, NEW, LONG, BATCH = 16, 32, 512, 8  # tokens of a short prompt, to write, of a long prompt; texts in a batch
ROUNDS = 3

Texts = Callable[[], list[list[int]]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="what to measure (default: all)")
    parser.add_argument("--size", default="gpt2", help="preset of the model (default: gpt2)")
    parser.add_argument("--threads", type=int, default=0, help="of every contestant; 0 for all cores (default)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each contestant (default: {ROUNDS})")
    parser.add_argument("--folder", type=Path, help="where converted models are kept (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    threads = n_threads(options.threads)
    where, data = machine([*PACKAGES, "numba"]), {}
    if not options.json:
        print(f"{where}\n{threads} threads", flush=True)
    for name in options.case:
        config = preset("tiny" if name == "tiny" else options.size, vocab_size=65 if name == "tiny" else 50257)
        with folder_of(options.folder, config) as folder:
            contestants, skipped = CONTESTS[name](GPT(config, seed=0), folder, threads)
            in_turns(contestants, options.rounds, seconds=0.5)
        data[name] = as_json(contestants)
        if not options.json:
            own, *others = contestants
            print("\n".join([*against(title(name, config), own, others), *skipped]), flush=True)
    if options.json:
        print(json.dumps({"machine": where, "threads": threads, "cases": data}, indent=1))
    return 0


def title(name: str, config: GPTConfig) -> str:
    """Return what a case measures, in words."""
    what = {
        "greedy": f"{NEW} tokens",
        "int8": f"{NEW} tokens, weights of 8 bits",
        "batch": f"{BATCH} texts of {NEW} tokens",
        "prefill": f"a prompt of {long_prompt(config)} tokens",
        "tiny": f"{NEW} tokens",
        "open": "opening a folder, and the first token",
    }
    return f"{config.n_layer} blocks, {config.n_embd} channels: {what[name]}"


@contextmanager
def folder_of(folder: Path | None, config: GPTConfig) -> Iterator[Path]:
    """Give a folder for models of a configuration: one that stays, or a temporary one."""
    if folder is not None:
        yield folder / f"{config.n_layer}-{config.n_embd}-{config.vocab_size}"
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def prompts(config: GPTConfig, texts: int, length: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(0).integers(1, config.vocab_size, (texts, length))


def long_prompt(config: GPTConfig) -> int:
    return min(LONG, config.n_positions)


def own_texts(model: Any, ids: np.ndarray, threads: int, weights: str | None = None) -> Texts:
    """Return a function that lets npgpt continue prompts greedily."""
    generator = Generator(model, slots=len(ids), weights=weights, threads=threads)

    def texts() -> list[list[int]]:
        found = generator.complete(ids.tolist(), max_new_tokens=NEW, temperature=0, stop_ids=())
        return [list(completion.ids) for completion in found]

    return texts


def transformers_texts(model: Any, ids: np.ndarray, threads: int) -> Texts:
    """Return a function that lets transformers' generate continue prompts of one length greedily."""
    import torch

    torch.set_num_threads(threads)
    model.eval().config.use_cache = True
    settings: dict[str, Any] = {"min_new_tokens": NEW, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    @torch.inference_mode()
    def texts() -> list[list[int]]:
        batch = torch.from_numpy(ids)
        found = model.generate(batch, attention_mask=torch.ones_like(batch), use_cache=True, **settings)
        return found[:, ids.shape[1] :].tolist()

    return texts


def ctranslate2_texts(model: GPT, folder: Path, ids: np.ndarray, threads: int, kind: str) -> Texts:
    """Return a function that lets CTranslate2 continue prompts greedily, after converting the model."""
    import ctranslate2
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source, target = folder / "transformers", folder / f"ctranslate2-{kind}"
    if not target.exists():
        V = model.config.vocab_size
        transformers_model(model.config, model.params).save_pretrained(source)
        words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(V)}, unk_token="t0"))
        ends = {f"{name}_token": "t0" for name in ("bos", "eos", "unk")}
        PreTrainedTokenizerFast(tokenizer_object=words, **ends).save_pretrained(source)
        ctranslate2.converters.TransformersConverter(str(source)).convert(str(target), quantization=kind)
    generator = ctranslate2.Generator(
        str(target), device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
    )
    tokens = [[f"t{i}" for i in row] for row in ids.tolist()]
    settings = {"min_length": NEW, "max_length": NEW, "sampling_topk": 1, "include_prompt_in_result": False}

    def texts() -> list[list[int]]:
        return [list(found.sequences_ids[0]) for found in generator.generate_batch(tokens, **settings)]

    return texts


def contest(name: str, own: Texts, peers: dict[str, Texts], same: bool = True) -> list[Contestant]:
    """Return the contestants, after all have written the same, or at least as much."""
    expected = own()
    assert all(len(ids) == NEW for ids in expected)
    for label, texts in peers.items():
        found = texts()
        assert [len(ids) for ids in found] == [len(ids) for ids in expected], f"{label}: {found}"
        assert not same or found == expected, f"{label} writes {found}, npgpt {expected}"
    return [Contestant(name, own), *(Contestant(label, texts) for label, texts in peers.items())]


def missing(*packages: str) -> list[str]:
    return [f"{package} is not installed: it is skipped" for package in packages if not installed(package)]


def greedy(model: GPT, folder: Path, threads: int, texts: int = 1) -> tuple[list[Contestant], list[str]]:
    ids, peers = prompts(model.config, texts), {}
    if installed("transformers"):
        other = transformers_model(model.config, model.params)
        peers["transformers"] = transformers_texts(other, ids, threads)
    if installed("ctranslate2") and installed("transformers"):
        peers["CTranslate2, float32"] = ctranslate2_texts(model, folder, ids, threads, "float32")
    return contest("npgpt", own_texts(model, ids, threads), peers), missing("transformers", "ctranslate2")


def int8(model: GPT, folder: Path, threads: int) -> tuple[list[Contestant], list[str]]:
    ids, peers = prompts(model.config, 1), {}
    if installed("ctranslate2") and installed("transformers"):
        peers["CTranslate2, int8"] = ctranslate2_texts(model, folder, ids, threads, "int8")
    own = own_texts(model, ids, threads, "int8")
    return contest("npgpt, int8", own, peers, same=False), missing("transformers", "ctranslate2")


def batch(model: GPT, folder: Path, threads: int) -> tuple[list[Contestant], list[str]]:
    contestants, skipped = greedy(model, folder, threads, BATCH)
    one = own_texts(model, prompts(model.config, 1), threads)
    return [*contestants, Contestant("npgpt, one text", one)], skipped


def prefill(model: GPT, folder: Path, threads: int) -> tuple[list[Contestant], list[str]]:
    n = long_prompt(model.config)
    ids = prompts(model.config, 1, n)
    decoder = model.decoder(1, n, threads=threads)
    assert decoder is not None, "there is no compiled decoder on this machine"
    slots, wanted = np.zeros(n, np.int64), np.array([n - 1])

    def own() -> np.ndarray:
        decoder.lengths[0] = 0
        return decoder.read(slots, ids[0], wanted)

    contestants = [Contestant("npgpt", own)]
    if installed("torch") and installed("transformers"):
        import torch

        torch.set_num_threads(threads)
        other = transformers_model(model.config, model.params).eval()

        @torch.inference_mode()
        def read() -> np.ndarray:
            return other(torch.from_numpy(ids), use_cache=True, logits_to_keep=1).logits[0].numpy()

        agree("PyTorch", {"logits": read()}, {"logits": own()}, 1e-5)
        contestants.append(Contestant("PyTorch (transformers)", read))
    return contestants, missing("torch", "transformers")


def tiny(model: GPT, folder: Path, threads: int) -> tuple[list[Contestant], list[str]]:
    ids, peers = prompts(model.config, 1), {}
    if installed("transformers"):
        other = transformers_model(model.config, model.params)
        peers["transformers"] = transformers_texts(other, ids, threads)
    return contest("npgpt", own_texts(model, ids, 0), peers), missing("transformers")


def opening(model: GPT, folder: Path, threads: int) -> tuple[list[Contestant], list[str]]:
    place = folder / "npgpt"
    if not place.exists():
        model.save_pretrained(place)
    ids = prompts(model.config, 1)[0]

    def first() -> int:
        decoder = open_model(place, mapped=True).decoder(1, len(ids), None, threads)  # type: ignore[attr-defined]
        logits = decoder.read(np.zeros(len(ids), np.int64), ids, np.array([len(ids) - 1]))
        return int(logits[0].argmax())

    assert first() == model.logits([ids])[0, -1].argmax()
    return [
        Contestant("npgpt", lambda: open_model(place, mapped=True)),
        Contestant("npgpt, with the first token", first),
        Contestant("npgpt, read and verified", lambda: open_model(place)),
    ], []


CONTESTS: dict[str, Callable[[GPT, Path, int], tuple[list[Contestant], list[str]]]] = {
    "greedy": greedy,
    "int8": int8,
    "batch": batch,
    "prefill": prefill,
    "tiny": tiny,
    "open": opening,
}
