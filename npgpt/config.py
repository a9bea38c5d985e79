"""GPTConfig, TrainConfig and TextConfig, whose fields are the flags of `npgpt train`, and the presets."""

import codecs
import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from npgpt.support.fields import at_least, check_types, option, positive
from npgpt.support.hints import nearest

ACTIVATION_FUNCTIONS = ("gelu_new", "gelu")
DTYPES = ("float32", "float64")
COMPUTES = ("float32", "bf16")
OPS = ("fast", "reference")
INITS = ("normal", "copy", "shift")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "trapezoid")
WINDOWS = ("random", "shuffled")
# codecs of Python that no text file is in: notations of single strings, in which most bytes mean something else
NO_ENCODINGS = ("unicode-escape", "raw-unicode-escape", "utf-7", "idna", "punycode", "charmap")
NEWLINES = ("lf", "keep")
# of the tales: their languages, the tasks made from them, and the fewest words that an order gives
LANGS = ("en", "zh")
TASKS = ("answer", "summary", "translate", "write")
FEWEST_WORDS = 3
# Limits on a model's size: larger numbers are slips or attacks, and even the list of its parameters would fill memory
MOST_LAYERS = 10_000
MOST_PARAMETERS = 2**40


def divisor(most: int, n: int) -> int:
    """Return the largest divisor of n that is at most `most`."""
    return next((i for i in range(most, 0, -1) if n % i == 0), most)


def vocabulary_of(tokenizer: str, size: int) -> str:
    """Return the tokenizer's name, with a vocabulary of at most `size` if it is to be learned."""
    kind, _, most = tokenizer.partition(":")
    return f"bpe:{size}" if kind == "bpe" and int(most) > size > 256 else tokenizer


def with_end(tokenizer: str, _: Any) -> str:
    """Return the tokenizer's name, or BPE if it is of a kind without an end token."""
    return "bpe:4096" if tokenizer in ("chars", "bytes") else tokenizer


def is_possible(value: Any) -> bool:
    """Say whether a default can adapt to a number. The config classes refuse all other values, and some of these."""
    number: Any = value if isinstance(value, numbers.Real) else 0
    return bool(0 < number < 1e18)


def is_separator(value: Any) -> bool:
    """Say whether a document_separator needs an end token, which takes its place."""
    return isinstance(value, str) and value not in ("auto", "none")


# (a setting, another, of which values of that one, how the default of the first adapts to them); the tokenizer's kind
# comes before its size
ADAPTING: tuple[tuple[str, str, Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
    ("min_lr", "learning_rate", is_possible, lambda least, rate: min(least, rate / 10)),
    ("learning_rate", "min_lr", is_possible, max),
    ("warmup_steps", "max_steps", is_possible, lambda steps, most: min(steps, most // 10)),
    ("schedule", "decay_share", is_possible, lambda _, share: "trapezoid"),
    ("n_head", "n_embd", is_possible, divisor),
    ("n_embd", "n_head", is_possible, lambda width, heads: -(-width // heads) * heads),  # rounded up to a multiple
    ("tokenizer", "end_token", lambda end: isinstance(end, str), with_end),
    ("tokenizer", "document_separator", is_separator, with_end),
    ("tokenizer", "pack", lambda pack: pack is True, with_end),
    ("tokenizer", "vocab_size", is_possible, vocabulary_of),
)


def settle(
    given: Mapping[str, Any], defaults: Mapping[str, Any], saved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Combine settings: what is given beats what was saved, which beats the defaults.

    A default adapts to what is given, so only what is given can contradict itself. A saved learning rate adapts, too,
    if it contradicts what is given.

    Example: settle({"learning_rate": 1e-5}, {"min_lr": 1e-4}) has min_lr 1e-6.
    """
    saved = saved or {}
    values = {**defaults, **saved, **given}
    adapting = values.keys() - given.keys() - saved.keys()
    rates: Any = [values.get(name) for name in ("min_lr", "learning_rate")]
    if all(map(is_possible, rates)) and rates[0] > rates[1]:
        adapting |= {"min_lr", "learning_rate"} - given.keys()
    for name, other, applies, adapted in ADAPTING:
        if name in adapting and applies(given.get(other)):
            values[name] = adapted(values[name], given[other])
    return values


def settling(config: type) -> Any:
    """Decorate a config class: its defaults adapt to the fields that are given."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    init = config.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def settled(self: Any, *args: Any, **given: Any) -> None:
        first = dict(zip(defaults, args, strict=False))
        values = settle(first | given, defaults)
        init(self, *args, **{name: value for name, value in values.items() if name in given or name not in first})

    config.__init__ = settled  # type: ignore[misc]
    return config


@settling
@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT, under the field names of Hugging Face's GPT2Config.

    One field is npgpt's own: `bias` says whether the linear layers and layer norms have biases. If only one of n_embd
    and n_head is given, the other becomes one that fits. Raises ValueError, with the field and its value, for a setting
    that is not possible.
    """

    vocab_size: int = option(50257, "number of tokens in the vocabulary, V")
    n_positions: int = option(1024, "longest context that the model can read, in tokens, T")
    n_embd: int = option(768, "width of the embeddings and the residual stream, C")
    n_layer: int = option(12, "number of transformer blocks")
    n_head: int = option(12, "number of attention heads, H; must divide n_embd")
    n_inner: int | None = option(None, "width of the MLP's hidden layer")
    activation_function: str = option("gelu_new", "activation function of the MLP", ACTIVATION_FUNCTIONS)
    resid_pdrop: float = option(0.0, "dropout probability of what attention and MLP add to the residual stream")
    embd_pdrop: float = option(0.0, "dropout probability of the embeddings")
    attn_pdrop: float = option(0.0, "dropout probability of the attention weights")
    layer_norm_epsilon: float = option(1e-5, "number added to the variance in layer norm")
    initializer_range: float = option(0.02, "standard deviation of the initial weights")
    tie_word_embeddings: bool = option(True, "use the token embedding as the output head, too")
    bias: bool = option(True, "give the linear layers and layer norms biases")
    bos_token_id: int | None = option(None, "id of the token that begins a text")
    eos_token_id: int | tuple[int, ...] | None = option(None, "id of the token that ends a text; in files also a list")

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        if self.n_inner is not None:
            at_least(self, 1, "n_inner")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head={self.n_head} does not divide n_embd={self.n_embd}")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        positive(self, "layer_norm_epsilon", "initializer_range")
        if self.n_layer > MOST_LAYERS:
            raise ValueError(f"n_layer={self.n_layer} must be at most {MOST_LAYERS}")
        if self.n_parameters > MOST_PARAMETERS:
            usual = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_inner": 3072}
            large = [name for name, size in usual.items() if (getattr(self, name) or 0) > size]
            sizes = ", ".join(f"{name}={getattr(self, name)}" for name in large)
            raise ValueError(f"{sizes}: a model of {self.n_parameters:.3g} parameters, more than fit into any memory")

    @property
    def n_parameters(self) -> int:
        """The number of parameters, without listing them."""
        C, F = self.n_embd, self.mlp_width
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size + self.n_positions
        biases = self.n_layer * (7 * C + F) + C if self.bias else 0  # 3 + 1 + 1 of the layers, 2 of the layer norms
        return tables * C + self.n_layer * (4 * C * C + 2 * C * F + 2 * C) + C + biases

    @property
    def mlp_width(self) -> int:
        return self.n_inner or 4 * self.n_embd


@settling
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are nanoGPT's recipe for a CPU, and adapt to what is given (see settle).

    Raises ValueError, with the field and its value, for a setting that is not possible.
    """

    init: str = option(
        "normal",
        "initial weights: normal draws them all at random, as GPT-2's were; copy makes attention repeat earlier text "
        "from the start, and shift makes heads of the first block look at the last tokens one by one, which a small "
        "model would otherwise have to learn first",
        INITS,
    )
    tokenizer: str = option("chars", "chars, bytes, bpe:SIZE (learned from the text), or a folder with a tokenizer")
    pretrain: str | None = option(None, "tales to spend the first half of the steps on: tales:en, tales:zh or tales")
    end_token: str | None = option(None, "special token that ends a text, such as '</s>'")
    pack: bool = option(False, "put whole documents into rows, so that none is read together with another")
    batch_size: int = option(12, "sequences per batch, B")
    gradient_accumulation_steps: int = option(1, "batches per step; their gradients are averaged")
    windows: str = option(
        "random",
        "how batches are drawn from a running text: random takes windows from anywhere; shuffled cuts the text into "
        "windows, elsewhere in each epoch, and takes each once, in random order",
        WINDOWS,
    )
    minutes: float | None = option(
        None, "time for the whole command; the settings that are not given suit it, and it decides the number of steps"
    )
    max_steps: int = option(2000, "number of optimizer steps")
    optimizer: str = option(
        "adamw",
        "adamw trains everything with AdamW; muon trains the blocks' matrices with Muon and the rest with AdamW",
        OPTIMIZERS,
    )
    trainable: str = option(
        "*", "parameters to train, by names or patterns such as h.*.attn.*,ln_f.*; the rest is frozen"
    )
    learning_rate: float = option(1e-3, "peak learning rate, reached after the warm-up")
    min_lr: float = option(1e-4, "learning rate at the end of the decay; by default at most a tenth of the peak")
    schedule: str = option(
        "cosine",
        "how the learning rate falls after the warm-up: cosine follows half a cosine, linear a straight line, and "
        "trapezoid stays at the peak until the straight line of --decay-share",
        SCHEDULES,
    )
    decay_share: float = option(0.4, "share of all steps, at the end, in which a trapezoid falls")
    warmup_steps: int = option(100, "steps in which the learning rate rises; by default at most a tenth of all steps")
    average: float = option(
        0.0,
        "share of all steps, at the end, over which the weights are averaged; the averaged model is kept as the best "
        "where its validation loss is lower; 0 averages nothing",
    )
    weight_decay: float = option(0.1, "decoupled weight decay of the matrices; with muon, of the blocks' matrices only")
    beta1: float = option(0.9, "AdamW's decay rate for the mean of the gradient")
    beta2: float = option(0.99, "AdamW's decay rate for the mean of the squared gradient")
    adam_epsilon: float = option(1e-8, "number that keeps AdamW from dividing by zero")
    grad_clip: float = option(1.0, "largest norm of the gradient of all that is trained; 0 sets no limit")
    eval_every: int = option(250, "steps between evaluations on validation batches")
    eval_batches: int = option(20, "validation batches per evaluation")
    patience: int = option(
        0, "evaluations in a row without a better validation loss after which the run ends early; 0 never ends it"
    )
    final_eval_tokens: int | None = option(
        None,
        "most validation tokens that the last evaluation reads; if there are more, it reads a sample and prints the "
        "standard error; 0 reads all",
    )
    save_every: int = option(250, "steps between saves of the training state")
    sample_tokens: int = option(
        200,
        "length of the sample printed at the end, in tokens; 0 prints none; after tales, a report is printed instead",
    )
    seed: int = option(1337, "seed of the initial weights, the batches and dropout")
    threads: int = option(0, "number of CPU threads; 0 uses as many as help, within cores, quotas and OMP_NUM_THREADS")
    dtype: str = option("float32", "precision of weights and arithmetic", DTYPES)
    compute: str = option(
        "float32",
        "bf16 rounds the operands of a step's large products to bfloat16, which is faster on processors with an "
        "instruction for it; weights and all else stay float32",
        COMPUTES,
    )
    ops: str = option("fast", "fast runs compiled code, reference the plain NumPy definitions", OPS)

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "batch_size", "gradient_accumulation_steps", "max_steps")
        at_least(self, 1, "eval_every", "eval_batches", "save_every")
        at_least(self, 0, "warmup_steps", "weight_decay", "grad_clip", "min_lr")
        at_least(self, 0, "seed", "threads", "sample_tokens", "patience")
        if self.final_eval_tokens is not None:
            at_least(self, 0, "final_eval_tokens")
        positive(self, "learning_rate", "adam_epsilon")
        if self.minutes is not None:
            positive(self, "minutes")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if not 0 <= self.average <= 1:
            raise ValueError(f"average={self.average} must be in [0, 1]")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share={self.decay_share} must be above 0 and at most 1")
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr={self.min_lr} is above learning_rate={self.learning_rate}: lower min_lr too")
        if self.compute == "bf16" and self.dtype != "float32":
            raise ValueError(f"compute='bf16' rounds operands in float32, and dtype is {self.dtype!r}: leave one out")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """How text files are read. Raises ValueError, with the field and its value, for a setting that is not possible."""

    encoding: str = option("utf-8", "encoding of the text files, such as gb18030, big5, utf-16 or latin-1")
    newline: str = option(
        "lf",
        "lf reads the line ends CRLF and CR as LF, and leaves out byte-order marks inside a text; keep keeps both",
        NEWLINES,
    )
    document_separator: str = option(
        "auto",
        "what separates the documents of a file: a text such as '---' (\\n stands for a line end), auto for the end "
        "token's own text, file if each file is one document, or none",
    )
    text_field: str | None = option(None, "field of JSON lines that holds a document; none reads them as plain text")

    def __post_init__(self) -> None:
        check_types(self)
        try:
            "a".encode(self.encoding).decode(self.encoding)
            if codecs.lookup(self.encoding).name in NO_ENCODINGS:
                raise LookupError
        except (LookupError, UnicodeError):
            known = ("utf-8", "utf-16", "utf-32", "gb18030", "gbk", "big5", "latin-1", "cp1252", "shift_jis", "euc-kr")
            raise ValueError(f"encoding={self.encoding!r} is unknown{nearest(self.encoding, known)}") from None
        if not self.document_separator:
            raise ValueError("document_separator is empty: give a text, auto, file or none")


# Those for small devices bring a tokenizer, because another vocabulary could be most of the model.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"n_layer": 2, "n_head": 3, "n_embd": 48, "n_positions": 256, "tokenizer": "bpe:512"},
    "micro": {"n_layer": 4, "n_head": 4, "n_embd": 64, "n_positions": 256, "tokenizer": "bpe:1024"},
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64},
    "small": {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 256},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "n_positions": 1024},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "n_positions": 1024},
}
CHARACTERS = 65  # of a plain text in English, as nanoGPT counts them


def preset(name: str, **changes: Any) -> GPTConfig:
    """Return the GPTConfig of a preset, with the given fields changed. If the preset has a tokenizer, its vocabulary is
    the default.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    sizes = dict(PRESETS[name])
    if "tokenizer" in sizes:
        sizes["vocab_size"] = int(sizes.pop("tokenizer").partition(":")[2])
    return GPTConfig(**settle(changes, sizes))


def usual_preset(name: str, **changes: Any) -> tuple[GPTConfig, str]:
    """Return the GPTConfig of a preset as its training would have it, and where its vocabulary is from.

    Unless it is given, the vocabulary is the preset's own, that of characters, or that of GPT-2.
    """
    if "vocab_size" in changes or name not in PRESETS:
        return preset(name, **changes), "the given one"
    if "tokenizer" in PRESETS[name]:
        return preset(name, **changes), "the preset's own"
    if name.startswith("gpt2"):
        return preset(name, **changes), "that of GPT-2"
    return preset(name, **changes, vocab_size=CHARACTERS), "the characters of a text in English"
