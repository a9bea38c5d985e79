"""Thousands of folders that were damaged or made to harm: `python -m tests.hostile COUNT SEED`.

Each is opened in a process that may take little memory. The outcome must be a model whose weights are finite, or one
line that says what is wrong. What npgpt has written itself must be refused, or be what was written. Prints how many
were opened and refused; the first that goes wrong ends it with a traceback, and with the files in a folder to look at.
"""

import functools
import json
import logging
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.models.registry import open_model, verify
from npgpt.tokenizer import CharTokenizer

MEMORY = 1 << 30  # bytes that opening such a small model may take beyond what the process has at the start
LONGEST = 1200  # characters of an error's line

CONFIG = GPTConfig(vocab_size=5, n_positions=4, n_embd=4, n_layer=2, n_head=2, eos_token_id=1)
HUGE = 2**63
NUMBERS = [-1, 0, 1, 2, 3, 5, 7, 8, 2**31, 2**53, HUGE - 1, HUGE, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), True]
STRANGE = [None, "", "x", "中", "\ud800", [], {}, [1, 2], {"a": 1}, [[[[]]]], "../model.safetensors", "gelu_new", "F32"]
DTYPES = ["F32", "F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F4", "Q4", ""]
PLACES = [
    "../secret.safetensors",
    "/etc/passwd",
    "missing.safetensors",
    ".",
    "",
    "config.json",
    "\0",
    "a" * 300,
    3,
    None,
]

Files = dict[str, bytes]


def header_of(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def bases() -> list[Files]:
    """Return whole folders: npgpt's own, one of another library in one file, and one in shards of bfloat16."""
    with tempfile.TemporaryDirectory() as name:
        GPT(CONFIG, seed=1).save_pretrained(name)
        CharTokenizer(["a中b\n🙂"]).save_pretrained(name)
        own = {path.name: path.read_bytes() for path in Path(name).iterdir()}
        tensors = {f"transformer.{name}": np.array(array) for name, array in GPT(CONFIG, seed=2).params.items()}
    foreign = own | {"model.safetensors": save(tensors, {"format": "pt"})}
    halves = [dict(list(tensors.items())[:9]), dict(list(tensors.items())[9:])]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shards = {name: rounded(half) for name, half in zip(names, halves, strict=True)}
    index = {"metadata": {}, "weight_map": {t: name for name, half in zip(names, halves, strict=True) for t in half}}
    sharded = {name: data for name, data in own.items() if name != "model.safetensors"} | shards
    return [own, foreign, sharded | {"model.safetensors.index.json": json.dumps(index).encode()}]


@functools.cache
def written() -> np.ndarray:
    """Return all weights of npgpt's own folder."""
    return np.concatenate([*map(np.ravel, GPT(CONFIG, seed=1).params.values())])


def rounded(tensors: dict[str, np.ndarray]) -> bytes:
    """Return a safetensors file of bfloat16, which NumPy does not have."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        part = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return with_header(header, data)


def in_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change, cut, repeat or insert some bytes."""
    at = rng.randrange(len(data)) if data else 0
    part = rng.randbytes(rng.randrange(1, 9))
    return rng.choice(
        (
            data[:at] + part + data[at + len(part) :],
            data[:at],
            data[:at] + part + data[at:],
            data[:at] + data[at + len(part) :],
            data + data[at:],
            b"",
        )
    )


def in_json(rng: random.Random, value: object) -> object:
    """Change a number, a string, a key or a member somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return value | {rng.choice(["x", "transformer.x", *value]): value[key]}
            case 2:
                return {(f"module.{name}" if name == key else name): item for name, item in value.items()}
        return value | {key: in_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], in_json(rng, value[at]), *value[at + rng.randrange(2) :]]
    return rng.choice(NUMBERS + STRANGE + DTYPES)


def in_header(rng: random.Random, data: bytes) -> bytes:
    """Change what a safetensors file says of its tensors, or the tensors themselves."""
    header, values = header_of(data)
    names = [name for name in header if name != "__metadata__"]
    one, other = header[rng.choice(names)], header[rng.choice(names)]
    match rng.randrange(9):
        case 0:
            one["data_offsets"] = list(other["data_offsets"])
        case 1:
            one["data_offsets"] = [rng.choice(NUMBERS[:15]) for _ in range(rng.randrange(4))]
        case 2:
            one["shape"] = rng.choice([other["shape"], one["shape"][::-1], [], [0], [HUGE, 2], [4] * 40, [-1, -16]])
        case 3:
            one["dtype"] = rng.choice(DTYPES)
        case 4:
            return with_header(header, values, rng.choice([0, 1, len(data), len(data) - 8, HUGE - 1, HUGE, 2**64 - 1]))
        case 5:  # a name twice
            text = json.dumps(header)
            name = rng.choice(names)
            return with_header(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(other)}}}".encode(), values)
        case 6:  # a number that is none, somewhere in the weights
            at = rng.randrange(len(values) // 4) * 4
            values = (
                values[:at]
                + rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xc0\x7f\xc0\x7f"])
                + values[at + 4 :]
            )
        case 7:
            values = (
                values[: rng.randrange(len(values))] if rng.random() < 0.5 else values + bytes(rng.randrange(1, 99))
            )
        case _:
            header = in_json(rng, header)
    return with_header(header, values)  # type: ignore[arg-type]


def in_index(rng: random.Random, data: bytes) -> bytes:
    """Say that a tensor is in another file."""
    content = json.loads(data)
    content["weight_map"][rng.choice(list(content["weight_map"]))] = rng.choice(PLACES)
    return json.dumps(content).encode()


def in_text(rng: random.Random, data: bytes) -> bytes:
    """Change a value of a JSON file."""
    return json.dumps(in_json(rng, json.loads(data))).encode("utf-8", "surrogatepass")


def attempt(change: Callable[[random.Random, bytes], bytes], rng: random.Random, data: bytes) -> bytes:
    """Change a file; one that an earlier change has damaged, byte by byte."""
    try:
        return change(rng, data)
    except (ValueError, struct.error, LookupError, TypeError, AttributeError):
        return in_bytes(rng, data)


def mutated(rng: random.Random, files: Files) -> Files:
    """Return a folder with one file, rarely two, changed or missing."""
    files = dict(files)
    for _ in range(1 + (rng.random() < 0.2)):
        name = rng.choice([*files, *(name for name in files if "model" in name)])
        data, kind = files[name], rng.random()
        if kind < 0.02:
            del files[name]
            if not files:
                return {}
        elif kind < 0.3:
            files[name] = in_bytes(rng, data)
        elif name.endswith(".safetensors"):
            files[name] = attempt(in_header, rng, data)
        elif name.endswith("index.json") and rng.random() < 0.5:
            files[name] = attempt(in_index, rng, data)
        else:
            files[name] = attempt(in_text, rng, data)
    return files


def opened(folder: Path, mapped: bool) -> str:
    """Open a folder as commands do, and return "opened" or "refused". Raises AssertionError for any other outcome.

    What has npgpt's checksum must have npgpt's weights, and no index may lead out of the folder.
    """
    try:
        model = open_model(folder, mapped=mapped)
        verify(model)
        tokenizer = Tokenizer.from_pretrained(folder)
    except (ValueError, OSError) as error:
        line = str(error)
        assert 0 < len(line) <= LONGEST, f"{len(line)} characters: {line!r}"
        assert "\n" not in line.strip(), f"not one line: {line!r}"
        return "refused"
    assert all(np.isfinite(array).all() for array in model.params.values()), "weights that are no numbers"
    assert tokenizer.vocab_size > 0
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if weights.is_file() and b"npgpt_sha256" in weights.read_bytes():
        np.testing.assert_array_equal(np.concatenate([*map(np.ravel, model.params.values())]), written())
    elif not weights.is_file():
        assert not any("/" in name for name in json.loads(index.read_bytes())["weight_map"].values()), "led outside"
    return "opened"


def main(count: int, seed: int) -> None:
    warnings.simplefilter("error")
    logging.disable()  # notices of what is assumed
    rng = random.Random(seed)
    whole = bases()
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        base = rng.randrange(len(whole))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "run"
            folder.mkdir()
            (Path(name) / "secret.safetensors").write_bytes(whole[1]["model.safetensors"])
            for file, data in mutated(rng, whole[base]).items():
                (folder / file).write_bytes(data)
            try:
                outcomes[opened(folder, mapped=rng.random() < 0.5)] += 1
            except BaseException:
                kept = Path(tempfile.mkdtemp(prefix="hostile-"))
                for path in folder.iterdir():
                    (kept / path.name).write_bytes(path.read_bytes())
                print(f"number {number} of seed {seed}, base {base}: see {kept}", flush=True)
                raise
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
