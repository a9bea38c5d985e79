"""What README and docs show is what happens: snippets, scripts, the tree, the links, the commands."""

import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import mostly_big
from tests.test_architecture import ALLOWED

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")])
SCRIPTS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("docs/layers/*.py")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```(?:\n```\n(.*?)```)?", README, re.DOTALL)


def run(*args, cwd):
    result = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, capture_output=True, encoding="utf-8", env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"}


def unrounded(text):
    """Blank out the errors of numerical derivatives: they are roundings, and the machine's."""
    return re.sub(r"\d(\.\d)?e-1\d|0\.0e\+00 ", "rounding", re.sub(" +", " ", text))


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet(number, tmp_path):
    code, shown = SNIPPETS[number]
    printed = run("-c", code, cwd=tmp_path)
    if shown:
        assert unrounded(printed) == unrounded(shown)


def test_the_first_snippet_is_ten_lines():
    assert len(SNIPPETS[0][0].strip().splitlines()) <= 10
    assert SNIPPETS[0][1]


@pytest.fixture(scope="module")
def printed_by(tmp_path_factory):
    """Return a function that runs a script, once for all tests, and returns what it prints."""
    return functools.cache(lambda script: run(script, cwd=tmp_path_factory.mktemp(script.stem)))


# the generators differ by the name of an encoder
SIMILAR = {"generate_with_gru.py", "generate_with_lstm.py"}


@pytest.mark.parametrize(
    "script", mostly_big(SCRIPTS, lambda path: path.name not in SIMILAR), ids=lambda path: path.name
)
def test_script(script, printed_by):
    printed = printed_by(script)
    assert printed
    page = script.with_suffix(".md")
    if page.exists():  # it quotes the numbers
        assert f"```\n{printed}```" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_examples_are_short(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_trained_example_knows_its_text(printed_by):
    printed = printed_by(ROOT / "examples" / "train_on_a_string.py")
    assert "红豆生南国，春来发几枝。" in printed


def test_the_example_with_a_slip_finds_it(printed_by):
    slip, right = printed_by(ROOT / "examples" / "check_a_gradient.py").split("rmsnorm_backward:")
    assert re.search(r"^x +4x3 +fail ", slip, re.MULTILINE)
    assert re.search(r"^weight +3 +pass ", slip, re.MULTILINE)
    assert re.search(r"^x +4x3 +pass ", right, re.MULTILINE)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_slip_in_the_picture_is_in_the_keys_alone():
    report = load(ROOT / "docs" / "pictures.py").check()
    assert report.verdict == "fail"
    worst = report.arguments[0].difference.max(axis=0)  # by column: queries, keys, values
    assert worst[8:16].min() > 0.1
    assert worst[[*range(8), *range(16, 24)]].max() < 1e-8


def test_the_pictures_can_be_drawn_again(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.5}, {"step": 2, "val_loss": 1.6}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    load(ROOT / "docs" / "pictures.py").draw(tmp_path, tmp_path)
    for name in ("loss.png", "gradcheck.png"):
        for folder in (tmp_path, ROOT / "docs" / "pictures"):
            content = (folder / name).read_bytes()
            assert content.startswith(b"\x89PNG")
            assert len(content) < 100_000


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


FOLDED = {"cli", "gradcheck", "tokenizer", "data/tales"}  # a line each in the tree: their files are not listed


def listed(tree):
    """Return the paths that a tree lists below its first line: folders, and modules, of which a line may name several.

    >>> listed("npgpt/\\n  hub/    files\\n    gpt2.py  peft.py")
    ["hub", "hub/gpt2.py", "hub/peft.py"]
    """
    found, above = [], []
    for line in tree.strip().splitlines()[1:]:
        indent, names = re.match(r"( *)((?:\w+(?:\.py|/) *)*)", line).groups()
        above = above[: len(indent) // 2 - 1]
        for name in names.split():
            found.append("/".join([*above, name.rstrip("/")]))
        above.append(name.rstrip("/"))
    return found


def modules_and_folders(package):
    """Return the paths in a package that its tree must list."""
    files = {path.relative_to(package) for path in package.rglob("*.py")}
    folders = {path.parent.as_posix() for path in files} - {"."}
    folded = {folder for folder in folders for top in FOLDED if f"{folder}/".startswith(f"{top}/")}
    modules = {
        path.as_posix()
        for path in files
        if path.parent.as_posix() not in folded and (path.name != "__init__.py" or len(path.parts) == 1)
    }
    return modules | folders - (folded - FOLDED)


def test_the_tree_is_true():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = listed(page.split("## The tree")[1].split("```")[1])
    assert len(found) == len(set(found))
    there = modules_and_folders(ROOT / "npgpt")
    assert there - set(found) == set()
    assert set(found) - there == set()


def test_the_table_of_imports_is_that_of_the_test():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", page.split("## What may import what")[1], re.MULTILINE)
    told = {room: tuple(set(re.findall(r"\w+", cell)) for cell in cells) for room, *cells in rows}
    assert told == ALLOWED


def test_ci_runs_the_readmes_test_command():
    (command,) = [line for line in README.splitlines() if line.endswith("bin/pytest -n 2")]
    assert command.startswith("python3 -m venv .venv && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -m 1 'bin/pytest -n 2$' README.md" in script


def test_the_first_command_needs_no_files():
    (command,) = [line for line in README.splitlines() if line.startswith("python3") and "npgpt train" in line]
    assert "--data" not in command


def test_derivations_quote_the_layers_code():
    for name in ("layernorm", "attention", "gru", "lstm"):
        code = (ROOT / "npgpt" / "layers" / f"{name}.py").read_text(encoding="utf-8")
        page = (ROOT / "docs" / "layers" / f"{name}.md").read_text(encoding="utf-8")
        quoted = page.split("## The result in NumPy")[1].split("```python\n")[1].split("```")[0]
        for line in quoted.splitlines():
            assert line.strip() in code, line
