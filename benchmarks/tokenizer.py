"""Encoding, decoding and training beside tiktoken, tokenizers and rustbpe, one thread each.

Results are compared first. Then all peers are timed in turns within one run, and the best of each counts. The texts are
tiny Shakespeare ten times and Tang poems, where they are on this machine, and this repository's own code.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from npgpt import Tokenizer
from npgpt.tokenizer.patterns import GPT2, compiled

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
LONG = 10_000_000  # bytes of the texts of one word
TIKTOKENS_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
PEERS = {"tiktoken": "tiktoken", "tokenizers": "tokenizers", "rustbpe": "rustbpe", "regex alone": "regex"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the seconds as JSON")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="rounds of which the best counts (default: 5)"
    )
    parser.add_argument(
        "--gpt2", type=Path, default=SHARED / "gpt2", metavar="DIR", help="GPT-2's vocab.json and merges.txt"
    )


def run(options: argparse.Namespace) -> int:
    """Compare, time and print; 1 if a peer gives other ids."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # the Rust peers otherwise train on all cores
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = {name: version(package) for name, package in PEERS.items()}
    skipped = [f"{name}: {package} is not installed" for name, package in PEERS.items() if not found[name]]
    if not (options.gpt2 / "vocab.json").exists():
        print(f"no GPT-2 vocabulary in {options.gpt2}: give --gpt2 DIR")
        return 0
    installed = {name for name in PEERS if found[name]}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "encode, GPT-2's vocabulary": lambda: encoding(options, installed),
        "decode": lambda: decoding(options, installed),
        "encode one word of 10 MB": lambda: long_words(options),
        "train a vocabulary of 4,096": lambda: training(options, installed),
    }
    about = machine(["numpy", "numba", *(PEERS[name] for name in installed)])
    if options.json:
        print(json.dumps({"machine": about, "seconds": {title: job() for title, job in sections.items()}}, indent=1))
        return 0
    print(about)
    print("\n".join(skipped))
    for title, job in sections.items():
        print(f"\n{title}", flush=True)
        for name, (size, seconds) in job().items():
            ours = seconds["npgpt"]
            cells = [f"{peer} {size / s / 1e6:.1f} MB/s ({s / ours:.1f}x)" for peer, s in seconds.items()]
            if title.startswith("train"):
                cells = [f"{peer} {s:.3f} s ({s / ours:.1f}x)" for peer, s in seconds.items()]
            print(f"  {name:<22}{size / 1e6:6.1f} MB  {', '.join(cells)}", flush=True)
    print("\n(3.0x: takes three times as long as npgpt)")
    return 0


def machine(packages: list[str]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in sorted(set(packages)))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.platform()}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, {versions}"


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def texts() -> dict[str, str]:
    found = {}
    for name, file, times in (("tiny Shakespeare x 10", "tinyshakespeare.txt", 10), ("Tang poems", "tang.txt", 1)):
        if (SHARED / file).exists():
            found[name] = (SHARED / file).read_text(encoding="utf-8") * times
    # by folder: a virtual environment inside the repository is hundreds of megabytes of other people's code
    files = [path for folder in ("npgpt", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    code = [path.read_text(encoding="utf-8") for path in sorted(files)]
    return found | {"this repository's code": "\n".join(code)}


def in_turns(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the best time of each job, all of them run in every round."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def of_gpt2(options: argparse.Namespace, installed: set[str]) -> tuple[Any, dict[str, Any]]:
    """Return npgpt's tokenizer and the peers' with GPT-2's vocabulary."""
    ours = Tokenizer.from_pretrained(options.gpt2)
    theirs: dict[str, Any] = {}
    if "tiktoken" in installed:
        import tiktoken

        ranks = {token: i for i, token in enumerate(ours.tokens) if i not in ours.special_tokens.values()}
        theirs["tiktoken"] = tiktoken.Encoding("gpt2", pat_str=TIKTOKENS_GPT2, mergeable_ranks=ranks, special_tokens={})
    if "tokenizers" in installed:
        import tokenizers

        theirs["tokenizers"] = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))
    return ours, theirs


def encoding(options: argparse.Namespace, installed: set[str]) -> dict[str, Any]:
    ours, theirs = of_gpt2(options, installed)
    rows = {}
    for name, text in texts().items():
        ids = ours.encode(text).tolist()
        jobs: dict[str, Callable[[], Any]] = {"npgpt": lambda text=text: ours.encode(text)}
        if "tiktoken" in theirs:
            same(ids, theirs["tiktoken"].encode_ordinary(text), f"tiktoken on {name}")
            jobs["tiktoken"] = lambda text=text: theirs["tiktoken"].encode_ordinary(text)
        if "tokenizers" in theirs:
            # it always takes special tokens as such
            same(ours.encode(text, "all").tolist(), theirs["tokenizers"].encode(text).ids, f"tokenizers on {name}")
            jobs["tokenizers"] = lambda text=text: theirs["tokenizers"].encode(text)
        jobs["regex alone"] = lambda text=text: compiled(GPT2).findall(text)
        rows[name] = len(text.encode()), in_turns(jobs, options.repeats)
    return rows


def decoding(options: argparse.Namespace, installed: set[str]) -> dict[str, Any]:
    ours, theirs = of_gpt2(options, installed)
    rows = {}
    for name, text in texts().items():
        array = ours.encode(text)
        ids = array.tolist()
        jobs: dict[str, Callable[[], Any]] = {"npgpt": lambda array=array: ours.decode(array)}
        jobs["npgpt, of a list"] = lambda ids=ids: ours.decode(ids)
        for peer, tokenizer in theirs.items():
            same(text, tokenizer.decode(ids), f"{peer} on {name}")
            jobs[peer] = lambda tokenizer=tokenizer, ids=ids: tokenizer.decode(ids)
        rows[name] = len(text.encode()), in_turns(jobs, min(2, options.repeats))
    return rows


def long_words(options: argparse.Namespace) -> dict[str, Any]:
    """npgpt alone: for the others this takes minutes, or as tiktoken does they refuse."""
    ours, _ = of_gpt2(options, set())
    whole = Tokenizer.train([next(iter(texts().values()))[:1_000_000]], 4096, r"[\s\S]+", ())
    rows = {}
    words = {"a letter": "a", "a Chinese character": "中", "spaces": " ", "two letters": "ab", "an emoji": "😀"}
    for name, word in words.items():
        text = word * (LONG // len(word.encode()))
        same(text, ours.decode(ours.encode(text)), name)
        rows[name] = LONG, in_turns({"npgpt": lambda text=text: ours.encode(text)}, min(2, options.repeats))
    text = next(iter(texts().values()))[:LONG]
    rows["text, no breaks at all"] = LONG, in_turns({"npgpt": lambda: whole.encode(text)}, min(2, options.repeats))
    return rows


def training(options: argparse.Namespace, installed: set[str]) -> dict[str, Any]:
    rows = {}
    for name, text in texts().items():
        jobs: dict[str, Callable[[], Any]] = {"npgpt": lambda text=text: Tokenizer.train([text], 4096, "gpt2", ())}
        ours = Tokenizer.train([text], 4096, "gpt2", ())
        same(ours.tokens, Tokenizer.train([text], 4096, "gpt2", ()).tokens, "twice the same")
        if "rustbpe" in installed:
            import rustbpe

            jobs["rustbpe"] = lambda text=text: rustbpe.Tokenizer().train_from_iterator(
                [text], 4096, pattern=TIKTOKENS_GPT2
            )
        if "tokenizers" in installed:
            jobs["tokenizers"] = lambda text=text: train_tokenizers(text)
        rows[name] = len(text.encode()), in_turns(jobs, min(3, options.repeats))
    return rows


def train_tokenizers(text: str) -> Any:
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def same(ours: Any, theirs: Any, what: str) -> None:
    """End the run if two results differ: a time means nothing then."""
    if ours != theirs:
        where = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), "the end")
        raise SystemExit(f"{what}: the results differ from {where} on")
