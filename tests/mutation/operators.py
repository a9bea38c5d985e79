"""The slips: each operator takes a node of a syntax tree and yields what someone might have written instead.

An operator's name is the kind of its mutants; its docstring says what it changes.
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Node = Any  # an ast.AST, whose fields depend on its kind
Change = tuple[Node, Node]  # a node, and what takes its place


@dataclass(frozen=True)
class Scope:
    """What an operator needs to know about the place it changes."""

    bound: dict[str, int]  # the function's own names, and the line that first binds each
    modules: set[str]  # names of what is imported, and of tables of functions: f in np.f(x) is not a method


TABLES = {"ops"}
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
REDUCED = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "argmax": "argmin", "argmin": "argmax"}
TRANSPOSED = {"T", "mT", "transpose", "swapaxes", "moveaxis", "matrix_transpose"}
COMMUTATIVE = {"max", "min", "maximum", "minimum", "add", "multiply", "swapaxes"}
SCATTERED = {"add": ast.Add, "subtract": ast.Sub, "multiply": ast.Mult}


def changed(node: Node, **fields: object) -> Node:
    """Return a copy of a node with other fields."""
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def number(node: Node) -> int | float | None:
    """Return the value of a number, with its minus; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    plain = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return node.value if plain else None


def literal(value: int | float) -> Node:
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def negative(node: Node) -> Node:
    return ast.UnaryOp(ast.USub(), node)


def name_of(node: Node) -> str:
    """Return the last part of a called name: sum in np.sum(x), x.sum() and sum(x)."""
    func = node.func if isinstance(node, ast.Call) else node
    return getattr(func, "attr", getattr(func, "id", ""))


def receiver(node: ast.Call, scope: Scope) -> Node | None:
    """Return x of the method call x.f(...), None for a function f(x) or np.f(x)."""
    if not isinstance(node.func, ast.Attribute):
        return None
    root = node.func.value
    while isinstance(root, ast.Attribute):
        root = root.value
    return None if isinstance(root, ast.Name) and root.id in scope.modules else node.func.value


def neighbours(items: list) -> Iterator[list]:
    """Yield the list with two neighbours swapped, for each pair that is not alike."""
    for i in range(len(items) - 1):
        if ast.dump(items[i]) != ast.dump(items[i + 1]):
            yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def results(node: Node) -> Iterator[Node]:
    """Yield what a statement assigns, returns or hands to a call made for its effect, if it holds numbers yet."""
    values: list[Node] = []
    if isinstance(node, ast.Return) and node.value is not None:
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        values = node.value.args
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        values = [] if isinstance(getattr(node, "targets", [None])[0], ast.Tuple) else [node.value]
    kinds = ast.Name | ast.BinOp | ast.Call | ast.Subscript | ast.Attribute | ast.IfExp
    yield from (value for value in values if isinstance(value, kinds) and name_of(value) not in ("empty", "empty_like"))


def arithmetic(node: Node, scope: Scope) -> Iterator[Change]:
    """Take the opposite operator (+ -, * /, // *, % //, << >>, & |, ^ |); raise to one power more."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        if type(node.op) in SWAPPED:
            yield node, changed(node, op=SWAPPED[type(node.op)]())
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and number(node.right) is None:
            yield node.right, ast.BinOp(node.right, ast.Add(), ast.Constant(1))


def matmul(node: Node, scope: Scope) -> Iterator[Change]:
    """Swap the operands of a matrix product, or transpose one; where shapes differ this raises, and is killed."""
    pair: list[Node] = []
    if isinstance(node, ast.Call) and name_of(node) in ("matmul", "dot") and len(node.args) >= 2:
        pair = node.args[:2]  # `arguments` swaps them
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        pair = [node.left, node.right]
        yield node, ast.BinOp(node.right, node.op, node.left)
    for side in pair:
        if name_of(side) not in TRANSPOSED:  # else `transpose` drops that
            yield side, ast.Call(ast.Attribute(side, "swapaxes", ast.Load()), [literal(-1), literal(-2)], [])


def sign(node: Node, scope: Scope) -> Iterator[Change]:
    """Drop a minus; negate a result."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, node.operand
    if not (isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub)):  # `arithmetic` does
        yield from ((value, negative(value)) for value in results(node))


def scale(node: Node, scope: Scope) -> Iterator[Change]:
    """Make a result a thousandth larger: the smallest slip that must not be taken for rounding."""
    yield from ((value, ast.BinOp(value, ast.Mult(), ast.Constant(1.001))) for value in results(node))


def axis(node: Node, scope: Scope) -> Iterator[Change]:
    """Reduce over another axis, over one axis of a tuple less, or over all."""
    if not isinstance(node, ast.Call):
        return
    keyword = next((k for k in node.keywords if k.arg in ("axis", "axes")), None)
    skip = int(receiver(node, scope) is None)  # np.sum(x, 0) or x.sum(0)
    if keyword is not None:
        value = keyword.value
        yield node, changed(node, keywords=[k for k in node.keywords if k is not keyword])
    elif name_of(node) in REDUCED and len(node.args) == skip + 1:
        value = node.args[skip]
        yield node, changed(node, args=node.args[:skip])
    else:
        return
    if isinstance(value, ast.Tuple):
        yield from ((value, changed(value, elts=[e for e in value.elts if e is not one])) for one in value.elts)
    else:
        yield from ((value, literal(other)) for other in (0, -1) if number(value) != other)


def transpose(node: Node, scope: Scope) -> Iterator[Change]:
    """Drop a transpose; `arguments` permutes its axes."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node, node.value
    elif isinstance(node, ast.Call) and name_of(node) in TRANSPOSED:
        yield node, receiver(node, scope) or node.args[0]


def reduction(node: Node, scope: Scope) -> Iterator[Change]:
    """Take mean for sum, sum for mean, max for min, min for max; `call` drops it."""
    if isinstance(node, ast.Call) and name_of(node) in REDUCED:
        other = REDUCED[name_of(node)]
        if isinstance(node.func, ast.Attribute):
            yield node, changed(node, func=changed(node.func, attr=other))
        elif name_of(node) in ("max", "min"):  # Python's own
            yield node, changed(node, func=ast.Name(other, ast.Load()))


def constant(node: Node, scope: Scope) -> Iterator[Change]:
    """Make an integer one larger, and 1 also 0; a float larger by a thousandth, and 0.0 to 1.0; flip a truth value."""
    value = number(node)
    if isinstance(value, int):
        yield from ((node, literal(other)) for other in ((2, 0) if value == 1 else (value + 1,)))
    elif value is not None:
        yield node, literal(value * 1.001 if value else 1.0)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):  # keepdims, too
        yield node, ast.Constant(not node.value)


def drop(node: Node, scope: Scope) -> Iterator[Change]:
    """Drop a term of a sum or a factor of a product, a numerator or a denominator."""
    if isinstance(node, ast.BinOp):
        yield node, node.left
        if isinstance(node.op, ast.Sub):
            yield node, negative(node.right)
        elif isinstance(node.op, ast.Div):
            yield node, ast.BinOp(ast.Constant(1), ast.Div(), node.right)
        elif not isinstance(node.op, ast.FloorDiv | ast.Mod | ast.Pow):
            yield node, node.right


def call(node: Node, scope: Scope) -> Iterator[Change]:
    """Drop a call: f(x) -> x, x.f() -> x; each argument of max and min by itself."""
    if isinstance(node, ast.Call) and name_of(node) not in {"range", "prange", "len"} | TRANSPOSED:
        plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
        method = receiver(node, scope)
        if method is not None:
            yield node, method
        else:
            yield from ((node, arg) for arg in (plain if name_of(node) in COMMUTATIVE else plain[:1]))


def arguments(node: Node, scope: Scope) -> Iterator[Change]:
    """Swap two neighbours: arguments, indices, axes, elements of a tuple, operands of - and /."""
    if isinstance(node, ast.Call) and name_of(node) not in COMMUTATIVE:
        yield from ((node, changed(node, args=args)) for args in neighbours(node.args))
    elif isinstance(node, ast.Tuple | ast.List) and not any(isinstance(e, ast.Slice) for e in node.elts):
        yield from ((node, changed(node, elts=elts)) for elts in neighbours(node.elts))
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):  # with slices in it
        for elts in neighbours(node.slice.elts):
            yield node, changed(node, slice=changed(node.slice, elts=elts))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow):
        yield node, ast.BinOp(node.right, node.op, node.left)


def default(node: Node, scope: Scope) -> Iterator[Change]:
    """Leave out the last argument, or a keyword: a dtype, for example."""
    if isinstance(node, ast.Call):
        if len(node.args) > 1:
            yield node, changed(node, args=node.args[:-1])
        for keyword in node.keywords:
            yield node, changed(node, keywords=[k for k in node.keywords if k is not keyword])


def inplace(node: Node, scope: Scope) -> Iterator[Change]:
    """a = a + b -> a += b, which writes into whatever else bears the name of a."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
        target: Node = node.targets[0]
        if len(node.targets) == 1 and ast.unparse(target) == ast.unparse(node.value.left):
            yield node, ast.AugAssign(target, node.value.op, node.value.right)


def scatter(node: Node, scope: Scope) -> Iterator[Change]:
    """np.add.at(a, i, b) -> a[i] += b, which keeps only the last of the values for one place."""
    effect: Node = getattr(node, "value", None)
    if isinstance(node, ast.Expr) and name_of(effect) == "at":
        ufunc, (array, where, value) = effect.func.value, effect.args
        if name_of(ufunc) in SCATTERED:
            yield node, ast.AugAssign(ast.Subscript(array, where, ast.Store()), SCATTERED[name_of(ufunc)](), value)


def condition(node: Node, scope: Scope) -> Iterator[Change]:
    """Force a condition either way; drop a `not` or one side of `and`, `or`; take the one for the other."""
    if isinstance(node, ast.IfExp):
        yield from ((node, branch) for branch in (node.body, node.orelse))
    elif isinstance(node, ast.If):
        yield from ((node.test, ast.Constant(value)) for value in (True, False))
    elif isinstance(node, ast.While):
        yield node.test, ast.Constant(False)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    elif isinstance(node, ast.BoolOp):
        yield node, changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for one in node.values:
            rest = [value for value in node.values if value is not one]
            yield node, changed(node, values=rest) if len(rest) > 1 else rest[0]


def comparison(node: Node, scope: Scope) -> Iterator[Change]:
    """Move the border of a comparison, and turn it round."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                yield node, changed(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])


def statement(node: Node, scope: Scope) -> Iterator[Change]:
    """Remove a statement that changes part of a result or a name bound before; take = for += and its like."""
    if isinstance(node, ast.AugAssign):
        yield node, ast.Assign([changed(node.target, ctx=ast.Store())], node.value, lineno=0)
    targets = getattr(node, "targets", [])
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    into = any(isinstance(t, ast.Subscript | ast.Attribute) for t in targets)
    again = bool(names) and all(scope.bound.get(name, node.lineno) < node.lineno for name in names)
    effect = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if isinstance(node, ast.AugAssign | ast.Continue | ast.Break) or effect or into or again:
        yield node, ast.Pass()


def index(node: Node, scope: Scope) -> Iterator[Change]:
    """Drop a bound of a slice, or the index: x[i] -> x, and x[i] = y -> x[...] = y."""
    if not isinstance(node, ast.Subscript):
        return
    slices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for i, one in enumerate(slices):
        for bound in ("lower", "upper", "step"):
            if getattr(one, bound, None) is not None:
                wider = [*slices[:i], changed(one, **{bound: None}), *slices[i + 1 :]]
                yield node, changed(node, slice=changed(node.slice, elts=wider) if len(wider) > 1 else wider[0])
    if isinstance(node.ctx, ast.Store):
        yield node, changed(node, slice=ast.Constant(...))
    else:
        yield node, node.value


def loop(node: Node, scope: Scope) -> Iterator[Change]:
    """Leave out the first or the last round of a loop over a range."""
    if isinstance(node, ast.Call) and name_of(node) in ("range", "prange"):
        start, stop, *step = [literal(0), *node.args] if len(node.args) == 1 else node.args
        yield node, changed(node, args=[start, ast.BinOp(stop, ast.Sub(), literal(1)), *step])
        yield node, changed(node, args=[ast.BinOp(start, ast.Add(), literal(1)), stop, *step])


def name(node: Node, scope: Scope) -> Iterator[Change]:
    """Take the name spelt most alike of those bound on a line before: drop_1 for drop_2, dq for dk."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope.bound:
        before = [n for n, line in scope.bound.items() if line < node.lineno and n not in scope.modules | {node.id}]

        def likeness(other: str) -> tuple:
            ratio = difflib.SequenceMatcher(None, node.id, other).ratio()
            return ratio, len(other) == len(node.id), scope.bound[other], other

        if before and node.id not in scope.modules:
            yield node, ast.Name(max(before, key=likeness), node.ctx)


OPERATORS = [
    arithmetic, matmul, sign, scale, axis, transpose, reduction, constant, drop, call, arguments, default, inplace,
    scatter, condition, comparison, statement, index, loop, name,
]  # fmt: skip
