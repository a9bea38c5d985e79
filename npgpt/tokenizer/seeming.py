"""What a file that is no UTF-8 text seems to be, so that an error can say what to do."""

import codecs
from pathlib import Path
from typing import NoReturn

SAMPLE = 1 << 16  # bytes that are looked at
LATER = SAMPLE // 16  # bytes that are looked at for control characters in every further SAMPLE
# the first bytes of files that are no text
BINARY = {
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ\0": "compressed by xz: unpack it first",
    b"%PDF-": "a PDF: save its text first",
    b"PAR1": "a table of Parquet: write its text as JSON lines first, "
    "with pandas.read_parquet(FILE).to_json(NEW, orient='records', lines=True)",
    b"\x93NUMPY": "an array of NumPy, not text",
    b"npgpt tokens": "a shard of npgpt prepare: give the folder that it is in",
    **{bytes([0x80, protocol]): "a pickle of Python, not text" for protocol in range(2, 6)},
}
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\b\x1a\x1b"))
WESTERN = "éèêëàâäáãåçüûùúöôóòõøæñíîïßœÉÀÖÜÄÅØ’‘“”–—«»°£€§"
CYRILLIC = "оеаинтслвркмдпуяыьгзбчйхжшюцщэё"
# the most frequent Chinese characters, simplified and traditional
CHINESE = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日者意无力它与长把机"
    "十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应向头文体美相见被什二等新己身果加西月话回老给"
    "世位次门常先海通教儿原东声立及水名真走各入几口条平气题更别打女变四神总何安少才再做必山金便空马书非听白却光像难"
    "王色路记南住北死望清今风花春云夜江秋客君"
    "這個們來為國說時會對過發後裡種經麼學當沒動還進樣開從實無與長機關點業將兩間問應頭體見話給門東聲兒條氣題別變總馬書"
    "聽難記風雲"
)
KANA = "のにはをたがでてとしれさいるかなもすっくんまこりらあうそよ"
PUNCTUATION = "，。、；：？！「」『』“”《》（）　…—"
HANGUL = "이다는에의을를가고하지은한로도서기리사어나아자그들"
ANY = CHINESE + KANA + HANGUL + PUNCTUATION + WESTERN + CYRILLIC
# {encoding: (what people call it, characters that are frequent in its texts)}; of equally good ones the first is taken
FREQUENT = {
    "utf-16-le": ("UTF-16 without a mark", ANY),
    "utf-16-be": ("UTF-16 without a mark", ANY),
    "utf-32-le": ("UTF-32 without a mark", ANY),
    "utf-32-be": ("UTF-32 without a mark", ANY),
    "gb18030": ("GBK", CHINESE + PUNCTUATION),
    "big5": ("Big5", CHINESE + PUNCTUATION),
    "shift_jis": ("Shift JIS", KANA + PUNCTUATION),
    "euc_jp": ("EUC-JP", KANA + PUNCTUATION),
    "euc_kr": ("EUC-KR", HANGUL),
    "cp1252": ("Latin-1", WESTERN),
    "cp1251": ("Windows-1251", CYRILLIC),
}
LEAST = 0.2  # the share of the characters outside ASCII that must be frequent ones


def refuse_start(name: str, path: Path, data: bytes) -> None:
    """Raise ValueError for a file that begins as no text does."""
    for start, what in BINARY.items():
        if data.startswith(start):
            raise ValueError(f"{name}: {what}{token_ids(path)}")
    if path.suffix == ".bin":  # ids may happen to be the bytes of a text
        raise ValueError(f"{name}: binary data{token_ids(path)}; if it is a text, rename it")


def refuse_controls(name: str, path: Path, data: bytes, at: int) -> None:
    """Raise ValueError for a text of which a part is full of control characters. A few of them are fine.

    Its beginning is looked at and, to be fast, a sixteenth of the rest, in samples. `at` is where in the file data
    begins.
    """
    for start in range(0, len(data), SAMPLE):
        first = not at and not start
        sample = data[start : start + (SAMPLE if first else LATER)]
        n_controls = len(sample) - len(sample.translate(None, CONTROLS))
        if n_controls > max(4, (len(sample) if first else LATER) / 10) and b"\0" not in sample:
            share = f"{n_controls / len(sample):.0%} of it are control characters"
            place = "" if first else f" from byte {at + start:,} on"
            raise ValueError(f"{name}: binary data, not text{place}: {share}{token_ids(path)}")


def refuse_nul(name: str, path: Path, data: bytes, at: int) -> NoReturn:
    """Raise ValueError for a NUL byte, which no text has. `at` is where in the file data begins."""
    encoding = guess(data[:SAMPLE])
    hint = f"it looks like {FREQUENT[encoding][0]}: give --encoding {encoding}" if encoding in FREQUENT else ""
    if not hint:
        hint = token_ids(path).removeprefix("; ") or "text has none; tr -d '\\000' removes them"
    raise ValueError(f"{name}: a NUL byte at offset {at + data.index(0)}: {hint}")


def refuse_encoding(name: str, path: Path, error: UnicodeDecodeError, at: int) -> NoReturn:
    """Raise ValueError for bytes that cannot be decoded. `at` is where in the file error.object begins."""
    data, first = error.object, error.start
    begin = 0 if first < SAMPLE // 2 else data.rfind(b"\n", 0, first) + 1
    encoding = guess(data[begin : begin + SAMPLE])
    expected = "UTF-8" if error.encoding == "utf-8" else error.encoding
    if path.suffix in (".bin", ".pkl"):
        hint = token_ids(path).removeprefix("; ")
    elif error.encoding != "utf-8" and looks_like_utf8(data[begin : begin + SAMPLE]):
        hint = "it looks like UTF-8: leave --encoding out"
    elif encoding is None:
        hint = "save it as UTF-8, or name its encoding with --encoding"
    else:
        words = FREQUENT[encoding][0] if encoding in FREQUENT else encoding.upper()
        hint = f"it looks like {words}: give --encoding {encoding}"
    raise ValueError(f"{name}: not {expected}: byte 0x{data[first]:02x} at offset {at + first}; {hint}")


def token_ids(path: Path) -> str:
    """Return what to do with a file that has the name of nanoGPT's token ids; "" for others."""
    if path.suffix not in (".bin", ".pkl"):
        return ""
    beside = ", and its meta.pkl is beside it" if path.suffix == ".bin" and (path.parent / "meta.pkl").exists() else ""
    return (
        f"; nanoGPT's token ids have such a name{beside}: give the text that they were made from, "
        "or tokenize it anew: npgpt prepare FILE.txt --out DIR"
    )


def guess(sample: bytes) -> str | None:
    """Return the encoding that bytes seem to have; None if they look like UTF-8 with a damaged place, or like no text.

    Example: "你好，世界。".encode("gbk") gives "gb18030".
    """
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    text = sample.decode("utf-8", errors="replace")
    n_bad = text.count("\ufffd")
    if b"\0" not in sample and sum(character >= "\x80" for character in text) > 2 * n_bad:
        return None
    possible = [encoding for encoding in FREQUENT if encoding.startswith("utf") or b"\0" not in sample]
    scores = {encoding: score(sample, encoding, set(FREQUENT[encoding][1])) for encoding in possible}
    best = max(scores, key=lambda encoding: scores[encoding])
    return best if scores[best] >= LEAST else None


def looks_like_utf8(sample: bytes) -> bool:
    """Say whether bytes, which may begin and end within a character, are text in UTF-8."""
    text = sample.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character
    try:
        return not set(map(chr, CONTROLS)) & set(codecs.getincrementaldecoder("utf-8")().decode(text))
    except UnicodeDecodeError:
        return False


def score(sample: bytes, encoding: str, frequent: set[str]) -> float:
    """Return how plausible an encoding is: the share of frequent characters outside ASCII, or 0 if it is impossible."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample, final=len(sample) < SAMPLE)
    except UnicodeDecodeError:
        return 0
    if sum(ord(character) < 128 and ord(character) in CONTROLS for character in text) > len(text) / 100:
        return 0
    others = [character for character in text if character >= "\x80"]
    if not others:  # a text of ASCII, which is told by the bytes of zero between its characters
        return float(encoding.startswith("utf"))
    # any bytes are text in these two, so the share of the letters outside ASCII has to tell
    if encoding == "cp1252" and len(others) > len(text) / 3:
        return 0
    if encoding == "cp1251" and not len(others) > max(3, len(text) / 3):
        return 0
    return sum(character in frequent for character in others) / len(others)
