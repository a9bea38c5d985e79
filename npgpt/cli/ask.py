"""Complete a prompt with a fine-tuned model. The prompt is given with --prompt, read from standard input, read from
each line of a file of JSON lines, or made from a tale. Each token of the completion is the likeliest one, unless
--temperature or --task write asks for a random draw."""

import argparse
import itertools
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from npgpt.cli.checks import require_at_least
from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import add_encoding, open_named, text_config
from npgpt.cli.sampling import (
    add_engine_flags,
    add_sampling_flags,
    check_engine_flags,
    print_pieces,
    sampling_of,
    say_reasons,
)
from npgpt.cli.texts import END_TOKEN, SPECIAL, read_prompt
from npgpt.config import LANGS, TASKS

if TYPE_CHECKING:
    from npgpt.data.examples import Example
    from npgpt.data.templates import Template
    from npgpt.generation.engine import Generator
    from npgpt.generation.requests import Request
    from npgpt.generation.settings import Sampling
    from npgpt.tokenizer import Tokenizer

DEFAULTS = {"max_new_tokens": None, "temperature": 0.0, "context": "stop"}
HELP = {
    "max_new_tokens": "most tokens to generate (default: as many as fit into the context)",
    "temperature": "how random the draws are; 0 always takes the likeliest token (default: 0, but 0.8 for --task "
    "write, with --top-p 0.9)",
}
NO_PROMPT = "give --prompt TEXT, pipe it in, or name a file of prompts with --data; --prompt '' is an empty one"
EXAMPLES = (
    'npgpt ask runs/tasks --prompt "Question: Who lost the kite? Answer:"',
    "npgpt ask runs/demo/translate --task translate --lang zh --seed 3",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--prompt",
        type=str,
        metavar="TEXT",
        help="the prompt, which may be empty (default: standard input, without the line end that ends it)",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="system message before the prompt, for a model that has learned chats with one"
    )
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="file of JSON lines with one prompt or a list of prompts per line; each is printed with its completions",
    )
    parser.add_argument(
        "--task", choices=TASKS, help="make an example of this task from a tale, complete it, and judge the completion"
    )
    parser.add_argument("--lang", choices=LANGS, help="language of that example (default: en)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the draws and of the tale (default: 0)"
    )
    add_sampling_flags(parser, DEFAULTS, HELP, without=("seed", "logprobs"))
    add_engine_flags(parser)
    add_encoding(parser)


def run(args: argparse.Namespace) -> int:
    check_flags(args)
    from npgpt.data.templates import about_chat_template
    from npgpt.generation.engine import Generator
    from npgpt.generation.in_order import SLOTS
    from npgpt.generation.opening import learned, open_run
    from npgpt.models.registry import verify
    from npgpt.support.notices import notice

    announce_compiling()
    folder = find_run(args)
    model, tokenizer = open_run(folder, False, args.end_token, args.verify, args.base)
    tokenizer.require_end_id()
    sampling = sampling_of(args, defaults_of(args))
    slots = (1 if args.data is None else SLOTS) * (1 if sampling.negative_prompt is None else 2)
    template = learned(folder, args.base).template
    if template is None and (line := about_chat_template(folder)):
        notice(line)
    asker = Asker(Generator(model, tokenizer, slots, args.weights, args.threads), tokenizer, sampling, args, template)
    do = complete_lines if args.data is not None else complete_example if args.task is not None else complete_prompt
    reasons = do(asker)
    if not args.verify:
        verify(model)
    return say_reasons(reasons, args, sampling, ends=True)


def check_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that contradict one another or have no effect."""
    given = [name for name in ("prompt", "data", "task") if getattr(args, name) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} cannot be combined: give one of them")
    if args.lang is not None and args.task is None:
        raise ValueError(f"--lang {args.lang} has no effect without --task: add --task, or leave --lang out")
    if args.special and args.task is not None:
        raise ValueError("--special has no effect with --task: a tale's prompt has no special tokens; leave it out")
    if args.system is not None and (args.data is not None or args.task is not None):
        raise ValueError("--system goes with --prompt: lines have system messages of their own, and tales none")
    require_at_least(0, "--seed", args.seed)
    check_engine_flags(args)


def defaults_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that suit the task, for those that are not given."""
    from npgpt.data.tales.tasks import DRAWN

    temperature, top_p = DRAWN.get(args.task, (0.0, None))
    drawn = {} if "temperature" in args else {"temperature": temperature, "top_p": top_p}
    return DEFAULTS | drawn | {"seed": args.seed}


class Asker(NamedTuple):
    """What asks a model."""

    generator: "Generator"
    tokenizer: "Tokenizer"
    sampling: "Sampling"
    args: argparse.Namespace
    template: "Template | None"  # how the model has learned to read; None if nothing says so

    def ids(self, prompt: str, before: Sequence[tuple[str, str]] = (), system: str = "", input: str = "") -> list[int]:
        """Return the ids of a prompt that comes after the turns before it."""
        from npgpt.generation.prompts import answer_prompt

        model, special = self.generator.model, self.args.special
        return answer_prompt(model, self.tokenizer, prompt, before, special, self.template, system, input)


def complete_prompt(asker: Asker) -> list[str]:
    """Print the completion of one prompt as it is written; return why it ended."""
    args = asker.args
    prompt = read_prompt(NO_PROMPT, text_config(args).encoding) if args.prompt is None else args.prompt
    return [complete(asker, prompt)[1]]


def complete(asker: Asker, prompt: str, shown: str = "") -> tuple[str, str]:
    """Print a completion as it is written, after the text `shown`; return it, and why it ended."""
    from npgpt.generation.in_order import pieces

    request = asker.generator.submit(
        asker.ids(prompt, system=asker.args.system or ""), asker.sampling, asker.args.deadline
    )
    return print_pieces(pieces(asker.generator, request), shown), request.completion.finish_reason


class Conversation:
    """A line of a file whose prompts are completed one after another: each model turn is read before the next prompt.

    turns    pairs of a prompt and its completion, so far
    reasons  why each completion ended
    done     whether all prompts are completed, or an error ended the conversation
    """

    def __init__(self, asker: Asker, example: "Example", number: int, deadline: float) -> None:
        from npgpt.generation.engine import draws

        self.asker, self.example, self.deadline = asker, example, deadline
        self.turns: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self.error: ValueError | None = None
        self.request: Request | None = None
        self._rng = draws(asker.sampling, number)
        self.go_on()

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.turns) == len(self.example.turns())

    def go_on(self) -> None:
        """Take a completion that has ended, and ask for the next one."""
        try:
            while not self.done and (self.request is None or self.request.done):
                if self.request is not None:
                    completion = self.request.completion
                    self.turns.append((self.prompt, completion.text))
                    self.reasons.append(completion.finish_reason)
                if not self.done:
                    left = max(1e-9, self.deadline - time.monotonic())
                    ids = self.asker.ids(self.prompt, self.turns, self.example.system, self.example.input)
                    self.request = self.asker.generator.submit(
                        ids, self.asker.sampling, left if left < math.inf else None, self._rng
                    )
        except ValueError as error:
            self.error = error

    @property
    def prompt(self) -> str:
        """The prompt that is being completed."""
        return self.example.turns()[len(self.turns)][0]


def conversations(asker: Asker, examples: Iterable["Example"]) -> Iterator[Conversation]:
    """Yield each example with its completions, in order, while those after it are being written."""
    from npgpt.generation.in_order import AHEAD

    deadline = math.inf if asker.args.deadline is None else time.monotonic() + asker.args.deadline
    began = (Conversation(asker, example, i, deadline) for i, example in enumerate(examples))
    pending: deque[Conversation] = deque()
    while True:
        pending.extend(itertools.islice(began, AHEAD - len(pending)))
        if not pending:
            return
        while not pending[0].done:
            asker.generator.step()
            for conversation in pending:
                conversation.go_on()
        yield pending.popleft()


def complete_lines(asker: Asker) -> list[str]:
    """Print each line with the model's completions, and on stderr how many of them equal those in the file.

    In a conversation, the model reads its own earlier completions before the next prompt. Return why each one ended.
    """
    from npgpt.data.examples import read_lines

    reasons: list[str] = []
    same = with_completion = 0
    texts = open_named([asker.args.data], asker.args, "*.jsonl")
    lines = read_lines(texts.files, completions=False)
    asker = asker._replace(template=asker.template or lines.kind.template)
    for found in conversations(asker, lines.examples):
        if found.error is not None:
            shorter = "; --max-new-tokens N shortens the model's own answers" if found.turns else ""
            raise ValueError(f"{found.example.where}: {found.error}{shorter}")
        for (_, said), (_, completion) in zip(found.turns, found.example.turns(), strict=True):
            with_completion += bool(completion)
            same += bool(completion) and said.strip() == completion.strip()
        line = lines.kind.write(found.example, [answer for _, answer in found.turns])
        print(json.dumps(line, ensure_ascii=False), flush=True)
        reasons += found.reasons
    if with_completion:
        print(f"{same} of {with_completion} completions equal those in the file, word for word", file=sys.stderr)
    return reasons


def complete_example(asker: Asker) -> list[str]:
    """Make an example of a task, complete it, and judge the completion; return why it ended."""
    from npgpt.data.tales.corpus import TEST
    from npgpt.data.tales.score import score
    from npgpt.data.tales.tasks import examples

    args = asker.args
    example = next(examples(args.seed, (args.task,), (args.lang or "en",), part=TEST))
    text, reason = complete(asker, example.prompt, shown=example.prompt)
    judged = score(example, text)
    print("\nright" if judged.right else f"\nwrong: {judged.why}")
    return [reason]
