"""Where a text ends: at an end token, before a stop string, or before a match of a regular expression."""

import codecs
import copy
from collections.abc import Collection, Iterable, Iterator

from npgpt.generation.settings import Sampling
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.base import to_utf8


class Stops:
    """Reads a text token by token, and says what of it may be shown.

    The text ends as soon as it contains a stop string or a match of stop_regex, looked for after each character. It is
    cut where that begins. If several end with the same character, the longest is cut. A character counts when its last
    byte is drawn, and the prompt never counts.

    stopped  "stop" once an end token, a stop string or a match was met

    >>> stops = Stops(Sampling(stop="\\n\\n"), tokenizer, ends=())  # of bytes
    >>> [stops.feed(token) for token in b"a\\nb\\n\\nc"]
    ["a", "", "\\nb", "", "", ""]

    Held back is what may yet begin a stop: the longest end of the text that begins a stop string, and what the `regex`
    library calls a partial match. A pattern takes the text so far for all of it: `END\\b` matches "END" before "ING"
    can follow, and where `\\B` or a lookahead fails only because the text ends there, no match is found.
    """

    def __init__(self, sampling: Sampling, tokenizer: Tokenizer | None, ends: Collection[int]) -> None:
        """Take the strings and the pattern to stop at, and the ids that end a text.

        tokenizer  None for a model without one: then no text is shown

        Raises ValueError for a string that no text can have, and for a pattern that does not compile, matches the empty
        text, or searches backwards.
        """
        if tokenizer is None and (sampling.stop or sampling.stop_regex is not None):
            raise ValueError("stop and stop_regex need a tokenizer, which says what the tokens spell")
        for string in sampling.stop:
            to_utf8(string)  # raises an error that names a lone surrogate, which no text has
        self.stopped: str | None = None
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pieces: list[str] = []  # what may be shown
        self._held, self._start = "", 0  # what is held back, and where in the text it begins
        self._finders: list[_Strings | _Pattern] = [_Strings(sampling.stop)] if sampling.stop else []
        if sampling.stop_regex is not None:
            self._finders.append(_Pattern(sampling.stop_regex))

    @property
    def text(self) -> str:
        """All that may be shown so far."""
        return "".join(self._pieces)

    def copy(self) -> "Stops":
        """Return another that goes on from here by itself, for a text that continues this one in another way."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        other._decoder.setstate(self._decoder.getstate())
        other._pieces = [self.text]
        other._finders = [copy.copy(finder) for finder in self._finders]
        return other

    def feed(self, token: int) -> str:
        """Read a token; return what may be shown now. After the end of the text that is nothing."""
        if self.stopped:
            return ""
        if token in self._ends:
            shown = self.finish()
            self.stopped = "stop"
            return shown
        if self._tokenizer is None:
            return ""
        return self._read(self._decoder.decode(self._tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """End the text here; return what was held back, with U+FFFD for bytes that are not whole characters."""
        shown = "" if self.stopped else self._read(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        self._start += len(rest)
        self._pieces.append(rest)
        return shown + rest

    def _read(self, piece: str) -> str:
        """Append characters to the text; return what may be shown now."""
        if not piece:
            return ""
        text, length = self._held + piece, self._start + len(self._held)
        keep = length  # from there on, the text may become a stop
        for finder in self._finders:
            finder.extend(piece)
        for end in range(length + 1, length + 1 + len(piece)):
            steps = [finder.step(end) for finder in self._finders]
            keep = min([end, *(start for start, _ in steps)])
            if any(found for _, found in steps):
                self.stopped = "stop"
                keep = min(start for start, found in steps if found)
                break
        size = max(0, keep - self._start)
        shown, self._held = text[:size], "" if self.stopped else text[size:]
        self._start += size
        self._pieces.append(shown)
        return shown


class _Strings:
    """Finds several strings in one pass over a text: Aho and Corasick's automaton.

    A node is a beginning of a string, the longest one that the text read so far ends with; node 0 is the empty one.

    Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic search", CACM 18 (1975).
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found = [0]  # the length of the longest string that ends at the node
        for string in strings:
            node = 0
            for character in string:
                if character not in self._next[node]:
                    self._next[node][character] = len(self._next)
                    self._next.append({})
                    self._depth.append(self._depth[node] + 1)
                    self._found.append(0)
                node = self._next[node][character]
            self._found[node] = len(string)
        self._node = 0
        self._shorter = [0] * len(self._next)  # the next longest beginning with which a node ends
        order = list(self._next[0].values())
        for node in order:  # grows: the shorter ones come first
            order += self._next[node].values()
            for character, child in self._next[node].items():
                shorter = self._shorter[child] = self._follow(self._shorter[node], character)
                self._found[child] = max(self._found[child], self._found[shorter])
        self._piece: Iterator[str] = iter("")

    def _follow(self, node: int, character: str) -> int:
        while node and character not in self._next[node]:
            node = self._shorter[node]
        return self._next[node].get(character, 0)

    def extend(self, piece: str) -> None:
        self._piece = iter(piece)

    def step(self, end: int) -> tuple[int, bool]:
        """Read the character before `end`; return where a string begins, or may begin, and whether it is there."""
        node = self._node = self._follow(self._node, next(self._piece))
        found = self._found[node]
        return end - (found or self._depth[node]), found > 0


class _Pattern:
    """Finds the first match of a regular expression in a text that grows."""

    def __init__(self, pattern: str) -> None:
        import regex

        try:
            self._compiled = regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"stop_regex={pattern!r} is no regular expression: {error}") from None
        if self._compiled.flags & regex.REVERSE:
            raise ValueError(f"stop_regex={pattern!r} searches backwards, and a text is written forwards")
        if self._compiled.search(""):
            raise ValueError(f"stop_regex={pattern!r} matches the empty text, which is everywhere")
        self._text = ""
        self._from = 0  # no match begins before it

    def extend(self, piece: str) -> None:
        text, self._text = self._text, ""
        text += piece  # the only reference, so CPython appends in place
        self._text = text

    def step(self, end: int) -> tuple[int, bool]:
        """Look at the text before `end`; return where a match begins, or may begin, and whether it is there."""
        match = self._compiled.search(self._text, self._from, end, partial=True)
        self._from = match.start() if match else end
        return self._from, match is not None and not match.partial
