"""What a user can get wrong: each is one line on standard error, exit code 2, and nothing is changed or left behind."""

import json
import pickle
import shutil
import struct
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt.cli import main
from npgpt.training.checkpoint import STATE
from tests.test_cli import command

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --n-positions 8 --batch-size 2 --max-steps 2 --eval-batches 1 --threads 1"
CONFIGS = {
    "unknown.toml": "max_stps = 3\n",
    "dashed.toml": "learning-rat = 0.1\n",
    "table.toml": "[train]\nmax_steps = 3\n",
    "type.toml": 'max_steps = "ten"\n',
    "float.toml": "max_steps = 10.5\n",
    "bool.toml": "bias = 1\n",
    "dropout.toml": 'dropout = "much"\n',
    "preset.toml": "preset = 3\n",
    "data.toml": "data = [1, 2]\n",
    "broken.toml": "max_steps = = 3\n",
    "twice.toml": "max-steps = 1\nmax_steps = 2\n",
    "latin.toml": b"# \xff\nmax_steps = 3\n",
}
MODULES = {
    "whole": "make_args = lambda: np.ones(3)",
    "no_args": "",
    "bad_args": "def make_args():\n    raise RuntimeError('boom')",
    "bad_forward": "make_args = lambda: np.ones(3)\ndef forward(x):\n    return x @ np.ones((2, 2)), x",
    "deep_forward": "make_args = lambda: np.ones(3)\ndef forward(x):\n    return np.linalg.inv(x), x",
    "alone": "make_args = lambda: np.ones(3)\ndef forward(x):\n    return x",
    "ints": "make_args = lambda: np.arange(3)",
    "count": "make_args = lambda: (np.ones(3), np.ones(3))\nforward = lambda x, y: (x * y, x)\n"
    "backward = lambda dout, x: (dout, dout, dout)",
    "broken": "def forward(x:",
    "missing_import": "import no_such_module_of_mine",
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder as a user might have it: texts, settings, modules, and a run called r."""
    folder = tmp_path_factory.mktemp("pristine")
    files = {
        "a.txt": TEXT,
        "b.txt": TEXT.upper(),
        "empty.txt": b"",
        "bom.txt": b"\xef\xbb\xbf",
        "short.txt": "abcdefgh",
        "one.txt": "t",
        "latin.txt": b"caf\xe9 au lait " * 20,
        "half.txt": "中".encode()[:2],
        "unknown.txt": "the 中 fox",
        **CONFIGS,
    }
    for name, code in MODULES.items():
        files[f"{name}.py"] = (
            "import numpy as np\nforward = lambda x: (x**2, x)\nbackward = lambda dout, x: 2 * x * dout\n" + code
        )
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--out", "r", "--sample-tokens", "0", *TINY.split()]) == 0
        assert main(["prepare", "a.txt", "--out", "p", "--tokenizer", "bpe:270"]) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    """A copy of that folder as the current one; nothing asks the hub, and no module stays imported."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def contents(folder) -> dict:
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def refused(capsys, here, words: list[str], *decisive: str) -> None:
    """Run a command that must be refused in one line that says what matters, and must change nothing."""
    before = contents(here)
    code, _, err = command(capsys, *words)
    assert code == 2, err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("npgpt")
    assert "Traceback" not in err
    for word in decisive:
        assert word in lines[0]
    after = contents(here)
    assert after.keys() == before.keys()
    assert after == before


TRAIN = f"train --data a.txt --out new {TINY}"


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("", ["COMMAND", "--help"]),
        ("trian", ["trian", "train"]),
        ("--frobnicate", ["npgpt"]),
        ("train --max-step 3", ["--max-step", "did you mean '--max-steps'"]),
        ("train --n_layer 3", ["did you mean '--n-layer'"]),
        ("sample r --tempreature 1", ["did you mean '--temperature'"]),
        ("eval r --data a.txt --lst", ["did you mean '--last'"]),
        ("sample r more", ["more"]),
        ("sample", ["RUN"]),
        ("eval r", ["--data"]),
        ("train --data", ["--data"]),
        ("train --max-steps ten", ["--max-steps", "ten"]),
        ("train --max-steps 1.5", ["--max-steps", "1.5"]),
        ("train --learning-rate fast", ["--learning-rate", "fast"]),
        ("train --dtype float16", ["--dtype", "float16", "float32"]),
        ("train --data a.txt --tokenizer words", ["--tokenizer words", "chars", "bpe:SIZE"]),
        ("train --data a.txt --tokenizer char", ["--tokenizer char", "did you mean 'chars'"]),
        ("train --data a.txt --tokenizer bpe", ["--tokenizer bpe", "bpe:4096"]),
        ("train --data a.txt --tokenizer bpe:many", ["--tokenizer bpe:many", "bpe:4096"]),
        ("train --data a.txt --tokenizer bpe:256", ["vocab_size=256 is too small"]),
        ("train --data a.txt --tokenizer folder", ["folder", "tokenizer.json", "no such file"]),
        ("train --data p --tokenizer chars", ["--tokenizer chars", "p is tokenized already"]),
        ("train --data p a.txt", ["p is a folder of npgpt prepare"]),
        ("prepare", ["FILE", "--out"]),
        ("prepare a.txt", ["--out"]),
        ("prepare a.txt nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("prepare folder --out new", ["folder"]),
        ("prepare empty.txt --out new --tokenizer bytes", ["empty.txt", "empty"]),
        ("prepare a.txt bom.txt --out new --tokenizer bytes", ["bom.txt", "empty"]),
        ("prepare latin.txt --out new", ["latin.txt", "0xe9", "offset 3"]),
        ("prepare latin.txt --out new --tokenizer bytes", ["latin.txt", "0xe9", "offset 3"]),
        ("prepare unknown.txt --out new --tokenizer r", ["unknown.txt", "'中'", "position 4"]),
        ("prepare a.txt --out p", ["p already holds"]),
        ("prepare a.txt --out r", ["r already holds"]),
        ("prepare a.txt --out b.txt", ["--out b.txt"]),
        ("prepare a.txt --out= ", ["--out"]),
        ("prepare a.txt --out new --tokenizer bpe:1", ["vocab_size=1 is too small"]),
        ("prepare a.txt --out new --tokenizr bytes", ["did you mean '--tokenizer'"]),
        ("data", ["ACTION"]),
        ("data gte", ["gte", "get"]),
        ("data get", ["NAME"]),
        ("data get shakespear", ["'shakespear'", "did you mean 'shakespeare'"]),
        ("data get shakespeare --out folder", ["--out folder"]),
        ("data get shakespeare --out a.txt", ["--out a.txt already holds something else"]),
        ("tokenizer", ["ACTION"]),
        ("tokenizer trian", ["trian", "train"]),
        ("tokenizer train a.txt", ["--out"]),
        ("tokenizer train --out new", ["FILE"]),
        ("tokenizer train nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("tokenizer train latin.txt --out new", ["latin.txt", "offset 3"]),
        ("tokenizer train a.txt --out r", ["r already holds a tokenizer"]),
        ("tokenizer train a.txt --out b.txt", ["--out b.txt"]),
        ("tokenizer train a.txt --out new --vocab-size 100", ["vocab_size=100 is too small"]),
        ("tokenizer train a.txt --out new --vocab-size many", ["--vocab-size", "many"]),
        ("tokenizer train a.txt --out new --pattern (", ["the pattern '('", "gpt2, gpt4, chinese"]),
        ("tokenizer train a.txt --out new --special x x", ["a special token stands twice"]),
        ("tokenizer encode nosuch a", ["nosuch: no such folder"]),
        ("tokenizer encode folder a", ["folder", "tokenizer.json"]),
        ("tokenizer encode r 中", ["'中'", "U+4E2D"]),
        ("tokenizer encode r a --special", ["--special", "chars"]),
        ("tokenizer decode r 1 x", ["'x' is not an id"]),
        ("tokenizer decode p 99999", ["id 99999 is outside the vocabulary"]),
        ("tokenizer decode p -1", ["-1"]),
        ("tokenizer show r", ["TEXT"]),
        ("tokenizer show nosuch a", ["nosuch"]),
        ("tokenizer stats r nosuch.txt", ["nosuch.txt"]),
        ("tokenizer stats r unknown.txt", ["unknown.txt", "'中'"]),
        ("tokenizer stats r empty.txt", ["empty.txt", "empty"]),
        ("tokenizer stats p latin.txt", ["latin.txt", "offset 3"]),
        (f"{TRAIN} --max-steps 0", ["max_steps", "0"]),
        (f"{TRAIN} --max-steps -3", ["max_steps", "-3"]),
        (f"{TRAIN} --n-head 3", ["n_head=3", "n_embd=8"]),
        (f"{TRAIN} --n-head 0", ["n_head=0"]),
        (f"{TRAIN} --n-layer 0", ["n_layer=0"]),
        (f"{TRAIN} --dropout 1.5", ["1.5"]),
        (f"{TRAIN} --seed -1", ["seed=-1"]),
        (f"{TRAIN} --learning-rate nan", ["learning_rate=nan"]),
        (f"{TRAIN} --learning-rate 1e999", ["learning_rate=inf"]),
        (f"{TRAIN} --learning-rate 1e-5", ["min_lr", "learning_rate=1e-05"]),
        (f"{TRAIN} --beta2 1", ["beta2=1.0"]),
        (f"{TRAIN} --vocab-size 5", ["vocab_size=5"]),
        (f"{TRAIN} --n-embd 100000000", ["memory"]),
        (f"{TRAIN} --n-embd 1000000000000", ["memory"]),
        (f"{TRAIN} --preset smal", ["'smal'", "did you mean 'small'"]),
        ("train --data nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("train --data a.txt nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("train --data folder --out new", ["folder"]),
        ("train --data empty.txt --out new", ["empty.txt", "empty"]),
        ("train --data bom.txt --out new", ["bom.txt", "empty"]),
        ("train --data short.txt --out new", ["too short", "n_positions=64"]),
        (f"train --data short.txt --out new {TINY}", ["too short", "n_positions=8"]),
        ("train --data latin.txt --out new", ["latin.txt", "UTF-8", "0xe9", "offset 3"]),
        ("train --data half.txt --out new", ["half.txt", "UTF-8", "offset 0"]),
        (f"train --data a.txt --out r {TINY}", ["r already holds a run", "--resume"]),
        (f"train --data a.txt --out b.txt {TINY}", ["b.txt is a file"]),
        (f"train --data a.txt --out b.txt/new {TINY}", ["b.txt"]),
        (f"train --data a.txt --out= {TINY}", ["--out"]),
        ("train --resume", ["--out"]),
        ("train --resume --out nosuch", ["nosuch is not a run folder"]),
        ("train --resume --out folder", ["folder is not a run folder"]),
        ("train --resume --out b.txt", ["b.txt is not a run folder"]),
        ("train --resume --out r --data b.txt", ["text", "r"]),
        ("train --resume --out r --data a.txt b.txt", ["text", "r"]),
        ("train --resume --out r --n-embd 16", ["n_embd", "8", "16"]),
        ("train --resume --out r --n-layer 2", ["n_layer", "1", "2"]),
        ("train --resume --out r --no-bias", ["bias"]),
        ("train --resume --out r --dropout 0.1", ["pdrop"]),
        ("train --resume --out r --preset small", ["small"]),
        ("train --resume --out r --tokenizer bytes", ["tokenizer", "chars"]),
        ("train --resume --out r --dtype float64", ["dtype", "float32"]),
        ("train --resume --out r --max-steps 1", ["max_steps"]),
        ("train --config nosuch.toml", ["nosuch.toml", "no such file"]),
        ("train --config folder", ["folder"]),
        ("train --config unknown.toml", ["unknown.toml", "max_stps", "did you mean 'max_steps'"]),
        ("train --config dashed.toml", ["dashed.toml", "did you mean 'learning_rate'"]),
        ("train --config table.toml", ["table.toml", "train"]),
        ("train --config type.toml --data a.txt", ["max_steps='ten'", "int"]),
        ("train --config float.toml --data a.txt", ["max_steps=10.5", "int"]),
        ("train --config bool.toml --data a.txt", ["bias=1", "bool"]),
        ("train --config dropout.toml --data a.txt", ["dropout='much'", "float"]),
        ("train --config preset.toml", ["preset=3"]),
        ("train --config data.toml", ["data=[1, 2]"]),
        ("train --config broken.toml", ["broken.toml", "line 1"]),
        ("train --config latin.toml", ["latin.toml"]),
        ("train --config twice.toml", ["twice.toml", "max_steps"]),
        ("sample nosuch", ["nosuch", "no such folder"]),
        ("sample runs/7", ["runs/7", "no such folder"]),
        ("sample a.txt", ["a.txt"]),
        ("sample folder", ["folder is not a run folder"]),
        ("sample folder --last", ["folder"]),
        ("sample nosuch --last", ["nosuch"]),
        ("sample r --prompt 中", ["'中'", "U+4E2D", "position 0"]),
        ("sample r --prompt=", ["--prompt", "empty"]),
        ("sample r --prompt the\udcff", ["U+DCFF"]),
        ("sample r --seed -1", ["--seed", "-1"]),
        ("sample r --seed x", ["--seed", "x"]),
        ("sample r --temperature -1", ["temperature=-1"]),
        ("sample r --temperature nan", ["temperature=nan"]),
        ("sample r --temperature inf", ["temperature=inf"]),
        ("sample r --top-p 0", ["top_p=0"]),
        ("sample r --top-p 1.01", ["top_p=1.01"]),
        ("sample r --top-p nan", ["top_p=nan"]),
        ("sample r --top-k 0", ["top_k=0"]),
        ("sample r --max-new-tokens -1", ["max_new_tokens=-1"]),
        ("eval nosuch --data a.txt", ["nosuch"]),
        ("eval r --data nosuch.txt", ["nosuch.txt"]),
        ("eval r --data one.txt", ["1 token"]),
        ("eval r --data empty.txt", ["empty.txt"]),
        ("eval r --data latin.txt", ["latin.txt", "offset 3"]),
        ("eval r --data unknown.txt", ["'中'", "U+4E2D", "position 4"]),
        ("info nosuch", ["nosuch"]),
        ("info folder", ["folder is not a run folder"]),
        ("gradcheck layrnorm", ["layrnorm", "did you mean 'layernorm'"]),
        ("gradcheck linear --seed -1", ["-1"]),
        ("gradcheck linear --ops fats", ["fats", "fast"]),
        ("gradcheck nosuch:forward,backward", ["nosuch"]),
        ("gradcheck a.b.c:forward,backward", ["no module 'a'"]),
        ("gradcheck whole:forward", ["whole:forward", "package.module:forward,backward"]),
        ("gradcheck whole:forward,backward,more", ["package.module:forward,backward"]),
        ("gradcheck whole:forward,", ["package.module:forward,backward"]),
        ("gradcheck :forward,backward", ["package.module:forward,backward"]),
        ("gradcheck whole:", ["package.module:forward,backward"]),
        ("gradcheck ..whole:forward,backward", ["..whole"]),
        ("gradcheck whole:forwrd,backward", ["whole has no function forwrd"]),
        ("gradcheck whole:forward,backwards", ["whole has no function backwards"]),
        ("gradcheck whole:np,backward", ["whole has no function np"]),
        ("gradcheck no_args:forward,backward", ["no_args has no function make_args"]),
        ("gradcheck bad_args:forward,backward", ["RuntimeError", "boom", "bad_args.py:5"]),
        ("gradcheck bad_forward:forward,backward", ["ValueError", "bad_forward.py:6"]),
        ("gradcheck deep_forward:forward,backward", ["LinAlgError", "deep_forward.py:6"]),
        ("gradcheck alone:forward,backward", ["alone:forward,backward", "cache"]),
        ("gradcheck ints:forward,backward", ["no argument is an array of floats"]),
        ("gradcheck count:forward,backward", ["3 gradients", "expected 2"]),
        ("gradcheck broken:forward,backward", ["SyntaxError"]),
        ("gradcheck missing_import:forward,backward", ["no_such_module_of_mine", "missing_import.py:4"]),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",
)
def test_a_mistake_on_the_command_line(capsys, here, line, decisive):
    refused(capsys, here, line.split(), *decisive)


def test_an_out_that_holds_a_file_of_a_run_is_not_touched(capsys, here):
    (here / "new").mkdir()
    (here / "new" / "tokenizer_config.json").write_text("mine")
    refused(capsys, here, TRAIN.split(), "new already holds")


def test_a_text_whose_name_is_not_unicode_leaves_no_run_behind_if_it_is_refused(capsys, here):
    name = "caf\udce9.txt"
    (here / name).write_text(TEXT)
    code, _, err = command(capsys, *TRAIN.replace("a.txt", name).split())
    assert code == 0 or (code == 2 and len(err.splitlines()) == 1 and not (here / "new").exists())


def test_a_batch_that_does_not_fit_into_memory_is_one_line(capsys, here):
    code, _, err = command(capsys, *TRAIN.split(), "--batch-size", "1000000000000000")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "memory" in err


def test_a_users_own_module_is_named_wherever_it_lies(capsys, here, monkeypatch):
    """Also in a folder whose name has npgpt in it."""
    (here / "my-npgpt").mkdir()
    shutil.copy(here / "bad_forward.py", here / "my-npgpt")
    monkeypatch.chdir(here / "my-npgpt")
    refused(capsys, here, ["gradcheck", "bad_forward:forward,backward"], "bad_forward.py:6")


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


@pytest.mark.parametrize(
    ("damage", "line"),
    [(d, c) for d in DAMAGES for c in [*COMMANDS, "info r"] if (DAMAGES[d][0], c) != (TOKENIZER, "info r")],
)
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
