"""Framing: what a model reads before it writes, or before it is asked how likely a text is, by what it has learned."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from npgpt.data.templates import AS_GIVEN, FOR_GENERATORS, Template, Turns, asked_ids, parse_template
from npgpt.models.base import Model
from npgpt.models.registry import is_generator
from npgpt.tokenizer import Tokenizer


class Learned(NamedTuple):
    """What a model has learned of where texts begin and end. If neither, it has read one long text.

    examples   texts that begin and end with the end token, as tales do
    documents  running text in which the end token separates documents
    template   how the examples are read; None if nothing says so
    """

    examples: bool
    documents: bool
    template: Template | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Return what a run has learned from its data, which train.json describes.

        Raises ValueError for a template that is none.
        """
        text = data.get("template")
        if not isinstance(text, str | None):
            raise ValueError(f"train.json: data.template is {text!r:.60}, not a string")
        template = None if text is None else parse_template(text)
        return cls(data.get("examples") is True, data.get("documents") is True, template)

    @property
    def ends(self) -> bool:
        """Whether a new text begins after the end token, and ends with it."""
        return self.examples or self.documents

    @property
    def reads_prompts(self) -> bool:
        """Whether it is a generator, which reads a prompt up to an end token and then writes."""
        return self.template is not None and self.template.ends


def usual_template(model: Model) -> Template:
    """Return how a model reads prompts and completions if nothing else says so."""
    return FOR_GENERATORS if is_generator(model) else AS_GIVEN


def first_prompt(
    tokenizer: Tokenizer, text: str | None, learned: Learned, first: int = 0, special: bool = False
) -> list[int]:
    """Return the ids that a model continues from.

    text     the text to continue; None to start a new one
    learned  a new text begins after the end token if the model has learned where texts end. So does a text that is
             given if it has learned examples; of documents, it may be the middle of one
    first    the token to begin with if there is neither an end token to begin after nor a line end
    special  whether special tokens in the text are encoded as such, not as plain text

    A generator's text is its prompt, after which the end token comes; without a text, that of an empty prompt.
    """
    if text is None:
        return [*(new_text(tokenizer, learned.ends) or [first]), *boundary(tokenizer, learned.reads_prompts)]
    begin = [tokenizer.end_id] if tokenizer.end_id is not None and learned.examples else []
    return [*begin, *tokenizer.encode_prompt(text, special), *boundary(tokenizer, learned.reads_prompts)]


def boundary(tokenizer: Tokenizer, reads_prompts: bool) -> list[int]:
    """Return what comes after a prompt: of a generator the end token, of other models nothing."""
    return [tokenizer.require_end_id()] if reads_prompts else []


def new_text(tokenizer: Tokenizer, after_end: bool) -> list[int]:
    """Return the ids that a new text begins after: the end token, or a line end; nothing if the tokenizer has neither.

    after_end  whether the model has learned texts that begin after the end token
    """
    if after_end and tokenizer.end_id is not None:
        return [tokenizer.end_id]
    try:
        return tokenizer.encode_prompt("\n")
    except ValueError:
        return []


class Framed(NamedTuple):
    """Tokens, and how many of them are read before the first that is scored."""

    ids: list[int]
    first: int


class Framing(NamedTuple):
    """How texts are put before a model that says how likely they are.

    after_end, end, special  as in npgpt.score
    template                 how prompts are read
    """

    tokenizer: Tokenizer
    after_end: bool
    end: bool = False
    special: bool = False
    template: Template = AS_GIVEN

    def text(self, text: str) -> Framed:
        """Return the tokens of a text, which begins anew. Raises ValueError for a generator, which needs a prompt."""
        if self.template.ends:  # that of a generator
            raise ValueError("a generator writes completions: give JSON lines with prompt and completion")
        before = new_text(self.tokenizer, self.after_end)
        ids = [*before, *self.tokenizer.encode_prompt(text, self.special), *self.following()]
        first = max(1, len(before))
        if len(ids) <= first:
            what = "is empty" if not text else "has one token, which nothing comes before"
            raise ValueError(f"the text {text!r} {what}: there is nothing to score")
        return Framed(ids, first)

    def completion(
        self,
        prompt: str,
        completion: str,
        n_positions: int,
        before: Turns = (),
        system: str = "",
        input: str = "",
    ) -> Framed:
        """Return the tokens of a prompt and its completion. Raises ValueError if they do not fit into the context.

        before  the earlier turns; the system message and the input belong to the first one
        """
        read = asked_ids(self.template, self.tokenizer, prompt, before, self.special, system, input)
        if self.after_end or not read:  # after an empty prompt a text begins
            read = [*new_text(self.tokenizer, self.after_end), *read]
        if not read:
            raise ValueError("the prompt is empty, and the tokenizer has no token that a text begins after")
        written = [*self.tokenizer.encode_prompt(completion, self.special), *self.following()]
        if not written:
            raise ValueError("the completion is empty: there is nothing to score")
        if len(read) + len(written) > n_positions + 1:  # the last token is predicted, and not read
            raise ValueError(
                f"the prompt and its completion are too long: {len(read)} and {len(written)} tokens, and the model's "
                f"context is {n_positions}"
            )
        return Framed([*read, *written], len(read))

    def following(self) -> list[int]:
        """Return the end token, if it is scored. Raises ValueError if there is none."""
        return [self.tokenizer.require_end_id()] if self.end else []


def answer_prompt(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    before: Turns = (),
    special: bool = False,
    template: Template | None = None,
    system: str = "",
    input: str = "",
) -> list[int]:
    """Return the ids of a prompt as a fine-tuned model has learned prompts: after the end token, like every turn.

    before    the earlier turns of the conversation, pairs of a prompt and its completion
    special   whether special tokens in the prompts are encoded as such, not as plain text
    template  how prompts are read, None for the usual way of such models; the system message and the input belong to
              the first prompt

    Prompts and completions are encoded separately, as in training. Raises ValueError for a prompt that leaves no room.
    """
    template = usual_template(model) if template is None else template
    ids = [tokenizer.require_end_id(), *asked_ids(template, tokenizer, prompt, before, special, system, input)]
    if len(ids) >= model.config.n_positions:
        what = "conversation" if before else "prompt"
        raise ValueError(
            f"the {what} is too long: {len(ids) - 1} tokens, and the model's context of {model.config.n_positions} "
            "must also hold the completion"
        )
    return ids
