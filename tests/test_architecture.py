"""The rules that hold the house up, read from the code: layering, twins, lazy imports, files that stay small."""

import ast
import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import npgpt
from npgpt import layers
from npgpt.cases import CASES

ROOT = Path(npgpt.__file__).parent
CORE = {"numpy", "numba", "regex", "scipy"}

# what each room may import, wherever in a file: (outside the standard library, inside npgpt). Nothing may import `cli`.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "support": ({"numpy", "numba", "llvmlite"}, set()),  # llvmlite comes with numba, and knows the CPU
    "config": (set(), {"support"}),
    "layers": ({"numpy"}, set()),
    # llvmlite tells compiled code where BLAS is; of layers, how a number is rounded to bfloat16
    "kernels": ({"numpy", "numba", "llvmlite"}, {"layers", "support"}),
    # matplotlib for pictures, pytest in the plugin: both only where they are asked for, as a test below holds
    "gradcheck": ({"numpy", "matplotlib", "pytest"}, set()),
    # of hub, the folder that a name stands for
    "tokenizer": ({"numpy", "numba", "regex"}, {"config", "hub", "support"}),
    "optim": ({"numpy"}, {"support"}),
    "ops": (set(), {"config", "layers", "kernels", "optim", "support"}),
    # huggingface_hub and gguf are extras, imported where they are used
    # regex, for the patterns of an adapter, which may be meant to hang: it stops after a while
    "hub": ({"numpy", "regex", "safetensors", "huggingface_hub", "gguf"}, {"config", "support"}),
    "data": ({"numpy"}, {"config", "support", "tokenizer"}),
    # of hub, to write and read a model's files; of layers, lora, which has no twin
    "models": ({"numpy"}, {"config", "hub", "layers", "ops", "support"}),
    "cases": ({"numpy"}, {"config", "models", "ops"}),
    "training": (  # of kernels, whether this processor has bfloat16 products
        {"numpy", "threadpoolctl"},
        {"config", "data", "hub", "kernels", "models", "ops", "optim", "support", "tokenizer"},
    ),
    # regex, for text that may yet become a match; llguidance, an extra, for text that must match; of data,
    # templates, as a model has learned to read prompts; of hub, in which folders the files of an adapter are
    "generation": ({"numpy", "regex", "llguidance"}, {"data", "hub", "models", "support", "tokenizer", "training"}),
    # matplotlib where a picture is drawn; of kernels, the clock; training, data and optim for the step to profile
    "inspection": (
        {"numpy", "matplotlib", "threadpoolctl"},
        {"config", "data", "kernels", "models", "ops", "optim", "support", "training"},
    ),
    # npgpt.train brings these together, so that none of them imports another; tqdm because its bar replaces the CLI's
    "notebook": (
        {"tqdm"},
        {"config", "generation", "inspection", "models", "support", "tokenizer", "training"},
    ),
}
# what a room may import for type checkers alone, besides: the type Batch
TYPES = {"models": {"data"}}
FREE = {"__init__", "__main__", "cli"}  # the only ones that print
MODULES = {"__init__", "__main__", "config", "ops", "cases"}  # all that stand in the root


def parsed(path):
    """Return a file's syntax tree, which nobody changes."""
    return tree_of(path.read_text(encoding="utf-8"))


tree_of = functools.cache(ast.parse)


@functools.cache
def nodes_of(text):
    """Return all nodes of a source text."""
    return [*ast.walk(tree_of(text))]


def imports(path, types=True):
    """Return the modules that a file imports, wherever in it: outside the standard library, and inside npgpt.

    types  whether imports for type checkers alone count
    """
    every, for_types = import_nodes(path.read_text(encoding="utf-8"))
    outside, inside = set(), set()
    for node in every if types else every - for_types:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # the checker's own, because it is also installed under a name of its own; they never leave its folder
            assert node.level == 0 or (node.level == 1 and path.parent.name == "gradcheck"), f"{path}: relative import"
            module = ".".join(filter(None, ["npgpt.gradcheck" if node.level else "", node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            if top == "npgpt":
                inside.add(name)
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return outside, inside


@functools.cache
def import_nodes(text):
    """Return the import statements of a source text, and those of them that are for type checkers alone."""
    nodes = nodes_of(text)
    blocks = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {node for block in blocks for part in block.body for node in ast.walk(part)}
    return {node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)}, for_types


def rooms(root=ROOT):
    found = [path for path in root.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem: sorted(path.rglob("*.py")) if path.is_dir() else [path] for path in sorted(found)}


def target_rooms(names):
    """Return the rooms that modules are in; `import npgpt` by itself is the root, which nobody may import."""
    return {[*name.split("."), "npgpt"][1] for name in names}


def wrong_arrows(root=ROOT):
    """Return what is imported and may not be, a line each."""
    found = []
    for room, files in rooms(root).items():
        if room in FREE:
            continue
        for file in files:
            outside, inside = imports(file, types=False)
            types = imports(file)[1]
            allowed = ALLOWED[room][1] | {room}
            wrong = outside - ALLOWED[room][0]
            wrong |= target_rooms(inside) - allowed
            wrong |= target_rooms(types) - allowed - TYPES.get(room, set())
            found += [f"{file.relative_to(root)} imports {name}" for name in sorted(wrong)]
    return found


def circles(arrows):
    """Return the names that lie on a circle of arrows {name: names}: what reaches itself."""
    reach = {name: set(targets) for name, targets in arrows.items()}
    for middle in reach:
        for name in reach:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return sorted(name for name in reach if name in reach[name])


def file_arrows(root=ROOT):
    """Return {module: modules of npgpt that it imports}, packages among them, but not what type checkers import."""
    modules = {}
    for file in (file for files in rooms(root).values() for file in files):
        parts = file.relative_to(root).with_suffix("").parts
        modules[".".join(("npgpt", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    arrows = {}
    for module, file in modules.items():
        # a.b.c is the module of that name, or c is a name in a.b
        names = {name if name in modules else name.rpartition(".")[0] for name in imports(file, types=False)[1]}
        arrows[module] = names & modules.keys() - {"npgpt"}
    return arrows


def test_every_room_has_a_rule():
    assert set(rooms()) == set(ALLOWED) | FREE


def test_the_root_holds_little():
    assert {path.stem for path in ROOT.glob("*.py")} == MODULES


def test_every_import_is_allowed():
    assert wrong_arrows() == []


def test_no_room_allows_a_circle():
    assert circles({room: inside for room, (_, inside) in ALLOWED.items()}) == []


def test_no_file_is_on_a_circle():
    arrows = file_arrows()
    assert len(arrows) > 100
    assert circles(arrows) == []


def test_an_arrow_that_is_not_allowed_is_found(tmp_path):
    root = tmp_path / "npgpt"
    for name, text in {
        "layers/__init__.py": "",
        "layers/gelu.py": "import numba\nfrom npgpt.support import jit\n",
        "support/__init__.py": "",
        "support/jit.py": "def f():\n    from npgpt.cli import main\n",
        "support/files.py": "import npgpt\n",
        "models/__init__.py": "from npgpt.data import Batch\nif TYPE_CHECKING:\n    from npgpt.data import Text\n",
        "optim/__init__.py": "from npgpt.support import files\n",
        "cli/__init__.py": "from npgpt.layers import gelu\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert wrong_arrows(root) == [
        "layers/gelu.py imports numba",
        "layers/gelu.py imports support",
        "models/__init__.py imports data",
        "support/files.py imports npgpt",
        "support/jit.py imports cli",
    ]


def test_a_circle_is_found(tmp_path):
    root = tmp_path / "npgpt"
    (root / "hub").mkdir(parents=True)
    (root / "hub" / "__init__.py").write_text("")
    (root / "hub" / "one.py").write_text("from npgpt.hub import two\n")
    (root / "hub" / "two.py").write_text("def f():\n    from npgpt.hub.three import g\n")
    (root / "hub" / "three.py").write_text("from npgpt.hub.one import f\n")
    (root / "hub" / "four.py").write_text("from npgpt.hub.one import f\n")
    assert circles(file_arrows(root)) == ["npgpt.hub.one", "npgpt.hub.three", "npgpt.hub.two"]
    (root / "hub" / "three.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import npgpt.hub.one\n"
    )
    assert circles(file_arrows(root)) == []
    (root / "hub" / "__init__.py").write_text("from npgpt.hub.four import g\n")
    (root / "hub" / "four.py").write_text("from npgpt.hub import f\n")
    assert circles(file_arrows(root)) == ["npgpt.hub", "npgpt.hub.four"]


def test_only_the_command_line_prints():
    for room, files in rooms().items():
        for file in files if room not in FREE else ():
            if file == ROOT / "gradcheck" / "command.py":  # the command of the checker where it is installed by itself
                continue
            tree = parsed(file)
            calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], file


@pytest.mark.parametrize("room", sorted(room for room, files in rooms().items() if len(files) > 1))
def test_every_room_says_what_lives_in_it_and_what_it_imports(room):
    words = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
    assert re.search("^Imports", words, re.MULTILINE)
    for other in ALLOWED[room][1] if room in ALLOWED else ():
        assert re.search(rf"\b{other}\b", words), other


@pytest.mark.parametrize("room", ["training", "generation", "inspection", "notebook", "cli"])
def test_who_trains_and_writes_names_no_class_of_a_model(room):
    """Of models a room takes the protocol, the registry, taps, and adapters, which say what they adapt."""
    for file in rooms()[room]:
        names = {name for name in imports(file)[1] if name.startswith("npgpt.models.")}
        assert {name.split(".")[2] for name in names} <= {"base", "registry", "taps", "lora"}, file
        assert "GPT" not in {name.split(".")[-1] for name in imports(file)[1]}, file


def test_files_stay_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path): n for path, n in lengths.items() if n > 400} == {}


BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


def branches(function):
    """Return how many ways to go on a function has beside the straight one."""
    nodes = list(ast.walk(function))
    operators = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return sum(isinstance(node, BRANCHES) for node in nodes) + operators


def test_functions_do_one_thing():
    """No function is longer than 60 lines or has more than 15 branches, unless its docstring says why."""
    found = {}
    for path in ROOT.rglob("*.py"):
        for node in nodes_of(path.read_text(encoding="utf-8")):
            if isinstance(node, ast.FunctionDef):
                lines, n = node.end_lineno - node.lineno + 1, branches(node)
                if (lines > 60 or n > 15) and "one long function" not in (ast.get_docstring(node) or ""):
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = lines, n
    assert found == {}


# bf16 computes three layers with rounded operands; weights of int8 are not trained, so their product has no backward;
# distributions, lengths and recurrence hold what several layers share
NO_LAYERS = {"__init__", "bf16", "distributions", "int8", "lengths", "recurrence"}
LAYER_FILES = sorted({path.stem for path in (ROOT / "layers").glob("*.py")} - NO_LAYERS)


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
            if (name, place.name) == ("kl", "with_teacher"):  # whether a gradient is computed
                continue
            assert place.default is None
            # or the gradient of another result than out
            assert place.name.removeprefix("d") in forward or (name, place.name) == ("lstm", "dc_n")


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
    """But numba's compiled code, which has no other form, from a private folder and after its checksum."""
    for path in set(ROOT.rglob("*.py")) - {ROOT / "support" / "compiled.py"}:
        outside_names = {
            alias.name
            for node in nodes_of(path.read_text(encoding="utf-8"))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not outside_names & {"pickle", "marshal", "shelve", "dill", "joblib"}, path
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert "np.load(" not in text, path
