"""The rules that hold the house up, read from the code: layering, twins, lazy imports, files that stay small."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import npgpt
from npgpt import layers
from npgpt.cases import CASES

ROOT = Path(npgpt.__file__).parent
CORE = {"numpy", "numba", "regex"}

# what each part may import: (outside the standard library, inside npgpt)
ALLOWED = {
    "layers": ({"numpy"}, {"layers"}),
    # matplotlib for pictures, pytest in the plugin: both only where they are asked for, as a test below holds
    "gradcheck": ({"numpy", "matplotlib", "pytest"}, {"gradcheck"}),
    "tokenizer": (CORE, {"tokenizer", "files", "jit"}),
    "jit.py": (CORE | {"llvmlite"}, set()),  # llvmlite comes with numba, and knows the CPU
    "config.py": (set(), set()),
    "files.py": (set(), set()),
    "parameters.py": (CORE, {"config"}),
    "kernels": (CORE, {"kernels", "buffers", "jit"}),
    "buffers.py": ({"numpy"}, set()),
    "ops.py": (CORE, {"layers", "kernels", "optim"}),
    "model.py": (CORE, {"config", "ops", "parameters", "pretrained"}),
    "lora.py": (CORE, {"config", "layers", "model", "parameters"}),
    "optim.py": (CORE, {"parameters"}),
    "sampling.py": (CORE, {"model"}),
    "evaluate.py": (CORE, {"data", "model"}),
    "data": (CORE, {"config", "data", "files", "tokenizer"}),
    "cases.py": (CORE, {"config", "model", "ops", "parameters"}),
    "pretrained.py": (
        CORE | {"safetensors", "huggingface_hub"},
        {"config", "files", "model", "ops", "parameters"},
    ),
    "adapters.py": (CORE, {"files", "lora", "model", "parameters", "pretrained"}),
    "answering.py": (CORE, {"model", "sampling", "tokenizer"}),
    "checkpoint.py": (CORE, {"files", "model", "optim", "parameters", "pretrained"}),
    "train.py": (
        CORE,
        {"checkpoint", "config", "data", "evaluate", "lora", "model", "optim", "parallel"},
    ),
    "parallel.py": (CORE | {"threadpoolctl"}, {"buffers", "model", "optim", "parameters"}),
}
FREE = {"__init__.py", "__main__.py", "cli"}  # the only ones that print


def imports(path):
    """Return the top-level names that a file imports, wherever in it: outside the standard library, inside npgpt."""
    outside, inside = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "npgpt":
                names = [f"npgpt.{alias.name}" for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top == "npgpt":
                inside.add(rest[0] if rest else "npgpt")
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return outside, inside


def parts():
    return sorted(path.name for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def test_every_part_has_a_rule():
    assert set(parts()) == set(ALLOWED) | FREE


@pytest.mark.parametrize("part", ALLOWED)
def test_layering(part):
    path = ROOT / part
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        outside, inside = imports(file)
        assert outside <= ALLOWED[part][0], file
        assert inside <= ALLOWED[part][1], file


@pytest.mark.parametrize("part", ALLOWED)
def test_only_the_command_line_prints(part):
    path = ROOT / part
    for file in [path] if path.is_file() else path.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], file


def test_files_stay_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path): n for path, n in lengths.items() if n > 400} == {}


LAYER_FILES = sorted(path.stem for path in (ROOT / "layers").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", LAYER_FILES)
def test_a_layer_file_is_a_forward_above_its_backward(name):
    tree = ast.parse((ROOT / "layers" / f"{name}.py").read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions == [f"{name}_forward", f"{name}_backward"]
    for function in functions:
        assert function in layers.__all__
        assert inspect.getdoc(getattr(layers, function))


@pytest.mark.parametrize("name", LAYER_FILES)
def test_every_layer_has_a_case(name):
    assert name in {case.layer for case in CASES}


def test_backward_takes_dout_and_cache():
    for name in LAYER_FILES:
        first, second, *others = inspect.signature(getattr(layers, f"{name}_backward")).parameters.values()
        assert [first.name, second.name] == ["dout", "cache"], name
        forward = inspect.signature(getattr(layers, f"{name}_forward")).parameters
        for place in others:  # where the gradient of a parameter goes
            assert place.default is None
            assert place.name.removeprefix("d") in forward


def test_public_names_are_there_and_lazy():
    script = (
        "import sys, npgpt; assert 'numpy' not in sys.modules; "
        "assert all(getattr(npgpt, name) is not None for name in npgpt.__all__); "
        "assert set(npgpt.__all__) <= set(dir(npgpt))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        npgpt.nothing  # noqa: B018, the access is the test


def test_no_module_hides_a_public_name():
    """Importing npgpt.x makes x an attribute of npgpt: a module may not bear a public function's name."""
    assert not set(npgpt.__all__) & {path.stem for path in ROOT.iterdir()}


def test_the_checker_needs_numpy_alone():
    script = (
        "import sys, npgpt.gradcheck\n"
        "assert not {'matplotlib', 'pytest', 'torch', 'jax', 'numba', 'npgpt.layers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_imports_nothing_heavy():
    script = (
        "import sys, contextlib, io\nfrom npgpt.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "assert not {'numpy', 'numba', 'safetensors', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_only_a_bpe_that_is_used_imports_numba():
    script = (
        "import sys\nfrom npgpt import Tokenizer\nfrom npgpt.data import make_tokenizer\n"
        "tokenizer = make_tokenizer('bytes', [])\ntokenizer.decode(tokenizer.encode('a'))\n"
        "assert not {'numba', 'npgpt.tokenizer.fast'} & set(sys.modules)\n"
        "Tokenizer.train(['a'], 257).encode('a')\nassert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_is_ever_unpickled():
    for path in ROOT.rglob("*.py"):
        outside_names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not outside_names & {"pickle", "marshal", "shelve", "dill", "joblib"}, path
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert "np.load(" not in text, path
