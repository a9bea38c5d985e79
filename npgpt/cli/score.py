"""Say how likely each line of a file is to a model: its nats, perplexity and bits per byte, and with --top the
probability and the rank of each token. A line is a text, or a JSON object with "text", with "prompt" and "completion",
or with "prompt" and "choices", a list of completions, of which the likeliest is marked. If there is an "answer", one of
the choices or its number from 0, the share of right ones is printed at the end."""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import add_text_flags, open_named
from npgpt.cli.texts import END_TOKEN, SPECIAL
from npgpt.cli.tokenizer import visible

if TYPE_CHECKING:
    from npgpt.data.templates import Template
    from npgpt.generation.prompts import Framed, Framing
    from npgpt.generation.scores import Score
    from npgpt.tokenizer import Tokenizer
    from npgpt.tokenizer.stream import TextFile

EXAMPLES = (
    "npgpt score runs/poems unseen.txt",
    "npgpt score runs/tasks tasks.jsonl --end --top 3",
    "npgpt score runs/poems choices.jsonl --json > scores.jsonl",
)
PER = ("token", "byte", "text")
SHOWN = 60  # characters of a text in the table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="text file, of which each line is scored by itself, or a file of JSON lines; - for standard input",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help="print each token with its probability, its rank, and the N likeliest tokens in its place",
    )
    parser.add_argument("--end", action="store_true", help="score the end token that follows each text, too")
    parser.add_argument(
        "--per",
        choices=PER,
        default="token",
        help="compare choices by their nats per token, per byte, or of the whole text (default: token)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, with the figures of each token")
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")
    add_text_flags(parser, "newline", "document_separator")


@dataclasses.dataclass
class Line:
    """A line of the file, as it is scored.

    where    "file:line", or "file: entry 1" in a list
    given    what it says: text, prompt, completion or choices
    framed   its tokens; those of choices, one after another
    answer   the number of the right choice; None if it is unknown
    scores   what the model says of each of `framed`
    """

    where: str
    given: dict[str, Any]
    framed: "list[Framed]"
    answer: int | None = None
    scores: "list[Score]" = dataclasses.field(default_factory=list)

    @property
    def number(self) -> int:
        return int(re.findall(r"\d+", self.where)[-1])

    @property
    def texts(self) -> list[str]:
        """What is scored: a text, a completion, or each of the choices."""
        value = next(self.given[key] for key in ("text", "completion", "choices") if key in self.given)
        return value if isinstance(value, list) else [value]

    def likeliest(self, per: str) -> int:
        """Return the number of the likeliest choice, of equally likely ones the first."""
        means = [score.mean(per) for score in self.scores]
        return means.index(min(means))


def run(args: argparse.Namespace) -> int:
    from npgpt.generation.opening import learned, open_run
    from npgpt.generation.prompts import Framing
    from npgpt.generation.scores import score_framed
    from npgpt.support.notices import notice

    require_given("FILE", args.file, "a text file, a file of JSON lines, or - for standard input")
    require_at_least(0, "--top", args.top)
    files = open_named([args.file], args).files
    announce_compiling()
    folder = find_run(args)
    model, tokenizer = open_run(folder, args.last, args.end_token, base=args.base)
    if (args.top or 0) > tokenizer.vocab_size:
        raise ValueError(f"--top {args.top} is more than the {tokenizer.vocab_size} tokens of the vocabulary")
    known = learned(folder, args.base)
    framing = Framing(tokenizer, known.ends, args.end, args.special)
    n_positions = model.config.n_positions
    lines = [line for file in files for line in lines_of_file(file, framing, n_positions, known.template)]
    if not lines:
        raise ValueError(f"{args.file}: there is no line to score")
    framed = [one for line in lines for one in line.framed]
    if n := sum(len(one.ids) > n_positions + 1 for one in framed):
        notice(f"{n:,} of {len(framed):,} texts are longer than the context of {n_positions}, and read in windows")
    scores = score_framed(model, tokenizer, framed, args.top or 0)
    print_scores(lines, scores, tokenizer, args)
    return 0


def lines_of_file(
    file: "TextFile", framing: "Framing", n_positions: int, template: "Template | None" = None
) -> Iterator[Line]:
    """Yield the lines of a file as tokens. Blank lines are left out, and a notice says so.

    template  how the model has learned to read prompts; None if nothing says so

    Chat messages, instructions and other examples give a line for each of their completions.

    Raises ValueError, naming file and line, for one that cannot be scored.
    """
    from npgpt.data.text import amount
    from npgpt.support.notices import notice
    from npgpt.tokenizer.stream import AS_IT_IS, lines_of, read_parts

    if file.config.text_field is None and is_of_other_kind(file):
        yield from lines_of_examples(file, framing, n_positions, template)
        return
    framing = framing._replace(template=template or framing.template)
    name = field_name(file)
    plain = dataclasses.replace(AS_IT_IS, encoding=file.config.encoding, newline="lf")
    blank = 0
    for number, data in enumerate(lines_of(read_parts(dataclasses.replace(file, config=plain))), 1):
        if not data.strip():
            blank += 1
            continue
        where = f"{file}:{number}"
        given, answer = ({"text": data.decode()}, None) if name is None else read_line(data, where, name)
        try:
            yield Line(where, given, framed(given, framing, n_positions), answer)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if blank:
        notice(f"{file}: {amount(blank, 'blank line')} left out")


def is_of_other_kind(file: "TextFile") -> bool:
    """Say whether a file has examples that are no lines of prompts with completions or choices."""
    from npgpt.data.dialects import PAIRS, kind_of
    from npgpt.data.examples import first_entry
    from npgpt.tokenizer.stream import first_object

    if (first := first_object(file)) is not None:
        return not {"text", "choices"} & first.keys() and kind_of(first) not in (None, PAIRS)
    entry = first_entry(file) or {}
    if "choices" in entry:
        raise ValueError(f"{file}: one list in JSON, and 'choices' are read from JSON lines: write a line for each")
    return "text" not in entry and kind_of(entry) is not None


def lines_of_examples(
    file: "TextFile", framing: "Framing", n_positions: int, template: "Template | None"
) -> Iterator[Line]:
    """Yield the completions of a file's examples, each after all that comes before it."""
    from npgpt.data.examples import read_lines

    kind, examples = read_lines([file])
    framing = framing._replace(template=template or kind.template)
    for example in examples:
        turns = example.turns()
        for number, (prompt, completion) in enumerate(turns):
            try:
                one = framing.completion(prompt, completion, n_positions, turns[:number], example.system, example.input)
            except ValueError as error:
                raise ValueError(f"{example.where}: {error}") from None
            yield Line(example.where, {"prompt": prompt, "completion": completion}, [one])


def field_name(file: "TextFile") -> str | None:
    """Return the field of JSON lines that holds a text, or None for lines of text."""
    from npgpt.tokenizer.stream import JSON_LINES, first_object

    if file.config.text_field is not None:
        return None if file.config.text_field == "none" else file.config.text_field
    known = {"text", "prompt"} & (first_object(file) or {}).keys()
    return "text" if known or file.path.suffix in JSON_LINES else None


def read_line(data: bytes, where: str, name: str) -> tuple[dict[str, Any], int | None]:
    """Return what a line of JSON says: text, or prompt and completion, or prompt and choices; and the right choice."""
    from npgpt.data.dialects import read_object, strings

    value = read_object(data, where)
    keys = (name,) if name in value and "prompt" not in value else ("prompt", "completion", "choices")
    given: dict[str, Any] = {}
    for key in keys:
        if key in value:
            texts = strings(value, key, where)
            if isinstance(value[key], list) != (key == "choices"):
                raise ValueError(f"{where}: {key!r} must be {'a list' if key == 'choices' else 'one string'}")
            given["text" if key == name else key] = texts if key == "choices" else texts[0]
    if set(given) not in ({"text"}, {"prompt", "completion"}, {"prompt", "choices"}):
        raise ValueError(f"{where}: expected {name!r}, or 'prompt' with 'completion' or 'choices'")
    if len(given.get("choices", "ab")) < 2:
        raise ValueError(f"{where}: 'choices' needs at least two")
    answer = number_of(value["answer"], given["choices"], where) if "answer" in value and "choices" in given else None
    return given, answer


def number_of(answer: Any, choices: list[str], where: str) -> int:
    """Return the number of the right choice."""
    if answer in choices:
        return choices.index(answer)
    if type(answer) is int and 0 <= answer < len(choices):
        return answer
    raise ValueError(f"{where}: 'answer' is {answer!r}: expected one of the choices, or its number from 0")


def framed(given: dict[str, Any], framing: "Framing", n_positions: int) -> "list[Framed]":
    """Return a line's tokens."""
    if "text" in given:
        return [framing.text(given["text"])]
    completions = given["choices"] if "choices" in given else [given["completion"]]
    return [framing.completion(given["prompt"], completion, n_positions) for completion in completions]


def print_scores(
    lines: Sequence[Line], scores: "Iterator[Score]", tokenizer: "Tokenizer", args: argparse.Namespace
) -> None:
    """Print each line as soon as it is scored, and the totals: beside JSON lines on stderr."""
    total = Total()
    if not args.json:
        print("  line  tokens       nats  nats/token  perplexity  bits/byte    text")
    for line in lines:
        line.scores = [next(scores) for _ in line.framed]
        total.add(line, args.per)
        if args.json:
            print(json.dumps(record(line, tokenizer, args), ensure_ascii=False), flush=True)
        else:
            print_rows(line, tokenizer, args)
    if not args.json:
        print()
    print("\n".join(total.lines(args.per)), file=sys.stderr if args.json else sys.stdout)


def print_rows(line: Line, tokenizer: "Tokenizer", args: argparse.Namespace) -> None:
    """Print the rows of a line, and those of their tokens."""
    number = line.number
    best = line.likeliest(args.per) if "choices" in line.given else None
    for i, (text, score) in enumerate(zip(line.texts, line.scores, strict=True)):
        shown = visible(text.encode())
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
        mark = "*" if i == best else " "
        n = len(score.ids)
        print(
            f"{number:>6}  {n:>6,}  {score.nats:>9.3f}  {score.nats / n:>10.4f}  {score.perplexity:>10.4g}  "
            f"{score.bits_per_byte:>9.4f}  {mark} {shown}",
            flush=True,
        )
        if args.top is not None:
            print_tokens(score, tokenizer)


def print_tokens(score: "Score", tokenizer: "Tokenizer") -> None:
    """Print a row for each token: its probability, its rank, what it was predicted from, and the likeliest tokens."""
    print("        nats  probability    rank  context  token")
    columns = zip(
        score.ids, score.logprobs, score.ranks, score.contexts, score.top_ids, score.top_logprobs, strict=True
    )
    for i, logprob, rank, context, ids, logprobs in columns:
        top = [f"{quoted(tokenizer, j)} {percent(one)}" for j, one in zip(ids, logprobs, strict=True)]
        token = quoted(tokenizer, i) + (f"  of {', '.join(top)}" if top else "")
        print(f"  {-logprob:>10.4f}  {percent(logprob):>11}  {rank:>6,}  {context:>7,}  {token}")


def quoted(tokenizer: "Tokenizer", i: int) -> str:
    """Return a token in quotation marks."""
    return f'"{visible(tokenizer.decode_bytes([int(i)]))}"'


def percent(logprob: float) -> str:
    """Return a probability as it is printed: 12.3%."""
    return f"{100 * math.exp(logprob):.3g}%"


def record(line: Line, tokenizer: "Tokenizer", args: argparse.Namespace) -> dict[str, Any]:
    """Return a line as it is printed with --json."""
    found: dict[str, Any] = {"line": line.number, **line.given}
    if "choices" not in line.given:
        return found | figures(line.scores[0], tokenizer)
    found["choices"] = [
        {"completion": text, **figures(score, tokenizer)} for text, score in zip(line.texts, line.scores, strict=True)
    ]
    found["likeliest"] = line.likeliest(args.per)
    if line.answer is not None:
        found |= {"answer": line.answer, "right": found["likeliest"] == line.answer}
    return found


def figures(score: "Score", tokenizer: "Tokenizer") -> dict[str, Any]:
    """Return a score in the types of JSON, which has no infinity and no NaN."""
    numbers = {"nats": score.nats, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
    top = [
        [[int(i), float(logprob)] for i, logprob in zip(ids, logprobs, strict=True)]
        for ids, logprobs in zip(score.top_ids, score.top_logprobs, strict=True)
    ]
    return {
        "tokens": len(score.ids),
        "bytes": score.n_bytes,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "ids": score.ids.tolist(),
        "pieces": [visible(tokenizer.decode_bytes([i])) for i in score.ids.tolist()],
        "logprobs": score.logprobs.tolist(),
        "ranks": score.ranks.tolist(),
        "contexts": score.contexts.tolist(),
        **({"top": top} if score.top_ids.size else {}),
    }


@dataclasses.dataclass
class Total:
    """The figures of all lines together."""

    n_lines: int = 0
    n_tokens: int = 0
    n_bytes: int = 0
    n_first: int = 0  # tokens of rank 1
    nats: float = 0.0
    answered: int = 0
    right: int = 0

    def add(self, line: Line, per: str) -> None:
        """Count a line in; of choices, all of them."""
        self.n_lines += 1
        for score in line.scores:
            self.n_tokens += len(score.ids)
            self.n_bytes += score.n_bytes
            self.n_first += int((score.ranks == 1).sum())
            self.nats += score.nats
        if line.answer is not None:
            self.answered += 1
            self.right += line.likeliest(per) == line.answer

    def lines(self, per: str) -> list[str]:
        """Return the totals as they are printed."""
        from npgpt.data.text import amount
        from npgpt.generation.scores import perplexity

        found = [
            f"nats        {self.nats:.3f} ({self.nats / self.n_tokens:.4f} per token)",
            f"perplexity  {perplexity(self.nats, self.n_tokens):.4g}",
            f"rank 1      {100 * self.n_first / self.n_tokens:.1f}% of the tokens",
            f"tokens      {self.n_tokens:,} ({self.n_bytes:,} bytes) in {amount(self.n_lines, 'line')}",
        ]
        if self.n_bytes:
            found.insert(2, f"bits/byte   {self.nats / math.log(2) / self.n_bytes:.4f}")
        if self.answered:
            share = 100 * self.right / self.answered
            found.append(f"choices     {self.right:,} of {self.answered:,} right ({share:.1f}%), by nats per {per}")
        return found
