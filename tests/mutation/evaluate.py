"""Find what to mutate, and run the tests against one mutant, each in a process of its own.

A process is forked from one that has imported NumPy, pytest and hypothesis but nothing of npgpt. There an import hook
puts the mutated source in the place of the module's file, and pytest runs in order of promise, up to the first
failure. Nothing is written to the tree, every module that imports the mutated function gets it, and a mutant costs
a third of a second until the first test. What numba would compile runs as plain Python.
"""

import ast
import atexit
import gc
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from tests.mutation.mutate import UNSEEN, Mutant, definitions, mutants, places

MEMORY = 8 << 30  # bytes of address space for a mutant that asks for an array of absurd size


@dataclass(frozen=True)
class Project:
    """What is mutated, and which tests must notice.

    files     patterns of files below root
    tests     patterns of test files below root, those first that fail soonest
    forwards  "file:function" of what is no backward, but makes a gradient: it is mutated, too
    but       names of files that compute nothing: they say where memory begins, or who waits for whom
    without   pairs of regular expressions: for mutants of files that match the first one, tests whose name has a match
              of the second are left out
    """

    root: Path
    files: tuple[str, ...]
    tests: tuple[str, ...]
    forwards: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()

    def sources(self) -> dict[str, str]:
        """Return the text of every file that is mutated, by its path below root."""
        paths = [
            path for pattern in self.files for path in sorted(self.root.glob(pattern)) if path.stem not in self.but
        ]
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    def test_files(self) -> list[str]:
        return list(dict.fromkeys(str(path) for p in self.tests for path in sorted(self.root.glob(p))))

    def left_out(self, file: str) -> re.Pattern:
        """Return what matches the names of the tests that are not run against the mutants of a file."""
        return re.compile("|".join(tests for files, tests in self.without if re.match(files, file)) or "(?!)")

    def mutants(self, forward: bool = False) -> list[Mutant]:
        """Return the mutants of what makes gradients and what it uses of the same files; with forward, of X_forward."""
        sources = self.sources()
        backward = r".*_(forward|backward)" if forward else r".*_backward"
        chosen = used(sources, "|".join([rf".*:{backward}", *map(re.escape, self.forwards)]), forward)
        return [m for file, source in sources.items() for m in mutants(source, file, chosen[file])]


def used(sources: dict[str, str], pattern: str, forward: bool) -> dict[str, set[str]]:
    """Return the functions and constants whose file:name matches the pattern or that one of these names, and so on.

    A forward that does not match but is named by one that does is left out unless forwards are wanted.
    """
    trees = {file: ast.parse(source) for file, source in sources.items()}
    found = {file: definitions(tree) for file, tree in trees.items()}
    imported: dict[str, dict[str, tuple[str, str]]] = {file: {} for file in trees}
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                origin = node.module.replace(".", "/") + ".py"
                imported[file] |= {a.asname or a.name: (origin, a.name) for a in node.names}
    chosen: dict[str, set[str]] = {file: set() for file in trees}
    roots = {(file, name) for file, names in found.items() for name in names if re.fullmatch(pattern, f"{file}:{name}")}
    queue = list(roots)
    while queue:
        file, name = queue.pop()
        if name in UNSEEN or name in chosen.get(file, ()) or name not in found.get(file, ()):
            continue
        if name.endswith("_forward") and not forward and (file, name) not in roots:
            continue
        chosen[file].add(name)
        for node in places(found[file][name]):
            if isinstance(node, ast.Name):
                queue.append(imported[file].get(node.id, (file, node.id)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # common.f
                folder, module = imported[file].get(node.value.id, ("", ""))
                queue.append((f"{folder.removesuffix('.py')}/{module}.py", node.attr))
    return chosen


class Loader(importlib.machinery.SourceFileLoader):
    """Load a module from its mutated source instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source, self.loaded = source, False

    def get_code(self, fullname: str) -> CodeType:
        self.loaded = True
        return compile(self.source, self.path, "exec", dont_inherit=True)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )


class Order:
    """A pytest plugin: the mutated file's own tests first, those left out not at all; remembers what failed."""

    def __init__(self, topic: str, left_out: re.Pattern) -> None:
        self.topic, self.left_out, self.failed = topic, left_out, ""

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [item for item in items if not self.left_out.search(item.nodeid)]
        items.sort(key=lambda item: self.topic not in item.nodeid.replace("test_layers.py", ""))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    pytest_collectreport = pytest_runtest_logreport


@dataclass(frozen=True)
class Verdict:
    """survived, killed (by the test or the way it died), or error: the tests could not be run."""

    outcome: str
    by: str = ""
    seconds: float = 0.0


def trial(project: Project, mutant: Mutant, connection: Any) -> None:
    """Run the tests, in a forked process, and send the verdict."""
    import pytest

    os.setsid()  # so that a timeout ends what it has started, too
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(project.root)
    sys.path.insert(0, str(project.root))
    module = mutant.file.removesuffix(".py").replace("/", ".")
    if module in sys.modules:
        connection.send(Verdict("error", f"{module} was imported before it could be mutated"))
        return
    loader = Loader(module, str(project.root / mutant.file), mutant.source)
    sys.meta_path.insert(0, loader)  # a loader that finds itself
    order = Order(Path(mutant.file).stem, project.left_out(mutant.file))
    # no files written; plain asserts, since nobody reads their text
    options = ["-x", "-q", "--tb=no", "--assert=plain", f"--rootdir={project.root}", "-p", "no:cacheprovider"]
    options += ["-p", "no:anyio"]  # a plugin that some environments have, and that costs a third of a second to load
    code = int(pytest.main([*options, *project.test_files()], plugins=[order]))
    if code in (1, 2):  # a test failed, or a test file could not be imported
        verdict = Verdict("killed", order.failed)
    elif code != 0:
        verdict = Verdict("error", f"pytest ended with code {code}")
    elif not loader.loaded:
        verdict = Verdict("error", "the tests passed but never imported the mutated module")
    else:
        verdict = Verdict("survived")
    connection.send(verdict)


def preload(project: Project) -> None:
    """Import what every trial needs, before it is forked."""
    scratch = tempfile.mkdtemp(prefix="npgpt-mutation-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    # One thread a trial. Kernels as plain Python: a compiled one takes seconds to make, and would be kept on disk as
    # what the sound source gives; if something is compiled all the same, it is kept in a folder of our own.
    fixed = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": scratch}
    os.environ |= fixed | {"HYPOTHESIS_PROFILE": "default"}
    for module in ("numpy", "pytest", "hypothesis", "hypothesis.strategies"):
        importlib.import_module(module)
    if any("numba" in source for source in project.sources().values()):
        importlib.import_module("numba").config.reload_config()  # in case that it had been imported before
    if sys.pycache_prefix is None:  # what one trial compiles serves the next, and none writes to the tree
        sys.pycache_prefix, sys.dont_write_bytecode = scratch, False
    gc.freeze()  # what is there by now is never garbage: a trial's collections need not look at it


def evaluate(
    project: Project, chosen: Iterable[Mutant], jobs: int = 2, timeout: float = 600
) -> Iterator[tuple[Mutant, Verdict]]:
    """Yield each mutant with its verdict, as they come in."""
    preload(project)
    context = multiprocessing.get_context("fork")
    waiting = iter(chosen)
    running: dict[Any, tuple[Mutant, Any, float]] = {}  # by the pipe that brings the verdict
    while True:
        for mutant in itertools.islice(waiting, jobs - len(running)):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=trial, args=(project, mutant, sending))
            process.start()
            sending.close()
            running[receiving] = (mutant, process, time.monotonic())
        if not running:
            return
        first = min(start for _, _, start in running.values())
        ready = multiprocessing.connection.wait(list(running), max(0.0, first + timeout - time.monotonic()))
        for receiving in list(running):
            mutant, process, start = running[receiving]
            seconds = time.monotonic() - start
            if receiving in ready:
                try:
                    verdict = receiving.recv()
                except EOFError:
                    process.join()
                    verdict = Verdict("killed", f"crash (exit code {process.exitcode})")
            elif seconds >= timeout:
                verdict = Verdict("killed", "timeout")
            else:
                continue
            end(process)
            receiving.close()
            del running[receiving]
            yield mutant, Verdict(verdict.outcome, verdict.by, seconds)


def end(process: Any) -> None:
    """End a trial and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()
