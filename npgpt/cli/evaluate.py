"""Measure how well a model predicts a text: the mean loss in nats per token, the perplexity, and the bits per byte.
Bits per byte can be compared between tokenizers. For JSON lines with prompt and completion, only the completions are
scored. With --data tales, the text is 1,000 tales that no run trains on, and the loss that no model can get below is
printed, too. With --samples, texts are sampled, and how much they repeat is printed."""

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import TEXT_FILES, add_text_flags, open_named, reading_as_run, say_reading
from npgpt.cli.running import evaluation_bar
from npgpt.cli.samples_report import (
    add_samples_flags,
    check_samples_flags,
    report_samples,
    samples_settings,
)
from npgpt.config import TextConfig

if TYPE_CHECKING:
    import numpy as np

    from npgpt.data.batch import Dataset
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer
    from npgpt.tokenizer.stream import TextFile
    from npgpt.training.evaluation import Evaluation

    Evaluate = Callable[[Dataset], Evaluation]

EXAMPLES = (
    "npgpt eval runs/poems --data unseen.txt",
    "npgpt eval runs/poems --data prepared/poems --max-tokens 100000",
    "npgpt eval runs/tales --data tales:en",
    "npgpt eval runs/poems --data unseen.txt --weights int8",
    "npgpt eval runs/poems --samples 200 --top-p 0.9",
)
SEED = 1337  # of the tales
SPLITS = ("train", "val", "all")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=f"{TEXT_FILES}; a folder written by npgpt prepare, a file of JSON lines with prompt and completion, or "
        "tales, tales:en or tales:zh",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="part of the data, as training divides it (default: val of a folder written by npgpt prepare, all of a "
        "text)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=0,
        metavar="N",
        help="most tokens to predict, but at least one window; if there are more, a sample from all over the data is "
        "read, and the standard error printed, which one window alone does not have (default: 0, which sets no limit)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="number of CPU threads (default: 0, as for npgpt train)"
    )
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")
    parser.add_argument(
        "--weights",
        choices=("int8",),
        help="round the weights to integers of 8 bits first, and print how much that raises the loss",
    )
    add_text_flags(parser)
    add_samples_flags(parser)


def run(args: argparse.Namespace) -> int:
    from npgpt.data.splitting import ContextError
    from npgpt.generation.opening import open_run
    from npgpt.models.registry import with_weights

    langs = checked_langs(args)
    announce_compiling()
    model, tokenizer = open_run(find_run(args), args.last, base=args.base)
    sampling = samples_settings(args)

    rounded, losses = with_weights(model, args.weights), []
    if args.weights and rounded is model:
        raise ValueError(f"{args.run} has such weights already: leave --weights {args.weights} out")

    def evaluate(data: "Dataset") -> "Evaluation":
        if args.weights:
            losses.append(evaluate_with_progress(model, data, args.max_tokens, args.threads).loss)
        found = evaluate_with_progress(rounded, data, args.max_tokens, args.threads)
        losses.append(found.loss)
        return found

    if langs:
        require_model_of_texts(model, args)
        try:
            print_loss_of_tales(model, tokenizer, langs, evaluate)
        except ContextError as error:
            raise ValueError(f"{error}{other_tales(args.run, args.data)}") from None
    elif args.data is not None:
        print_loss_of_files(model, tokenizer, args, evaluate)
    if losses and args.weights:
        plain, found = losses
        print(
            f"{model.dtype!s:<12}{plain:.4f} nats per token; {args.weights} is {100 * abs(found / plain - 1):.2f}% "
            f"{'above' if found >= plain else 'below'} it"
        )
    if sampling is not None:
        report_samples(rounded, tokenizer, args, sampling, lambda n: source_texts(args, tokenizer, n))
    return 0


def checked_langs(args: argparse.Namespace) -> tuple[str, ...] | None:
    """Return the languages of --data tales; None for other data. Raises ValueError for flags that are not possible."""
    from npgpt.data.tales.corpus import langs_of
    from npgpt.data.text import require_text

    check_samples_flags(args)
    require_given("--data", args.data, "a file, or tales")
    if args.data is None:
        require_data(args)
    require_at_least(0, "--max-tokens", args.max_tokens)
    require_at_least(0, "--threads", args.threads)
    langs = None if args.data is None else langs_of(args.data)
    if langs and args.split:
        raise ValueError(f"--split {args.split} has no effect on tales, of which no run has seen these: leave it out")
    if langs:
        require_text(vars(args), args.data)
    return langs


def require_data(args: argparse.Namespace) -> None:
    """Raise ValueError if nothing is to be measured, or if a flag is about the text of --data, which is not given."""
    if args.samples is None:
        raise ValueError("there is nothing to measure: give --data FILE, or --samples N")
    text_flags = {field.name for field in dataclasses.fields(TextConfig)} & vars(args).keys()
    about_data = [name for name in ("split", "max_tokens") if getattr(args, name)] + sorted(text_flags)
    if about_data:
        flag = f"--{about_data[0].replace('_', '-')}"
        raise ValueError(f"{flag} has no effect without --data: add --data FILE, or leave {flag} out")


def require_model_of_texts(model: "Model", args: argparse.Namespace) -> None:
    """Raise ValueError for a generator, which does not write what --data holds."""
    from npgpt.models.registry import refuse_generator

    refuse_generator(model, args.run, "it writes completions, so give JSON lines with prompt and completion as --data")


def evaluate_with_progress(model: "Model", data: "Dataset", most: int, threads: int) -> "Evaluation":
    from npgpt.training.evaluation import evaluate
    from npgpt.training.threads import n_threads
    from npgpt.training.workers import Workers

    with evaluation_bar() as show, Workers(model, n_threads(threads), threads) as workers:
        found = evaluate(model, data, most, workers.map, show)
    assert found is not None  # nothing but Ctrl-C stops it, which raises KeyboardInterrupt
    return found


def other_tales(run: str, data: str) -> str:
    """Return the end of an error message: which tales the run was trained on, if they are others than `data`."""
    from npgpt.data.tales.corpus import langs_of
    from npgpt.training.run import read_saved

    try:
        names = read_saved(Path(run))["data"]["files"]
    except (FileNotFoundError, ValueError):  # a model without a run
        return ""
    same = len(names) != 1 or langs_of(names[0]) in (None, langs_of(data))
    return "" if same else f"; {run} was trained on {names[0]}: evaluate it with --data {names[0]}"


def print_loss_of_files(model: "Model", tokenizer: "Tokenizer", args: argparse.Namespace, evaluate: "Evaluate") -> None:
    """Print the loss on a prepared folder, on text files, or on the completions of JSON lines.

    Raises ValueError if the tokenizer or the model cannot read them.
    """
    from npgpt.data import Text, is_prepared
    from npgpt.data.examples import has_examples
    from npgpt.data.splitting import end_of
    from npgpt.data.text import require_text

    if is_prepared(args.data):
        require_model_of_texts(model, args)
        require_text(vars(args), args.data, "is tokenized already")
        ids = prepared_ids(tokenizer, args)
    else:
        reading = reading_as_run(args)
        texts = open_named([args.data], reading)
        if "text_field" not in args and all(map(has_examples, texts.files)):
            require_text(vars(args), args.data, "holds prompts and completions", but="encoding")
            print_loss_of_examples(model, tokenizer, texts.files, args, evaluate)
            return
        require_model_of_texts(model, args)
        say_reading(args, reading)
        ids = text_ids(tokenizer, texts.files, args.split or "all")
        texts.report(end_of(tokenizer))
    # the first token is not predicted, so its bytes are not counted
    found = evaluate(Text(ids, model.config.n_positions))
    print_loss(found, len(ids) - 1, bytes_of(tokenizer, ids[1:]))


def prepared_ids(tokenizer: "Tokenizer", args: argparse.Namespace) -> "np.ndarray":
    """Return the ids of a part of a folder of npgpt prepare."""
    import numpy as np

    from npgpt.data import open_prepared

    prepared = open_prepared(args.data)
    if prepared.tokenizer.fingerprint() != tokenizer.fingerprint():
        raise ValueError(
            f"{args.data} was tokenized with another tokenizer than that of {args.run}: run npgpt prepare "
            f"--tokenizer {args.run}, or give the text files themselves"
        )
    if args.split == "all":
        return np.concatenate((prepared.train_ids, prepared.val_ids))
    return prepared.train_ids if args.split == "train" else prepared.val_ids


def text_ids(tokenizer: "Tokenizer", files: "list[TextFile]", split: str) -> "np.ndarray":
    """Return the ids of a part of text files."""
    from npgpt.data.splitting import split_texts, whole_texts

    if split != "all":
        return split_texts(files, tokenizer)[split == "val"]
    with evaluation_bar("reading") as show:
        return whole_texts(files, tokenizer, lambda n: show(n, None))


def print_loss_of_examples(
    model: "Model", tokenizer: "Tokenizer", files: "list[TextFile]", args: argparse.Namespace, evaluate: "Evaluate"
) -> None:
    """Print the loss on completions, each after its prompt and with the token that ends it."""
    from npgpt.data.examples import pack_examples, read_lines
    from npgpt.generation.opening import learned

    if args.split:
        raise ValueError(f"--split {args.split} has no effect on prompts and completions: leave it out")
    tokenizer.require_end_id()
    kind, examples = read_lines(files)
    template = learned(args.folder, args.base).template or kind.template
    packed = pack_examples(examples, tokenizer, model.config.n_positions, template=template)
    found = evaluate(packed)
    texts = [completion for example in examples for _, completion in example.turns()]
    print(f"{len(texts):,} completions of {len(examples):,} lines; the prompts are read, not predicted")
    print_loss(found, packed.size, sum(len(text.encode("utf-8")) for text in texts))


def print_loss_of_tales(model: "Model", tokenizer: "Tokenizer", langs: tuple[str, ...], evaluate: "Evaluate") -> None:
    """Print the loss on tales that no run trains on or validates with, each computed by itself, and the floor."""
    from npgpt.data.tales.corpus import TEST, VALIDATION_TALES, TalesCorpus

    corpus = TalesCorpus(langs, SEED)
    floor = corpus.floor(VALIDATION_TALES, TEST)
    packed = corpus.packed(tokenizer, VALIDATION_TALES, TEST, model.config.n_positions)
    found, predicted = evaluate(packed), packed.size
    print_loss(found, predicted, floor.n_bytes)
    lowest = floor.nats / predicted
    print(f"floor       {lowest:.4f} nats per token; the model is {100 * (found.loss / lowest - 1):.1f}% above it")


def source_texts(args: argparse.Namespace, tokenizer: "Tokenizer", n: int) -> list[str]:
    """Return the real text that --data names: n tales, the completions of JSON lines, or a single long text."""
    from npgpt.data import is_prepared
    from npgpt.data.examples import has_examples, read_examples
    from npgpt.data.tales.corpus import TEST, TalesCorpus, langs_of
    from npgpt.tokenizer.stream import read_parts

    if args.data is None:
        return []
    if langs := langs_of(args.data):
        return list(TalesCorpus(langs, SEED).texts(n, TEST))
    if is_prepared(args.data):
        ids = prepared_ids(tokenizer, args)[: 1 << 22]
        return [tokenizer.decode(i for i in ids.tolist() if i != tokenizer.end_id)]
    files = open_named([args.data], reading_as_run(args)).files
    if "text_field" not in args and all(map(has_examples, files)):
        return [completion for example in read_examples(files) for _, completion in example.turns()]
    return [b"".join(part for file in files for part in read_parts(file)).decode("utf-8")]


def bytes_of(tokenizer: "Tokenizer", ids: "np.ndarray") -> int:
    """Return the bytes of the text that ids stand for; end tokens are no text."""
    import numpy as np

    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for start in range(0, len(ids), 1 << 20):  # ids may be mapped from a file of any size
        counts += np.bincount(ids[start : start + (1 << 20)], minlength=tokenizer.vocab_size)
    if tokenizer.end_id is not None:
        counts[tokenizer.end_id] = 0
    used = np.flatnonzero(counts)
    return int(counts[used] @ tokenizer.sizes(used))


def print_loss(found: "Evaluation", n_tokens: int, n_bytes: int) -> None:
    """Print an evaluation of data with so many tokens to predict, which stand for so many bytes."""
    print(f"loss        {found} nats per token")
    print(f"perplexity  {math.exp(found.loss):.4g}" if found.loss < 700 else "perplexity  inf")
    if n_bytes:
        print(f"bits/byte   {found.loss * n_tokens / math.log(2) / n_bytes:.4f}")
    part = "" if found.whole else f"{found.tokens:,} of "
    print(f"tokens      {part}{n_tokens:,} ({n_bytes:,} bytes)")
