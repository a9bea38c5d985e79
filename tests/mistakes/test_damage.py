"""What can be wrong with a run's files: one line on standard error, exit code 2, and nothing changed."""

import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt.training.checkpoint import STATE
from tests.conftest import mostly_big
from tests.mistakes.tools import refused


def edit_tensors(**changes):
    """Write the model anew without the checksum, as a tool that knows nothing of it would."""

    def damage(path):
        tensors = load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)

    return damage


def edit_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def edit_json(change):
    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def edit_header(old: bytes, new: bytes):
    """Change the JSON at the start of a safetensors file and its length before it."""

    def change(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = data[8 : 8 + length].replace(old, new)
        assert header != data[8 : 8 + length]
        return struct.pack("<Q", len(header)) + header + data[8 + length :]

    return edit_bytes(change)


def flip(position: float):
    def change(data: bytes) -> bytes:
        at = int(position * len(data))
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return edit_bytes(change)


MODEL, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
F32 = np.float32
DAMAGES = {
    "model cut in half": (MODEL, edit_bytes(lambda data: data[: len(data) // 2]), []),
    "model cut by a byte": (MODEL, edit_bytes(lambda data: data[:-1]), []),
    "model empty": (MODEL, edit_bytes(lambda data: b""), []),
    "model of zeros": (MODEL, edit_bytes(lambda data: bytes(len(data))), []),
    "model of text": (MODEL, edit_bytes(lambda data: b"hello " * 100), []),
    "model with a bit flipped": (MODEL, flip(0.9), ["checksum"]),
    "model with a bit of its header flipped": (MODEL, flip(0.01), []),
    "tensor renamed": (MODEL, edit_header(b"ln_f.bias", b"ln_g.bias"), []),
    "header beyond the file": (MODEL, edit_header(b'"shape":[8]', b'"shape":[9]'), []),
    "huge header": (MODEL, edit_bytes(lambda data: b"\xff" * 8 + data[8:]), []),
    "tensor missing": (MODEL, edit_tensors(ln_f__bias=None), ["ln_f.bias is missing"]),
    "tensor too many": (MODEL, edit_tensors(extra=np.ones(3, F32)), ["extra does not belong"]),
    "block too many": (MODEL, edit_tensors(h__1__ln_1__weight=np.ones(8, F32)), ["block"]),
    "wrong shape": (MODEL, edit_tensors(wpe__weight=np.ones((9, 8), F32)), ["wpe.weight", "(9, 8)", "(8, 8)"]),
    "wrong dtype": (MODEL, edit_tensors(wpe__weight=np.ones((8, 8), np.int32)), ["wpe.weight", "int32"]),
    "integers as weights": (MODEL, edit_tensors(wpe__weight=np.ones((8, 8), np.uint8)), ["wpe.weight", "uint8"]),
    "config not JSON": (CONFIG, edit_bytes(lambda data: data[:50]), ["not valid JSON"]),
    "config a list": (CONFIG, edit_bytes(lambda data: b"[1, 2]"), ["list"]),
    "config empty": (CONFIG, edit_bytes(lambda data: b""), ["not valid JSON"]),
    "config binary": (CONFIG, edit_bytes(lambda data: b"\xff\xfe\x00"), ["not valid JSON"]),
    "config of another model": (CONFIG, edit_json(lambda c: c.update(model_type="llama")), ["llama"]),
    "config without its kind": (CONFIG, edit_json(lambda c: c.pop("model_type")), ["model_type"]),
    "config without a size": (CONFIG, edit_json(lambda c: c.pop("n_embd")), []),
    "config of another size": (CONFIG, edit_json(lambda c: c.update(n_embd=16)), []),
    "config with a text for a size": (CONFIG, edit_json(lambda c: c.update(n_layer="1")), ["n_layer='1'"]),
    "config with a list for a name": (CONFIG, edit_json(lambda c: c.update(activation_function=[])), ["activation"]),
    "config with a huge size": (CONFIG, edit_json(lambda c: c.update(n_embd=10**12)), []),
    "config with a huge vocabulary": (CONFIG, edit_json(lambda c: c.update(vocab_size=10**30)), []),
    "config with heads that do not divide": (CONFIG, edit_json(lambda c: c.update(n_head=3)), ["n_head=3"]),
    "tokenizer not JSON": (TOKENIZER, edit_bytes(lambda data: data[:100]), ["not valid JSON"]),
    "tokenizer a list": (TOKENIZER, edit_bytes(lambda data: b"[]"), ["list"]),
    "tokenizer empty object": (TOKENIZER, edit_bytes(lambda data: b"{}"), []),
    "tokenizer of another kind": (TOKENIZER, edit_json(lambda t: t["model"].update(type="Unigram")), ["Unigram"]),
    "tokenizer without vocabulary": (TOKENIZER, edit_json(lambda t: t["model"].pop("vocab")), []),
    "tokenizer with its vocabulary a list": (TOKENIZER, edit_json(lambda t: t["model"].update(vocab=["a"])), []),
    "tokenizer with another vocabulary": (TOKENIZER, edit_json(lambda t: t["model"]["vocab"].update(Z=99)), []),
    "tokenizer with ids exchanged": (TOKENIZER, edit_json(lambda t: t["model"]["vocab"].update(a=1, b=0)), []),
    "tokenizer with a surrogate": (TOKENIZER, edit_json(lambda t: t["model"]["vocab"].update({"\ud800": 28})), []),
    "tokenizer's model a string": (TOKENIZER, edit_json(lambda t: t.update(model="WordLevel")), []),
}
COMMANDS = ["sample r --max-new-tokens 3", "eval r --data a.txt", "train --resume --out r --max-steps 5"]


# `info` reads no tokenizer
PAIRS = [(d, c) for d in DAMAGES for c in [*COMMANDS, "info r"] if (DAMAGES[d][0], c) != (TOKENIZER, "info r")]
# each damage meets one command, and each command every third damage of each file
ALWAYS = {(damage, COMMANDS[i % len(COMMANDS)]) for i, damage in enumerate(DAMAGES)}
ALWAYS |= {("model with a bit flipped", "info r"), ("config not JSON", "info r")}


@pytest.mark.parametrize(("damage", "line"), mostly_big(PAIRS, ALWAYS.__contains__))
def test_a_damaged_run_is_refused_by_every_command_that_reads_it(capsys, here, damage, line):
    name, edit, decisive = DAMAGES[damage]
    edit(here / "r" / name)
    refused(capsys, here, line.split(), "r", *decisive, *([name] if name == TOKENIZER else []))


@pytest.mark.parametrize("name", [MODEL, CONFIG, TOKENIZER])
@pytest.mark.parametrize("line", COMMANDS)
def test_a_run_that_lacks_a_file_is_refused(capsys, here, name, line):
    (here / "r" / name).unlink()
    refused(capsys, here, line.split(), name)


def vocabulary_of_bytes(path):
    from npgpt.tokenizer import ByteTokenizer

    ByteTokenizer().save_pretrained(path.parent)


SAVED = {
    "state cut in half": (STATE, edit_bytes(lambda data: data[: len(data) // 2])),
    "state with a bit flipped": (STATE, flip(0.8)),
    "state without a parameter": (STATE, edit_tensors(wte__weight=None)),
    "state without an average": (STATE, edit_tensors(**{"exp_avg.wte__weight": None})),
    "state without its step": (STATE, edit_tensors()),
    "state gone": (STATE, lambda path: path.unlink()),
    "train.json not JSON": ("train.json", edit_bytes(lambda data: data[:100])),
    "train.json a list": ("train.json", edit_bytes(lambda data: b"[]")),
    "train.json without its data": ("train.json", edit_json(lambda t: t.pop("data"))),
    "train.json with a number for its files": ("train.json", edit_json(lambda t: t["data"].update(files=3))),
    "train.json with numbers for its files": ("train.json", edit_json(lambda t: t["data"].update(files=[3]))),
    "train.json without its model": ("train.json", edit_json(lambda t: t.pop("model"))),
    "train.json with an unknown key": ("train.json", edit_json(lambda t: t["train"].update(max_stps=3))),
    "train.json with a wrong type": ("train.json", edit_json(lambda t: t["train"].update(batch_size="2"))),
    "train.json with another text": ("train.json", edit_json(lambda t: t["data"].update(sha256="0"))),
    "tokenizer of another kind than trained": (TOKENIZER, vocabulary_of_bytes),
}


@pytest.mark.parametrize("damage", SAVED)
def test_a_run_that_cannot_go_on_is_refused_and_stays_as_it_is(capsys, here, damage):
    name, edit = SAVED[damage]
    edit(here / "r" / name)
    refused(capsys, here, ["train", "--resume", "--out", "r", "--max-steps", "5"], "r")


@pytest.mark.parametrize("line", ["sample r --last", "eval r --data a.txt --last"])
@pytest.mark.parametrize("damage", [name for name in SAVED if name.startswith("state") and "average" not in name])
def test_a_last_model_that_is_damaged_is_refused(capsys, here, damage, line):
    name, edit = SAVED[damage]
    edit(here / "r" / name)
    refused(capsys, here, line.split(), STATE)


class Payload:
    def __reduce__(self):
        return open, ("opened", "w")


@pytest.mark.parametrize("line", [*COMMANDS, "info r"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", MODEL])
def test_a_pickle_is_never_opened(capsys, here, name, line):
    (here / "r" / MODEL).unlink()
    (here / "r" / name).write_bytes(pickle.dumps(Payload()))
    refused(capsys, here, line.split(), "pickle" if name != MODEL else MODEL)
    assert not (here / "opened").exists()
