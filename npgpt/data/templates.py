r"""Templates: how a system message, a prompt and a completion become what a model reads and learns.

    {[System: {system}
    ]}User: {prompt}
    Assistant:{completion}

{prompt} and {completion} are places. A part in {[ and ]} is left out where a place in it has no text. Special tokens
that a template names are encoded as such; in the texts of an example they are text. The model learns the completion
and the end token that follows it. It reads what comes before {completion}, and, between turns, what comes after it.

{end}, directly before {completion}, is the tokenizer's end token, whichever that is. It is read, and tells a generator
where its encoder's text ends and its decoder's begins: {prompt}{end}{completion}.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.config import TextConfig
from npgpt.support.hints import nearest
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import TextFile, read_parts

PLACES = {"prompt": "prompt", "instruction": "prompt", "input": "input", "system": "system", "completion": "completion"}
END = "end"  # the word for the end token
BLANK = "\n\n"  # what is put between texts that share a place
ONE_TURN = (
    "and a generator reads one prompt and writes one completion: give each completion a line of its own, with all that "
    "comes before it in the prompt"
)
SANDBOX = "npgpt has no sandbox to run one in"


class Node(NamedTuple):
    """A part of a template: plain text, the name of a place, a part that may be left out, or the end token."""

    kind: str  # "text", "place", "part" or END
    text: str = ""
    inside: "tuple[Node, ...]" = ()


class Text(NamedTuple):
    """A text on its way to a tokenizer.

    own   whether it is the template's own, in which special tokens are encoded as such
    ends  whether the end token stands here, in place of a text
    """

    text: str
    own: bool
    ends: bool = False


Turns = Sequence[tuple[str, str]]  # pairs of a prompt and its completion


class Template(NamedTuple):
    """A template that has been read.

    text    as the file has it
    before  what is read before a completion
    after   what is read after it, before the next turn
    """

    text: str
    before: tuple[Node, ...]
    after: str

    @classmethod
    def read(cls, path: str | Path) -> "Template":
        """Read the file of a template, UTF-8. Its line ends become LF, and its last one is kept.

        Raises FileNotFoundError, or ValueError that names the file.
        """
        config = TextConfig(newline="lf", document_separator="none", text_field="none")
        text = b"".join(read_parts(TextFile(str(path), Path(path), config))).decode("utf-8")
        try:
            refuse_jinja(Path(path).name, text)
            return cls.parse(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Return the template that a text describes.

        Raises ValueError for a name that is no place, and for places that are missing, given twice or out of order.
        """
        nodes, _ = parse_nodes(text, 0, inside=False)
        require_end_before_completion(nodes)
        kinds = [node.kind for node in nodes]
        names = list(places(nodes))
        top = [PLACES[node.text] for node in nodes if node.kind == "place"]
        if "completion" not in top:
            raise ValueError("the place {completion} is missing" + " outside of {[ ]}" * ("completion" in names))
        for name in ("prompt", "input", "system", "completion"):
            if names.count(name) > 1:
                raise ValueError(f"there are {names.count(name)} places for the {name}, and a template has one")
        if "prompt" not in names:
            raise ValueError("the place {prompt} is missing (or {instruction}, another name for it)")
        at = next(i for i, node in enumerate(nodes) if node == Node("place", "completion"))
        if set(kinds[at + 1 :]) - {"text"}:
            raise ValueError("{completion} must be the last place: what follows it is read before the next turn")
        return cls(text, tuple(nodes[:at]), "".join(node.text for node in nodes[at + 1 :]))

    @property
    def ends(self) -> bool:
        """Whether {end} stands before the completion, as in the templates of generators."""
        return self.before[-1:] == (Node(END),)

    def with_end(self) -> "Template":
        """Return this template with {end} before {completion}."""
        if self.ends:
            return self
        return parse_template(re.sub(r"(?<!\\)((?:\\\\)*)\{completion\}", r"\1{end}{completion}", self.text))

    def prompt(self, prompt: str, system: str = "", input: str = "") -> list[Text]:
        """Return what the model reads before a completion.

        A template without a place for the system message has it before the prompt, and one without a place for the
        input after it, with a blank line between.
        """
        names = set(places(self.before))
        joined = ["" if "system" in names else system, prompt, "" if "input" in names else input]
        values = {"system": system, "prompt": BLANK.join(filter(None, joined)), "input": input}
        return list(filled(self.before, values))

    def shown(self, prompt: str, system: str = "", input: str = "") -> str:
        """Return what the model reads before a completion, as one text."""
        return "".join(part.text for part in self.prompt(prompt, system, input))

    def between(self, tokenizer: Tokenizer) -> list[int | str]:
        """Return what is read between two turns, after the end token, which a template may name there.

        Raises ValueError for a special token in its place, which the model would never learn to write.
        """
        cut = with_specials([Text(self.after, own=True)], tokenizer)
        first = next((part for part in cut if part != ""), "")
        if not isinstance(first, int):
            return cut
        if first != tokenizer.end_id:
            name = tokenizer.decode([first])
            raise ValueError(
                f"the template has {name} after {{completion}}, but the end token, which ends completions, is "
                f"{tokenizer.end_token}: give --end-token '{name}', or leave it out of the template"
            )
        return cut[cut.index(first) + 1 :]


def require_end_before_completion(nodes: Sequence[Node]) -> None:
    """Raise ValueError for an {end} that is not directly before {completion}."""
    inside = [node for part in nodes for node in part.inside]
    before = [one for one, following in itertools.pairwise(nodes) if following == Node("place", "completion")]
    if [*nodes, *inside].count(Node(END)) > before.count(Node(END)):
        raise ValueError("{end} can stand only once, directly before {completion}")


def places(nodes: Iterable[Node]) -> Iterator[str]:
    """Yield what goes into the places of a template, in order."""
    for node in nodes:
        if node.kind == "place":
            yield PLACES[node.text]
        yield from places(node.inside)


def parse_nodes(text: str, at: int, inside: bool) -> tuple[list[Node], int]:
    r"""Return the nodes of a text from a character on, and where they end: at ]} inside of a part.

    A brace that begins no place and no part is text. So is one after a backslash, which is left out; of two
    backslashes before a brace, one is left, and the brace counts: "\{a}" is "{a}", and
    "\\{prompt}" a backslash and a place.
    """
    nodes: list[Node] = []
    plain: list[str] = []
    begin = at

    def flush() -> None:
        if joined := "".join(plain):
            nodes.append(Node("text", joined))
        plain.clear()

    while found := re.compile(r"(\\*)([{}])").search(text, at):
        slashes, brace = found.groups()
        plain.append(text[at : found.start()] + slashes[: len(slashes) // 2])
        at = found.end()
        if len(slashes) % 2 or (brace == "}" and not (inside and found.start() > begin and text[at - 2] == "]")):
            plain.append(brace)
        elif brace == "}":
            plain[-1] = plain[-1].removesuffix("]")
            flush()
            return nodes, at
        elif text[at : at + 1] == "[":
            if inside:
                raise ValueError("a part in {[ ]} cannot be in another one")
            flush()
            part, at = parse_nodes(text, at + 1, inside=True)
            if not list(places(part)):
                raise ValueError("a part in {[ ]} has no place, so it would always be there: leave {[ ]} out")
            nodes.append(Node("part", inside=tuple(part)))
        elif name := re.compile(r"(\w+)\}").match(text, at):
            if name[1] not in (*PLACES, END):
                raise ValueError(f"{{{name[1]}}} is no place{nearest(name[1], PLACES)}; as text it is \\{{{name[1]}}}")
            flush()
            nodes.append(Node(END) if name[1] == END else Node("place", name[1]))
            at = name.end()
        else:
            plain.append(brace)
    if inside:
        raise ValueError("a part begins with {[ and does not end with ]}")
    plain.append(text[at:])
    flush()
    return nodes, len(text)


def escaped(text: str, before_place: bool = False) -> str:
    """Return how a template spells a plain text, before another plain text or before a place."""
    spelt = re.sub(r"(\\*)([{}])", r"\1\1\\\2", text)
    ends = len(spelt) - len(spelt.rstrip("\\"))
    return spelt + "\\" * ends * before_place


def filled(nodes: Iterable[Node], values: dict[str, str]) -> Iterator[Text]:
    """Yield the texts of a template's nodes, without the parts in which a place is empty."""
    for node in nodes:
        if node.kind == "text":
            yield Text(node.text, own=True)
        elif node.kind == "place":
            yield Text(values[PLACES[node.text]], own=False)
        elif node.kind == END:
            yield Text("", own=True, ends=True)
        elif all(values[name] for name in places(node.inside)):
            yield from filled(node.inside, values)


@functools.cache
def any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches any of these names, the longest first; nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def with_specials(texts: Iterable[Text], tokenizer: Tokenizer) -> list[int | str]:
    """Return texts joined, cut where the template's own have a special token, which becomes its id.

    Example: <|im_start|>user and Hi become [100, "userHi"] if <|im_start|> is the special token 100.
    """
    found: list[int | str] = [""]
    special = any_of(tuple(tokenizer.special_tokens))
    for text, own, ends in texts:
        if ends:
            found += [tokenizer.require_end_id(), ""]
        at = 0
        for token in special.finditer(text) if own else ():
            found[-1] = f"{found[-1]}{text[at : token.start()]}"
            found += [tokenizer.special_tokens[token[0]], ""]
            at = token.end()
        found[-1] = f"{found[-1]}{text[at:]}"
    return [part for part in found if part != ""] or [""]


def turn_parts(
    template: Template, tokenizer: Tokenizer, turns: Turns, system: str = "", input: str = ""
) -> list[tuple[list[int | str], bool]]:
    """Return the turns of an example as tokens and texts still to be encoded, and whether each is read, not learned.

    They are, for each turn, what is read before its completion, and the completion. Between two of them come the end
    token, which is learned, and what the template has after {completion}. The system message and the input are those
    of the first turn. Raises ValueError for several turns in a template with {end}, which reads one.
    """
    if template.ends and len(turns) > 1:
        raise ValueError(f"{len(turns)} turns, {ONE_TURN}")
    between = template.between(tokenizer)
    parts: list[tuple[list[int | str], bool]] = []
    for number, (prompt, completion) in enumerate(turns):
        if number:
            parts += [([tokenizer.require_end_id()], False), (between, True)]
        texts = template.prompt(prompt) if number else template.prompt(prompt, system, input)
        parts += [(with_specials(texts, tokenizer), True), ([completion], False)]
    return parts


def asked_ids(
    template: Template,
    tokenizer: Tokenizer,
    prompt: str,
    before: Turns = (),
    special: bool = False,
    system: str = "",
    input: str = "",
) -> list[int]:
    """Return the ids that a model reads before it completes a prompt: those of training, without the first end token.

    before   the earlier turns, pairs of a prompt and its completion
    special  whether special tokens in prompts are encoded as such, not as plain text
    """
    parts = turn_parts(template, tokenizer, [*before, (prompt, "")], system, input)[:-1]
    ids: list[int] = []
    for part, asked in parts:
        for one in part:
            ids += [one] if isinstance(one, int) else tokenizer.encode_prompt(one, special and asked)
    return ids


def encoded(
    parts: Sequence[Sequence[tuple[list[int | str], bool]]], tokenizer: Tokenizer
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the tokens of examples, and which of them are read, not learned. All texts are encoded at once."""
    pieces = [piece for example in parts for part, _ in example for piece in part]
    texts = iter(tokenizer.encode_batch(piece for piece in pieces if isinstance(piece, str)))
    ids, read = [], []
    for example in parts:
        found = [
            (np.array([piece]) if isinstance(piece, int) else next(texts), asked)
            for part, asked in example
            for piece in part
        ]
        ids.append(np.concatenate([tokens for tokens, _ in found]))
        read.append(np.repeat([asked for _, asked in found], [len(tokens) for tokens, _ in found]))
    return ids, read


def refuse_jinja(name: str, text: str) -> None:
    """Raise ValueError for a template in Jinja, or a JSON file that holds one."""
    if name.endswith((".jinja", ".jinja2", ".j2")) or "{%" in text or "{{" in text:
        raise ValueError(
            f"a template in Jinja, which is a program, and {SANDBOX}: write its text with {{system}}, {{prompt}} and "
            "{completion}; two braces that are text are written \\{\\{"
        )
    if name.endswith(".json"):
        raise ValueError("a JSON file is no template: write a text file with {prompt} and {completion}")


def chat_template_of(folder: Path) -> str | None:
    """Return the name of the file of a folder that holds a chat template; None if there is none."""
    if (folder / "chat_template.jinja").is_file():
        return "chat_template.jinja"
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the tokenizer's reader says what is wrong with it
    return "tokenizer_config.json" if isinstance(config, dict) and config.get("chat_template") else None


def about_chat_template(folder: Path) -> str | None:
    """Return a line about a folder's chat template, which is not applied; None if there is none."""
    name = chat_template_of(folder)
    return name and (
        f"{folder / name} has a chat template in Jinja, which is not applied: {SANDBOX}. Write it as a text file, and "
        "teach it with npgpt finetune --template FILE"
    )


AS_GIVEN = Template.parse("{prompt}{completion}")  # for prompts and completions, which are written for it
FOR_GENERATORS = Template.parse("{prompt}{end}{completion}")  # which read with an encoder and write with a decoder
LINE = Template.parse("{prompt}\n{completion}")  # for texts that were not written to be read in one
parse_template = functools.cache(Template.parse)
