"""Lines of other formats for fine-tuning, recognised so that an error can say what to do with them."""

from collections.abc import Mapping
from typing import Any

TURNS = "the user's turns as prompt and the assistant's as completion, lists of equal length for several turns"
# (keys of a line, what it is, how to write it)
DIALECTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("messages",), "chat messages", TURNS),
    (("conversations",), "a conversation of ShareGPT", TURNS),
    (
        ("instruction", "output"),
        "an instruction of Alpaca",
        "instruction and input together as prompt, output as completion",
    ),
    (
        ("chosen", "rejected"),
        "a preference between two answers",
        "the chosen answer as completion, without the rejected one",
    ),
    (("question", "answer"), "a question and its answer", "them as prompt and completion"),
    (("question", "answers"), "a question and its answers", "the question as prompt and one answer as completion"),
    (("query", "response"), "a query and its response", "them as prompt and completion"),
    (("prompt", "response"), "a prompt and its response", "the response as completion"),
    (("prompt", "answer"), "a prompt and its answer", "the answer as completion"),
    (("input", "output"), "an input and its output", "them as prompt and completion"),
    (("source", "target"), "a source and its target", "them as prompt and completion"),
    (("text",), "running text without a prompt", "a prompt and a completion, or train on it: npgpt train --data FILE"),
)


def seems(value: Mapping[str, Any]) -> str:
    """Return what a line without prompt or completion seems to be, and what to write instead; "" if nothing is known.

    Example: {"question": "1 + 1?", "answer": "2"} seems to be a question and its answer.
    """
    for keys, what, how in DIALECTS:
        if all(key in value for key in keys):
            return f"; it seems to be {what}: write {how}"
    return ""


def seems_a_list(line: bytes) -> str:
    """Return what to do with a file that is one list of JSON; "" for any other first line."""
    if not line.lstrip().startswith(b"["):
        return ""
    return "; it seems to be one list in JSON: write each of its objects on a line of its own, as jq -c '.[]' does"
