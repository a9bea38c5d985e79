"""Make mutants of a function: copies of its source with one slip in each.

>>> for mutant in mutants(source, "npgpt/layers/linear.py", ["linear_backward"]):
...     print(mutant)    # npgpt/layers/linear.py:33 linear_backward call: weight.T -> weight
"""

import ast
import difflib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.mutation.operators import OPERATORS, TABLES, Node, Scope, number

# calls that measure time, or where threads wait for each other: no test can be sure to see a slip in them
UNSEEN = {"lap", "start", "wait"}
UNBRACKETED = ast.stmt | ast.Name | ast.Constant | ast.Call | ast.Subscript | ast.Attribute | ast.Tuple


@dataclass(frozen=True)
class Mutant:
    """One change in one place. `key` names it by what it changes, and survives when lines move."""

    file: str
    function: str
    line: int
    column: int
    kind: str
    original: str
    mutated: str
    occurrence: int  # counts the same change in the same function, from 1
    before: str = field(repr=False)  # the module's source
    source: str = field(repr=False)  # the mutated module's source

    @property
    def at(self) -> str:
        return f"{self.file}:{self.function}"

    @property
    def key(self) -> str:
        number = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.kind}: {self.original} -> {self.mutated}{number}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.function} {self.key}"

    def diff(self) -> str:
        lines = difflib.unified_diff(self.before.splitlines(), self.source.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


def unchanged(source: str, file: str) -> Mutant:
    """Return the module as it is, as a mutant."""
    return Mutant(file, "", 0, 0, "", "", "", 1, source, source)


def places(node: Node) -> Iterator[Node]:
    """Yield what can be changed: not docstrings, annotations, signatures, error texts, f-strings or what is UNSEEN."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.arguments):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in UNSEEN:
        return
    yield node
    if number(node) is not None:
        return
    for part, value in ast.iter_fields(node):
        if part not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from places(child)


def definitions(tree: ast.Module) -> dict[str, Node]:
    """Return the functions and the constants of a module, by name."""
    found: dict[str, Node] = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return found


def mutants(source: str, file: str, functions: Iterable[str]) -> list[Mutant]:
    """Return the mutants of these functions and constants of a module, in the order of their lines.

    Two changes that give the same program count once.
    """
    tree = ast.parse(source)
    imports = [alias for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names]
    modules = TABLES | {(alias.asname or alias.name).split(".")[0] for alias in imports}
    whole = source.encode()  # ast counts columns in bytes
    starts = [0, *itertools.accumulate(map(len, whole.splitlines(keepends=True)))]
    found = []
    for function, definition in definitions(tree).items():
        if function not in functions:
            continue
        first, last = starts[definition.lineno - 1], starts[definition.end_lineno]
        programs, counts = {ast.dump(ast.parse(whole[first:last]))}, Counter[tuple]()
        scope = Scope(bound(definition), modules)
        for place, operator in itertools.product(places(definition), OPERATORS):
            for old, new in operator(place, scope):
                text = ast.unparse(new)
                inserted = text if isinstance(new, UNBRACKETED) else f"({text})"
                start = starts[old.lineno - 1] + old.col_offset
                end = starts[old.end_lineno - 1] + old.end_col_offset
                head, tail = whole[:start] + inserted.encode(), whole[end:]
                program = ast.dump(ast.parse(head[first:] + tail[: last - end]))
                if program in programs:
                    continue
                programs.add(program)
                key = (operator.__name__, ast.unparse(old), text)
                counts[key] += 1
                where = (file, function, old.lineno, old.col_offset)
                found.append(Mutant(*where, *key, counts[key], source, (head + tail).decode()))
    return sorted(found, key=lambda m: (m.line, m.column))


def bound(definition: Node) -> dict[str, int]:
    """Return the names that a function binds, and the line that first does."""
    lines = {node.arg: definition.lineno for node in ast.walk(definition) if isinstance(node, ast.arg)}
    stored = [n for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return {n.id: n.lineno for n in sorted(stored, key=lambda n: -n.lineno)} | lines
