"""Report on a model trained on tales: how far its loss is above the floor, and how many of its tales are right."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npgpt.data.source import TalesSource
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer

SAMPLES = 100
TEMPERATURE = 0.6
NAMES = {"en": "English", "zh": "Chinese"}


def report(model: "Model", tokenizer: "Tokenizer", source: "TalesSource", loss: float, seed: int) -> None:
    """Print the validation loss and its floor, how many sampled tales are right and how many are new, and one of them.

    loss  the loss on the validation tales, in nats per token
    """
    from npgpt.data.tales import language_of
    from npgpt.data.tales.corpus import TRAIN

    floor, tokens = source.floor(), source.val_tokens
    a_byte = loss * tokens / floor.n_bytes
    print(
        f"that is {a_byte:.5f} nats per byte, {100 * (a_byte / floor.a_byte - 1):.1f}% above the floor of these tales, "
        f"{floor.a_byte:.5f} ({floor.nats / tokens:.4f} per token): no model can get below it"
    )
    texts = sample_texts(model, tokenizer, SAMPLES, seed)
    wrong = {text: error for text in texts if (error := what_is_wrong(text, source.corpus.langs))}
    known = set(source.corpus.texts(source.n_train, TRAIN)) & set(texts)
    print(f"{len(texts)} tales sampled at temperature {TEMPERATURE}; right in every detail:")
    for lang in source.corpus.langs:
        its = [text for text in texts if language_of(text) == lang]
        print(f"  {sum(text not in wrong for text in its)} of {len(its)} in {NAMES[lang]}")
    new = sum(text not in known for text in texts)
    print(f"{new} are new: they are not among the {source.n_train:,} tales of the training")
    right = [text for text in texts if text not in wrong]
    if right:
        print(f"\none of them:\n\n{right[0]}")
    elif texts:
        print(f"\none of them, wrong at {wrong[texts[0]]}:\n\n{texts[0]}")


def sample_texts(model: "Model", tokenizer: "Tokenizer", n: int, seed: int) -> list[str]:
    """Return n texts without a prompt, each as long as the context at most."""
    from npgpt.generation.prompts import new_text
    from npgpt.generation.samples import sample
    from npgpt.generation.settings import Sampling

    end = tokenizer.require_end_id()
    sampling = Sampling(max_new_tokens=None, temperature=TEMPERATURE, seed=seed, stop_ids=(end,))
    return [one.text for one in sample(model, tokenizer, new_text(tokenizer, after_end=True), n, sampling)]


def what_is_wrong(text: str, langs: tuple[str, ...]) -> str:
    """Return why a text is not a tale in one of the languages, or "" if it is one."""
    from npgpt.data.tales import NotATaleError, language_of, parse

    lang = language_of(text)
    if lang not in langs:
        return f"its language, {lang}"
    try:
        parse(text, lang)
    except NotATaleError as error:
        return str(error)
    return ""
