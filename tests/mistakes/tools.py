"""What the tests of mistakes share: texts, settings, modules, and how a refusal looks."""

from tests.test_cli import command

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --n-positions 8 --batch-size 2 --max-steps 2 --eval-batches 1 --threads 1"
FINETUNE = "--max-steps 2 --batch-size 2 --eval-batches 1 --threads 1"
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
    "wrong": "make_args = lambda: np.ones(3)\nbackward = lambda dout, x: 3 * x * dout",
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
