"""Generate text with a trained model. One prompt, or none, gives a text that is printed as it is written; --prompts
gives JSON lines, one per text; --interactive asks for a prompt again and again."""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import add_encoding, text_config
from npgpt.cli.sampling import (
    DEFAULTS,
    add_engine_flags,
    add_sampling_flags,
    check_engine_flags,
    print_pieces,
    sampling_of,
    say_reasons,
)
from npgpt.cli.searching import add_search_flags, search_of, searched, slots_of, without_draws
from npgpt.cli.texts import END_TOKEN, SPECIAL, read_prompt

if TYPE_CHECKING:
    from npgpt.generation.engine import Generator
    from npgpt.generation.requests import Completion, Request
    from npgpt.generation.settings import Sampling

NO_PROMPT = "give --prompt TEXT, pipe it into --prompt -, or leave --prompt out to start a new text"
EXAMPLES = (
    'npgpt sample runs/poems --prompt "Shall I compare thee" --max-new-tokens 200',
    "npgpt sample runs/tang --prompt 床前明月光 --temperature 0.5 --top-k 40",
    "npgpt sample runs/poems --num-samples 3 --min-p 0.05 --dry-multiplier 0.8 --stop '\\n\\n'",
    "npgpt sample runs/tang --prompts 句.txt --logprobs 3 > texts.jsonl",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        type=str,
        help="text to continue; - reads it from standard input, without the line end that ends it (default: start a "
        "new text)",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="continue each line of this file (- for standard input), and print a JSON line for each text. An empty "
        "line starts a new text. In a file named *.jsonl a line is an object with the prompt",
    )
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="continue each line that is typed, until Ctrl-D; Ctrl-C stops a text",
    )
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="write N texts for each prompt (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, as with --prompts")
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")
    add_sampling_flags(parser, DEFAULTS)
    add_search_flags(parser)
    add_engine_flags(parser)
    add_encoding(parser)


class Prompt(NamedTuple):
    """A prompt: its text (None to start a new one) and its ids."""

    text: str | None
    ids: list[int]


class Writer(NamedTuple):
    """What all texts of a command have in common."""

    generator: "Generator"
    sampling: "Sampling"
    framed: Callable[[str | None], list[int]]
    args: argparse.Namespace

    def requests(self, prompts: Iterable[Prompt], first: int = 0) -> Iterator["Request"]:
        """Yield the texts of each prompt in order. Those of one have draws of their own, from number `first` on."""
        from npgpt.generation.engine import draws
        from npgpt.generation.in_order import in_order

        numbers = range(first, first + self.args.num_samples)
        texts = ((prompt.ids, draws(self.sampling, i)) for prompt in prompts for i in numbers)
        return in_order(self.generator, texts, self.sampling, self.args.deadline)


def run(args: argparse.Namespace) -> int:
    check_flags(args)
    from npgpt.generation.engine import Generator
    from npgpt.generation.in_order import SLOTS
    from npgpt.generation.opening import learned, open_run
    from npgpt.generation.prompts import first_prompt
    from npgpt.generation.search.reading import DRAWS
    from npgpt.models.registry import verify

    announce_compiling()
    folder = find_run(args)
    model, tokenizer = open_run(folder, args.last, args.end_token, args.verify, args.base)
    search = search_of(args)
    drawn = search not in ("num_beams", "penalty_alpha")
    sampling = sampling_of(args, DEFAULTS) if drawn else sampling_of(args, without_draws(DEFAULTS), DRAWS)
    check_samples(args, sampling)
    texts_learned = learned(folder, args.base)
    framed = partial(first_prompt, tokenizer, learned=texts_learned, special=args.special)
    texts = [] if args.interactive else list(given_prompts(args))
    prompts = [Prompt(text, placed(where, framed, text)) for where, text in texts]
    if sampling.context == "stop":
        require_room([where for where, _ in texts], prompts, model.config.n_positions)
    slots = min(SLOTS, max(1, len(prompts)) * args.num_samples) * (1 if sampling.negative_prompt is None else 2)
    slots = slots if search is None else slots_of(args, search, sampling)
    generator = Generator(model, tokenizer, slots, args.weights, args.threads)
    writer = Writer(generator, sampling, framed, args)
    if args.interactive:
        return interact(writer)
    reasons: Iterable[str]
    if search is not None:
        reasons = print_found(writer, prompts, search)
    else:
        reasons = print_lines(writer, prompts) if args.json or args.prompts else print_texts(writer, prompts[0])
    if not args.verify:
        verify(model)
    return say_reasons(reasons, args, sampling, texts_learned.ends, told=bool(args.json or args.prompts))


def check_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that contradict one another or have no effect."""
    given = [name for name in ("prompt", "prompts", "interactive") if getattr(args, name) not in (None, False)]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} cannot be combined: give one of them")
    require_given("--prompt", args.prompt, "at least one character, or leave it out")
    if args.special and not given:
        raise ValueError("--special has no effect without --prompt: add it, or leave --special out")
    if args.json and args.interactive:
        raise ValueError("--json and --interactive cannot be combined: --prompts prints JSON lines")
    if "logprobs" in args and not (args.json or args.prompts):
        raise ValueError("--logprobs is told in JSON lines: add --json, or --prompts FILE")
    if args.interactive and (sys.stdin is None or not sys.stdin.isatty()):
        raise ValueError("--interactive needs a terminal: --prompts - reads prompts from standard input")
    require_at_least(1, "--num-samples", args.num_samples)
    check_engine_flags(args)


def check_samples(args: argparse.Namespace, sampling: "Sampling") -> None:
    """Raise ValueError for several draws that would be the same."""
    for name, count in ("--best-of", getattr(args, "best_of", 1)), ("--num-samples", args.num_samples):
        if count > 1 and sampling.temperature == 0:
            raise ValueError(f"{name} {count} at temperature 0 would all be the same: raise --temperature")


def given_prompts(args: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Yield each prompt with its place, which an error names. None starts a new text."""
    encoding = text_config(args).encoding
    if args.prompts is not None:
        yield from prompts_of(args.prompts, encoding)
    elif args.prompt == "-":
        yield "standard input", read_prompt(NO_PROMPT, encoding)
    else:
        yield "", args.prompt


def prompts_of(name: str, encoding: str) -> Iterator[tuple[str, str | None]]:
    """Yield the prompts of a file with their places. Raises FileNotFoundError or ValueError, naming the file."""
    from npgpt.config import TextConfig
    from npgpt.data.examples import read_examples
    from npgpt.data.text import spooled
    from npgpt.tokenizer.stream import JSON_LINES, TextFile, lines_of, read_parts

    if name == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise ValueError("nothing to read: pipe the prompts in, or name their file with --prompts FILE")
    config = TextConfig(encoding=encoding, document_separator="none", text_field="none")
    file = spooled(name, config) if name == "-" else TextFile(name, Path(name), config)
    found = False
    if file.path.suffix in JSON_LINES:
        for example in read_examples([file], completions=False):
            if example.more or example.system or example.input:
                what = "of several prompts" if example.more else "with more than a prompt"
                raise ValueError(f"{example.where}: a conversation {what}: npgpt ask --data completes it")
            yield example.where, example.prompt or None
        return
    for number, line in enumerate(lines_of(read_parts(file)), 1):
        found = True
        yield f"{file}:{number}", line.decode("utf-8") or None
    if not found:
        raise ValueError(f"{file}: there is no prompt")


def placed(where: str, framed: Callable[[str | None], list[int]], text: str | None) -> list[int]:
    """Return a prompt's ids. Raises ValueError that begins with its place."""
    try:
        return framed(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def require_room(places: list[str], prompts: list[Prompt], n_positions: int) -> None:
    """Raise ValueError, naming the place, for a prompt that fills the context, after which a text is to stop."""
    for where, prompt in zip(places, prompts, strict=True):
        if len(prompt.ids) >= n_positions:
            begin = f"{where}: " if where else ""
            what = f"the prompt has {len(prompt.ids)} tokens, so --context stop leaves it no room"
            raise ValueError(f"{begin}{what} in the model's context of {n_positions}")


def print_texts(writer: Writer, prompt: Prompt, first: int = 0) -> Counter[str]:
    """Print the texts of a prompt as they come, and count why they ended. After a deadline, none is begun."""
    from npgpt.generation.in_order import pieces

    reasons: Counter[str] = Counter()
    n = writer.args.num_samples
    until = math.inf if writer.args.deadline is None else time.monotonic() + writer.args.deadline
    for request in writer.requests([prompt], first):
        if reasons and not request.ids and time.monotonic() > until:
            reasons["deadline"] += n - reasons.total()
            break
        if n > 1:
            print(f"--- sample {reasons.total() + 1} of {n} ---")
        print_pieces(pieces(writer.generator, request), prompt.text or "")
        reasons[request.completion.finish_reason] += 1
    return reasons


def print_lines(writer: Writer, prompts: list[Prompt]) -> list[str]:
    """Print the texts of prompts as JSON lines, each as soon as it and those before it have ended; return why."""
    from npgpt.generation.in_order import finished

    reasons: list[str] = []
    for request in writer.requests(prompts):
        completion = finished(writer.generator, request).completion
        prompt = prompts[len(reasons) // writer.args.num_samples]
        print(json.dumps(json_line(prompt.text, completion), ensure_ascii=False), flush=True)
        reasons.append(completion.finish_reason)
    return reasons


def print_found(writer: Writer, prompts: list[Prompt], search: str) -> list[str]:
    """Print the texts that a search finds for each prompt, the best first, and return why each ended."""
    reasons: list[str] = []
    args = writer.args
    until = None if args.deadline is None else time.monotonic() + args.deadline
    for prompt in prompts:
        left = None if until is None else max(1e-9, until - time.monotonic())
        found = searched(writer.generator, prompt.ids, writer.sampling, search, args, left)
        for number, completion in enumerate(found, 1):
            if args.json or args.prompts:
                print(json.dumps(json_line(prompt.text, completion), ensure_ascii=False), flush=True)
            else:
                if len(found) > 1:
                    print(f"--- sample {number} of {len(found)} ---")
                print(f"{prompt.text or ''}{completion.text}", flush=True)
            reasons.append(completion.finish_reason)
    return reasons


def json_line(prompt: str | None, completion: "Completion") -> dict[str, Any]:
    """Return what a JSON line tells of a text; of log-probabilities, as many digits as float32 has."""
    line = {
        "prompt": prompt or "",
        "text": completion.text,
        "ids": completion.ids,
        "logprobs": [round(value, 6) for value in completion.logprobs],
        "finish_reason": completion.finish_reason,
    }
    if completion.top:
        line["top"] = [[[token, round(value, 6)] for token, value in place] for place in completion.top]
    return line


def interact(writer: Writer) -> int:
    """Continue each line that is typed. Each text has draws of its own, so the same prompt gives another text again.

    Ctrl-C stops a text, or empties the line, and Ctrl-D ends the loop. An error in a prompt is one line.
    """
    from npgpt.cli import one_line
    from npgpt.cli.console import Interrupted, ctrl_c_interrupts, with_history
    from npgpt.models.registry import verify

    with_history()
    args, number, unverified = writer.args, 0, not writer.args.verify
    print("type the beginning of a text, or nothing for a new one; Ctrl-C stops a text, Ctrl-D ends", file=sys.stderr)
    with ctrl_c_interrupts():
        while True:
            typing = True
            try:
                line = input("> ")
                typing = False
                prompt, first = Prompt(line or None, writer.framed(line or None)), number
                number += args.num_samples
                say_reasons(print_texts(writer, prompt, first), args, writer.sampling, ends=False)
            except EOFError:
                print()
                if unverified and number:  # every text was stopped
                    verify(writer.generator.model)
                return 0
            except Interrupted:
                print(end="\n" if typing else "", flush=True)
                continue
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                print(f"npgpt sample: error: the byte 0x{byte:02x} is not {error.encoding} text", file=sys.stderr)
                continue
            except (ValueError, FloatingPointError, MemoryError) as error:
                print(f"npgpt sample: error: {one_line(error)}", file=sys.stderr)
                continue
            if unverified:
                verify(writer.generator.model)
                unverified = False
