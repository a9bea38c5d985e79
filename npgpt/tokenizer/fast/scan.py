"""GPT-2's and GPT-4's patterns as scanners over UTF-8: the same pre-tokens as `regex`, in one pass.

Each scanner writes where the pre-tokens of data[start:n] end into `ends` from index `count` on, and returns the new
count. The comments quote the parts of the patterns. Example: scan_gpt2 writes 1, 3 and 5 for the bytes "I'm 5".
"""

import numpy as np

from npgpt.support.jit import jit
from npgpt.tokenizer.fast.classes import LETTER, NEWLINE, NUMBER, OTHER, SPACE

APOSTROPHE, BLANK = 0x27, 0x20
LONG_S = 0x17F  # ſ, which matches s if case is ignored


@jit
def code_point(data, i, n):
    """Return the code point at byte i and its length in bytes; -1 and 1 for a byte that is not part of a whole one."""
    a = np.int64(data[i])
    if a < 0x80:
        return a, 1
    if a < 0xC2 or a > 0xF4:
        return -1, 1
    size = 2 if a < 0xE0 else 3 if a < 0xF0 else 4
    if i + size > n:
        return -1, 1
    code = a & (0x7F >> size)
    for k in range(1, size):
        b = np.int64(data[i + k])
        if b & 0xC0 != 0x80:
            return -1, 1
        code = code << 6 | b & 0x3F
    # an overlong form of a smaller code point, a surrogate, or beyond Unicode
    if (size == 3 and (code < 0x800 or 0xD800 <= code < 0xE000)) or (size == 4 and not 0x10000 <= code < 0x110000):
        return -1, 1
    return code, size


@jit
def class_at(data, i, n, classes):
    """Return the class of the character at byte i, and its length in bytes."""
    a = data[i]
    if a < 0x80:
        return np.int64(classes[a]), 1
    code, size = code_point(data, i, n)
    return np.int64(OTHER if code < 0 else classes[code]), size


@jit
def run_end(data, i, n, classes, wanted):
    """Return where the run of characters of the wanted classes that begins at byte i ends."""
    while i < n:
        kind, size = class_at(data, i, n, classes)
        if kind & wanted == 0:
            break
        i += size
    return i


@jit
def white_end(data, i, n, classes):
    r"""Return the end of `\s+(?!\S)|\s+`: a run of white space, without its last character if other text follows."""
    last, end = i, i
    while end < n:
        kind, size = class_at(data, end, n, classes)
        if kind & SPACE == 0:
            break
        last = end
        end += size
    return end if end == n or last == i else last


@jit
def contraction(data, i, n, ignore_case):
    """Return the end of `'(?:[sdmt]|ll|ve|re)` at byte i, or i if it does not match."""
    if i + 1 >= n or data[i] != APOSTROPHE:
        return i
    bit = 0x20 if ignore_case else 0  # between A and a
    a = np.int64(data[i + 1]) | bit
    if a == ord("s") or a == ord("d") or a == ord("m") or a == ord("t"):
        return i + 2
    if i + 2 >= n:
        return i
    b = np.int64(data[i + 2]) | bit
    if (a == ord("l") and b == ord("l")) or ((a == ord("v") or a == ord("r")) and b == ord("e")):
        return i + 3
    if ignore_case and code_point(data, i + 1, n)[0] == LONG_S:
        return i + 3
    return i


@jit
def scan_gpt2(data, start, n, classes, ends, count):
    """Cut by patterns.GPT2."""
    i = start
    while i < n:
        end = contraction(data, i, n, False)
        if end == i:
            kind, size = class_at(data, i, n, classes)
            end = i + size
            if data[i] == BLANK and end < n:  # the ` ?` before letters, numbers and others
                after, size = class_at(data, end, n, classes)
                if after & SPACE == 0:
                    kind = after
                    end += size
            end = white_end(data, i, n, classes) if kind & SPACE else run_end(data, end, n, classes, kind)
        i = end
        ends[count] = i
        count += 1
    return count


@jit
def scan_gpt4(data, start, n, classes, ends, count):
    """Cut by patterns.GPT4."""
    i = start
    while i < n:
        end = contraction(data, i, n, True)
        if end == i:
            kind, size = class_at(data, i, n, classes)
            end = i + size
            after = 0
            if end < n:
                after, size = class_at(data, end, n, classes)
            if kind == LETTER or (after == LETTER and kind & (NEWLINE | NUMBER) == 0):  # `[^\r\n\p{L}\p{N}]?\p{L}+`
                end = run_end(data, end, n, classes, LETTER)
            elif kind == NUMBER:  # `\p{N}{1,3}`
                if after == NUMBER:
                    end += size
                    if end < n:
                        after, size = class_at(data, end, n, classes)
                        if after == NUMBER:
                            end += size
            elif kind == OTHER or (data[i] == BLANK and after == OTHER):  # ` ?[^\s\p{L}\p{N}]+[\r\n]*`
                end = run_end(data, end, n, classes, OTHER)
                end = run_end(data, end, n, classes, NEWLINE)
            else:
                end = white_end_gpt4(data, i, n, classes)
        i = end
        ends[count] = i
        count += 1
    return count


@jit
def white_end_gpt4(data, i, n, classes):
    r"""Return the end of `\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s+` at byte i, which is white space."""
    end, newline = i, i
    while end < n:
        kind, size = class_at(data, end, n, classes)
        if kind & SPACE == 0:
            break
        end += size
        if kind & NEWLINE:
            newline = end
    if end < n and newline > i:
        return newline
    return white_end(data, i, n, classes)
