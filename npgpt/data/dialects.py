"""The kinds of JSON objects that examples are read from: prompts and completions, chats, instructions, questions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from npgpt.data.templates import AS_GIVEN, BLANK, LINE, Template

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}
TOOLS = ("tool", "function", "function_call", "observation", "ipython")  # roles, which npgpt does not read
CALLS = ("tool_calls", "function_call")  # keys of a message


class Example(NamedTuple):
    """A prompt and its completion, their place as "file:line", and the prompts and completions that follow.

    system, input  what an example says besides its first prompt; "" for nothing
    """

    prompt: str
    completion: str
    where: str = ""
    more: tuple[tuple[str, str], ...] = ()
    system: str = ""
    input: str = ""

    def turns(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs of a prompt and its completion, in order."""
        return ((self.prompt, self.completion), *self.more)


class Kind(NamedTuple):
    """A kind of examples.

    what      its name in messages, in the plural
    asked     the key of what the model reads; of a chat, the key of the messages
    answered  the key of what it learns; "" of a chat
    template  how it is read unless another template is given
    """

    what: str
    asked: str
    answered: str
    template: Template = LINE

    def has(self, value: Mapping[str, Any], completions: bool = True) -> bool:
        """Say whether an object has the keys of this kind; without `completions`, that of what is read."""
        return self.asked in value and (not completions or not self.answered or self.answered in value)

    def write(self, example: Example, answers: Sequence[str]) -> dict[str, Any]:
        """Return the object of an example with other completions, as this kind writes it."""
        prompts = [prompt for prompt, _ in example.turns()]
        if self.answered:
            several = bool(example.more)
            found = {self.asked: prompts if several else prompts[0]}
            found |= {name: text for name in ("system", "input") if (text := getattr(example, name))}
            return found | {self.answered: list(answers) if several else answers[0]}
        said = [("system", example.system)] if example.system else []
        for prompt, answer in zip(prompts, answers, strict=True):
            said += [("user", prompt), ("assistant", answer)]
        if self.asked == "messages":
            return {self.asked: [{"role": role, "content": text} for role, text in said]}
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        return {self.asked: [{"from": names[role], "value": text} for role, text in said]}


PAIRS = Kind("prompts and completions", "prompt", "completion", AS_GIVEN)
KINDS = (  # a line is of the first kind of which it has the keys
    PAIRS,
    Kind("chat messages", "messages", ""),
    Kind("conversations of ShareGPT", "conversations", ""),
    Kind("instructions of Alpaca", "instruction", "output"),
    Kind("questions and answers", "question", "answer"),
    Kind("questions and responses", "question", "response"),
    Kind("queries and responses", "query", "response"),
    Kind("prompts and responses", "prompt", "response"),
    Kind("prompts and answers", "prompt", "answer"),
    Kind("inputs and outputs", "input", "output"),
    Kind("sources and targets", "source", "target"),
)
# lines of no kind: (keys of a line, what it is, how to write it)
DIALECTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("chosen", "rejected"),
        "a preference between two answers",
        "the chosen answer as completion, without the rejected one",
    ),
    (("question", "answers"), "a question and its answers", "the question as prompt and one answer as completion"),
    (("text",), "running text without a prompt", "a prompt and a completion, or train on it: npgpt train --data FILE"),
)


def kind_of(value: Mapping[str, Any], completions: bool = True) -> Kind | None:
    """Return the kind of an object; None if it is of no kind.

    completions  whether it must have a completion
    """
    for kind in KINDS:
        if kind.has(value):
            return kind
    return None if completions else next((kind for kind in KINDS if kind.has(value, False)), None)


def seems(value: Mapping[str, Any]) -> str:
    """Return what a line of no kind seems to be, and what to write instead; "" if nothing is known.

    Example: {"text": "..."} seems to be running text without a prompt.
    """
    for keys, what, how in DIALECTS:
        if all(key in value for key in keys):
            return f"; it seems to be {what}: write {how}"
    if not any(kind.asked in value for kind in KINDS):
        return f", and so are {', '.join(kind.asked for kind in KINDS[1:5])} and the other keys that begin an example"
    return ""


def read_value(value: dict[str, Any], kind: Kind, where: str, completions: bool = True) -> Example:
    """Return the example of an object of a kind.

    completions  whether it must have a completion. If not, one that is missing is read as ""

    Raises ValueError, beginning with `where`, if it has none, or is otherwise not as its kind is.
    """
    example = (
        read_pair(value, kind, where, completions) if kind.answered else read_chat(value, kind, where, completions)
    )
    turns = example.turns() if kind.answered else example.turns()[:-1]  # a chat may end with the user
    if completions and not all(completion for _, completion in turns):
        raise ValueError(f"{where}: {kind.answered or 'an answer'!r} is empty: there would be nothing to learn")
    return example


def read_pair(value: dict[str, Any], kind: Kind, where: str, completions: bool) -> Example:
    """Return the example of an object with one key for what is read and one for what is learned."""
    for key in (kind.asked, kind.answered) if completions else (kind.asked,):
        if key not in value:
            raise ValueError(f"{where}: {key!r} is missing{seems(value)}")
    prompts = strings(value, kind.asked, where)
    answers = strings(value, kind.answered, where) if kind.answered in value else [""] * len(prompts)
    if kind is not PAIRS and (isinstance(value[kind.asked], list) or isinstance(value.get(kind.answered), list)):
        raise ValueError(f"{where}: {kind.asked!r} and {kind.answered!r} must be strings, and not lists of them")
    if len(prompts) != len(answers):
        raise ValueError(f"{where}: there are {len(prompts)} prompts, but {len(answers)} completions")
    if not prompts:
        raise ValueError(f"{where}: there is no prompt")
    (prompt, completion), *more = zip(prompts, answers, strict=True)
    if kind is PAIRS:
        return Example(prompt, completion, where, tuple(more))
    if value.get("history"):
        raise ValueError(f"{where}: 'history' has earlier turns: write all of them as messages")
    given = "" if kind.asked == "input" else optional(value, "input", where)
    return Example(prompt, completion, where, (), system_of(value, where), given)


def read_chat(value: dict[str, Any], kind: Kind, where: str, completions: bool) -> Example:
    """Return the example of a chat: a system message or none, then turns of the user and the assistant.

    A chat that begins with the assistant begins with an empty prompt. One that ends with the user ends with an empty
    completion. The messages of one speaker in a row are joined with blank lines.
    """
    messages = value[kind.asked]
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{where}: {kind.asked!r} must be a list of messages, at least one, got {messages!r:.60}")
    said: list[tuple[str, str]] = []  # who says what; a speaker never follows himself
    for number, message in enumerate(messages):
        role, text = read_message(message, f"{where}: {kind.asked}[{number}]")
        if said and said[-1][0] == role:
            text = f"{said.pop()[1]}{BLANK}{text}"
        elif role == "system" and said:
            raise ValueError(f"{where}: {kind.asked}[{number}] is a system message, which must come first")
        said.append((role, text))
    system = system_of(value, where)
    if said[0][0] == "system":
        if system:
            raise ValueError(f"{where}: there are two system messages, {'system'!r} and {kind.asked}[0]")
        system = said.pop(0)[1]
    if not said:
        raise ValueError(f"{where}: {kind.asked!r} has a system message alone: there would be nothing to learn")
    if said[0][0] == "assistant":
        said.insert(0, ("user", ""))
    if said[-1][0] == "user":
        said.append(("assistant", ""))
    elif completions and not said[-1][1]:
        raise ValueError(f"{where}: the last answer is empty: there would be nothing to learn")
    texts = [text for _, text in said]
    (prompt, completion), *more = zip(texts[::2], texts[1::2], strict=True)
    return Example(prompt, completion, where, tuple(more), system)


def read_message(message: Any, where: str) -> tuple[str, str]:
    """Return who says a message of a chat (system, user or assistant), and what."""
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {message!r:.60}, and a message is an object with role and content")
    by, what = ("from", "value") if "from" in message else ("role", "content")
    name = message.get(by)
    called = next((key for key in CALLS if message.get(key)), name if name in TOOLS else None)
    if called is not None:
        raise ValueError(f"{where} is a call of a tool or its result ({called}), which npgpt does not read")
    if not isinstance(name, str) or name not in ROLES:
        known = ", ".join(ROLES)
        raise ValueError(f"{where}: {by!r} is {name!r:.60}: expected one of {known}")
    if message.get("weight", 1) != 1:
        raise ValueError(f"{where}: 'weight' is {message['weight']!r}, and npgpt learns all answers: leave it out")
    if what not in message:
        raise ValueError(f"{where}: {what!r} is missing")
    content = message[what]
    if not isinstance(content, list):
        return ROLES[name], one_string(content, what, where)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"{where}: {what!r} has a part of type {kind!r:.60}, and npgpt reads text alone")
    return ROLES[name], "".join(one_string(part.get("text"), "text", where) for part in content)


def system_of(value: dict[str, Any], where: str) -> str:
    """Return the system message that an object has beside its other keys; "" for none."""
    return optional(value, "system", where) or optional(value, "system_prompt", where)


def optional(value: dict[str, Any], key: str, where: str) -> str:
    """Return the string of a key; "" if it is missing."""
    return one_string(value[key], key, where) if key in value else ""


def strings(value: dict[str, Any], key: str, where: str) -> list[str]:
    """Return the strings of a key, whose value is one or a list of them. Raises ValueError if it is anything else."""
    texts = value[key] if isinstance(value[key], list) else [value[key]]
    return [one_string(text, key, where) for text in texts]


def one_string(text: Any, key: str, where: str) -> str:
    """Return a string. Raises ValueError, beginning with `where`, for anything else, and for half a character."""
    if not isinstance(text, str):
        raise ValueError(f"{where}: {key!r} is {text!r:.200}, not a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"{where}: {key!r} has the lone surrogate U+{code:04X}, half a character") from None
    return text


def read_object(line: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, beginning with `where`, for anything else."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        hint = "; each line must be a JSON object with prompt and completion"
        raise ValueError(f"{where}: not JSON: {error}{hint}") from None
    return require_object(value, where)


def require_object(value: Any, where: str) -> dict[str, Any]:
    """Return a value that is an object. Raises ValueError, beginning with `where`, for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with prompt and completion, got {type(value).__name__}")
    return value
