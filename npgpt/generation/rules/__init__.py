"""The rules by which a token is drawn: small pure functions on logits, in which -inf excludes a token.

Each is in a file by its kind, with formula, example and source. `Rules` applies those that a request asks for.
"""

from collections.abc import Callable, Collection
from functools import partial

import numpy as np

from npgpt.generation.rules.distribution import draw, likeliest, log_softmax, pick, softmax
from npgpt.generation.rules.mirostat import keep_surprise, next_limit
from npgpt.generation.rules.penalties import (
    counted,
    exclude_repeated_ngrams,
    penalize_dry,
    penalize_presence,
    penalize_repetition,
)
from npgpt.generation.rules.spelling import Spelling, Words, occurrences, spelling_of
from npgpt.generation.rules.steering import (
    add_bias,
    exclude_ends,
    exclude_sequences,
    exclude_words,
    force_ids,
    force_text,
    guide,
)
from npgpt.generation.rules.truncation import (
    apply_temperature,
    cut_epsilon,
    cut_eta,
    keep_min_p,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
)
from npgpt.generation.settings import Sampling
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.base import to_utf8

__all__ = [
    "NoTokenError", "Rules", "add_bias", "apply_temperature", "cut_epsilon", "cut_eta", "draw", "exclude_ends",
    "exclude_repeated_ngrams", "exclude_sequences", "exclude_words", "force_ids", "force_text", "guide", "keep_min_p",
    "keep_surprise", "keep_top_k", "keep_top_n_sigma", "keep_top_p", "keep_typical", "likeliest", "log_softmax",
    "penalize_dry", "penalize_presence", "penalize_repetition", "pick", "softmax",
]  # fmt: skip

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids so far (T,), logits (V,) -> logits (V,)


class NoTokenError(ValueError):
    """The rules exclude every token. A search goes on with its other texts."""


class Rules:
    """The rules of one request, in the order of its settings; those that change nothing are left out.

    All but mirostat's limit depends on the arguments of `apply` alone, so beams may share it.
    """

    def __init__(
        self,
        sampling: Sampling,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        ends: Collection[int],
        prompt_length: int,
    ) -> None:
        """Prepare the rules for a prompt.

        tokenizer   needed for rules on strings: banned words, a prefix, the breakers of DRY
        vocab_size  the number of logits
        ends        the tokens that end the text

        Raises ValueError for ids outside the vocabulary, for a rule that needs the tokenizer if there is none, and for
        one that `order` leaves out.
        """
        self.sampling, self.ends = sampling, sorted(ends)
        self.vocab_size, self.prompt_length = vocab_size, prompt_length
        self.spelling = self._spelling(tokenizer)
        if tokenizer is not None and isinstance(sampling.prefix, str):
            tokenizer.encode(sampling.prefix)  # raises an error that names a character that cannot be written
        self._special = [] if tokenizer is None else list(tokenizer.special_tokens.values())
        self.holes = [] if tokenizer is None else [i for i in tokenizer.holes if i < vocab_size]  # never drawn
        self._negative: np.ndarray | None = None
        self._limit = 2 * (sampling.mirostat_tau or 0.0)
        rules = {**self._steering(), **self._penalties(), **self._truncation()}
        if left_out := [name for name in rules if name not in sampling.order]:
            raise ValueError(f"order leaves out {', '.join(left_out)}, which the settings ask for")
        self.rules: dict[str, Rule] = {name: rules[name] for name in sampling.order if name in rules}

    def apply(self, ids: np.ndarray, logits: np.ndarray, negative: np.ndarray | None = None) -> np.ndarray:
        """Return the logits to draw the next token from, (V,); the arguments are left as they are.

        ids       the tokens of the prompt and of the text so far, (T,)
        logits    the model's, (V,) float64
        negative  its logits after the negative prompt and the text so far, if there is one

        Raises ValueError for logits that are NaN or infinite, or become so, and NoTokenError if the rules together
        exclude every token.
        """
        top = logits.max()
        if not top < np.inf:
            what = "NaN" if np.isnan(top) else "infinite"
            raise ValueError(f"the model's logits are {what}: its weights are damaged, or training diverged")
        self._negative = negative
        if self.holes:
            logits = logits.copy()
            logits[self.holes] = -np.inf
        for done, (name, rule) in enumerate(self.rules.items(), 1):
            if top > -np.inf:
                logits = rule(ids, logits)
                top = logits.max()
            if not top < np.inf:
                raise ValueError(f"{name} leads to logits that are not finite: its settings are too large")
            if not top > -np.inf:
                names = ", ".join(list(self.rules)[:done])
                raise NoTokenError(f"no token is left to draw after {len(ids)} tokens: all are excluded by {names}")
        return logits

    def chosen(self, token: int, logits: np.ndarray) -> None:
        """Tell mirostat which token was drawn from the logits that `apply` returned."""
        if self.sampling.mirostat_tau is not None:
            surprise = -float(log_softmax(logits)[token])
            self._limit = next_limit(self._limit, surprise, self.sampling.mirostat_tau, self.sampling.mirostat_eta)

    def _truncation(self) -> dict[str, Rule]:
        """Return the rules of truncation.py and mirostat.py that the settings ask for."""
        s = self.sampling
        given: dict[str, tuple[Callable[..., np.ndarray], float | None, float | None]] = {  # value, and a neutral one
            "temperature": (apply_temperature, s.temperature, 1),
            "top_n_sigma": (keep_top_n_sigma, s.top_n_sigma, None),
            "top_k": (keep_top_k, s.top_k, None),
            "top_p": (keep_top_p, s.top_p, 1),
            "min_p": (keep_min_p, s.min_p, 0),
            "typical_p": (keep_typical, s.typical_p, 1),
            "epsilon": (cut_epsilon, s.epsilon_cutoff, 0),
            "eta": (cut_eta, s.eta_cutoff, 0),
        }
        rules: dict[str, Rule] = {
            name: partial(lambda rule, value, ids, logits: rule(logits, value), rule, value)
            for name, (rule, value, neutral) in given.items()
            if value not in (None, neutral)
        }
        if s.mirostat_tau is not None:
            rules["mirostat"] = lambda ids, logits: keep_surprise(logits, self._limit)
        return rules

    def _penalties(self) -> dict[str, Rule]:
        """Return the rules of penalties.py that the settings ask for."""
        s = self.sampling
        given: dict[str, tuple[bool, Rule]] = {
            "repetition": (
                s.repetition_penalty != 1,
                lambda ids, logits: penalize_repetition(ids, logits, s.repetition_penalty),
            ),
            "presence": (
                s.presence_penalty != 0 or s.frequency_penalty != 0,
                lambda ids, logits: penalize_presence(ids, logits, s.presence_penalty, s.frequency_penalty),
            ),
            "dry": (s.dry_multiplier != 0, self._dry),
            "no_repeat_ngram": (
                s.no_repeat_ngram_size != 0,
                lambda ids, logits: exclude_repeated_ngrams(ids, logits, s.no_repeat_ngram_size),
            ),
        }

        def on_counted(rule: Rule, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
            return rule(counted(ids, self.prompt_length, s.penalty_window, s.penalize_prompt), logits)

        return {name: partial(on_counted, rule) for name, (asked, rule) in given.items() if asked}

    def _dry(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        s = self.sampling
        return penalize_dry(ids, logits, s.dry_multiplier, s.dry_base, s.dry_allowed_length, self._breaks(ids))

    def _breaks(self, ids: np.ndarray) -> np.ndarray:
        """Return in which of ids a breaker ends, (T,) bool. It may have begun in an earlier token."""
        found = np.zeros(len(ids), bool)
        if self.spelling is not None:
            pieces = self.spelling.pieces(ids.tolist())
            data, ends = b"".join(pieces), np.cumsum([len(piece) for piece in pieces])
            for breaker in self.sampling.dry_breakers:
                found[occurrences(data, to_utf8(breaker), ends, whole=False)] = True
        return found

    def _steering(self) -> dict[str, Rule]:
        """Return the rules of steering.py that the settings ask for."""
        s, rules = self.sampling, dict[str, Rule]()
        if s.guidance_scale != 1:
            rules["guidance"] = self._guide
        if s.logit_bias:
            bias = s.logit_bias
            self._check_ids("logit_bias", bias)
            rules["bias"] = lambda ids, logits: add_bias(logits, bias)
        if s.banned:
            rules["banned"] = self._banned()
        if s.min_new_tokens:
            length = self.prompt_length + s.min_new_tokens
            rules["min_length"] = lambda ids, logits: exclude_ends(ids, logits, self.ends, length)
        if s.prefix:
            rules["prefix"] = self._prefix()
        return rules

    def _guide(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        if self._negative is None:
            raise ValueError("guidance needs the logits after the negative prompt")
        return guide(logits, self._negative, self.sampling.guidance_scale)

    def _banned(self) -> Rule:
        texts = [word for word in self.sampling.banned if isinstance(word, str)]
        sequences = [word for word in self.sampling.banned if not isinstance(word, str)]
        self._check_ids("banned", [i for sequence in sequences for i in sequence])
        words = Words(texts, self.spelling, self.ends) if texts and self.spelling else None

        def rule(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
            logits = exclude_sequences(ids, logits, sequences) if sequences else logits
            return exclude_words(ids, logits, words) if words else logits

        return rule

    def _prefix(self) -> Rule:
        prefix, begin, spelling = self.sampling.prefix, self.prompt_length, self.spelling
        if not isinstance(prefix, str):
            self._check_ids("prefix", prefix)
            return lambda ids, logits: force_ids(ids[begin:], logits, prefix)
        assert spelling is not None
        text, special = to_utf8(prefix), [*self.ends, *self._special]
        return lambda ids, logits: force_text(ids[begin:], logits, text, spelling, special)

    def _check_ids(self, name: str, ids: Collection[int]) -> None:
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"{name} has the id {wrong[0]}, which is outside the vocabulary of {self.vocab_size}")

    def _spelling(self, tokenizer: Tokenizer | None) -> Spelling | None:
        """Return the bytes of the tokens if a rule needs them."""
        s = self.sampling
        needed = {
            "banned": any(isinstance(word, str) for word in s.banned),
            "prefix": isinstance(s.prefix, str) and s.prefix != "",
            "dry_breakers": s.dry_multiplier != 0 and s.dry_breakers != (),
        }
        if not any(needed.values()):
            return None
        if tokenizer is None:
            name = next(name for name in needed if needed[name])
            raise ValueError(f"{name} needs a tokenizer, to know what tokens spell")
        return spelling_of(tokenizer)
