"""check_backward: compare a backward pass with the numerical gradient of its forward."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .complex_report import convention_hint, in_complex_terms
from .conduct import Call, Conduct, Watch, known_noise, refused_again, widened, with_state
from .contract import check_contract
from .elements import Comparison, sample
from .function import Function, functions_of
from .gradients import Backward, Misfit, dtype_errors, misfit
from .hints import hints
from .missing import find_missing
from .options import Options
from .problem import Leaf, Problem, argument_names
from .progress import Clock, TimeUp
from .quiet import quiet, quietly
from .report import ArgumentReport, Report, without_numbers
from .rounding import allowances
from .second import taylor_test
from .symmetric import reading_symmetric
from .unchecked import unchecked
from .verdict import judge

SMALL = 1000  # an array of at most so many elements is looked at as a whole
SAMPLED = 64  # so many elements of a larger one are looked at one by one, besides its edges


def check_backward(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *args: Any,
    wrt: Sequence[int | str] | None = None,
    rng: np.random.Generator | None = None,
    dtype: Any = np.float64,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    mode: str = "auto",
    dout: Any = None,
    strict: bool = False,
    conjugate: bool = False,
    progress: bool | None = None,
    max_seconds: float | None = None,
    noise: float = 0.0,
    symmetric: Sequence[str] = (),
) -> Report:
    """Compare a backward pass with numerical derivatives of its forward, each with an error bar of its own.

    forward    `out, cache = forward(*args)`. out is an array or a number, or a dict, tuple or list of them
    backward   `gradients = backward(dout, cache)`, dout in the structure of out: one gradient for each argument of
               forward, or for each that is checked, in the argument's structure; None for an argument that has none.
               A single gradient need not be in a tuple
    args       arrays of floats or complex numbers, or dicts, tuples, lists and dataclasses of them. Numbers are checked
               if a gradient comes back for them. Ids, masks, None and other objects are handed on as they are
    wrt        the arguments to check, by position or name; by default all that hold floats
    rng        draws the cotangent dout, directions and samples; by default seeded with 0
    dtype      float arguments are converted to it for forward and backward; the derivatives are taken in float64
    tolerance  the largest relative error that passes, by norm over an array; by default the error bars decide
    names      the arguments' names in the report; by default those of forward's signature
    mode       "elements" looks at every element, "directions" at random directions and a sample, "auto" at every
               element of arrays of at most 1000 and else at directions
    dout       the cotangent, in the structure of out; by default random normal numbers. Ones hide many slips
    strict     whether a pass is inconclusive if anything that could have a gradient was not looked at
    conjugate  how complex gradients are written, False for PyTorch's way, dL/d(real) + i dL/d(imag), True for the one
               of JAX and autograd, its conjugate. Then L is sum(real(dout * out)), else sum(real(conj(dout) * out))
    progress   whether to show on standard error how long it will take, after two seconds; by default on a terminal
    max_seconds  how long it may take. If all elements take longer, a random sample of them and directions are looked
               at, and the report says what could have escaped; if even those take longer, it is inconclusive
    noise      how far forward's outputs may be off, relative to their size, such as 1e-8 for a solver that stops there;
               what the check measures itself is allowed for anyway
    symmetric  the names of arguments that are symmetric matrices. forward may then read one triangle of A alone, and
               the gradient be by that triangle, by both or symmetric: each is made symmetric, (g + g.T) / 2, at A

    The function differentiated is `sum(dout * out)`. The verdict is "fail" if an element is further from its
    numerical derivative than the error bar, if a gradient has the wrong shape or is missing, or if the backward breaks
    its contract (writes into what it is given, keeps state, is not linear in dout); "inconclusive" if noise, overflow
    or kinks leave the error bar too wide, or max_seconds too little time, or if backward leaves out an array that moves
    the output; else "pass".

    Raises ValueError or TypeError for a wrt that names nothing, a dout that is zero or not finite, or a backward whose
    results are not gradients.
    """
    options = Options(mode, dtype, tolerance, dout, strict, conjugate, progress, max_seconds, noise, symmetric)
    return _check(forward, backward, args, options, wrt, names, own_generator(rng))


def _check(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    args: Sequence[Any],
    options: Options,
    wrt: Sequence[int | str] | None,
    names: Sequence[str] | None,
    rng: np.random.Generator,
) -> Report:
    with Clock(options.progress, options.max_seconds) as clock:
        dtype = np.dtype(options.dtype)
        if options.symmetric:
            known = argument_names(forward, len(args)) if names is None else names
            forward = reading_symmetric(forward, args, known, options.symmetric)
        problem = Problem.pose(forward, args, names, wrt, rng, dtype, options.dout, options.conjugate)
        posed = replace(problem, symmetric=tuple(options.symmetric))
        with quiet():  # forward has run at the given arguments, and has warned
            try:
                first = Watch(posed).first
            except Exception as error:  # whatever the user's code raises
                found = refused_again(error)
                return Report(_without_numbers(posed, found.obstacle), found.broken, tolerance=options.tolerance)
        posed = with_state(posed, first) if wrt is None else posed
        once = replace(posed, forward=quietly(posed.forward))  # and backward may warn
        trees = Backward(once, backward).trees(posed.copies(dtype), posed.given_dout())
        with quiet():
            return _of_trees(posed, first, trees, backward, options, wrt is not None, rng, clock)


def _of_trees(
    problem: Problem,
    first: Call,
    trees: dict[int, Any],
    backward: Callable[[Any, Any], Any],
    options: Options,
    asked_for: bool,
    rng: np.random.Generator,
    clock: Clock,
) -> Report:
    """Return the report on what backward has returned for each argument."""
    missing = find_missing(problem, first, trees, Backward(problem, backward).of_leaves(trees), asked_for)
    problem = missing.problem.settled(Backward(missing.problem, backward).of_leaves(trees))
    unseen = unchecked(problem, trees, asked_for, missing.excused)
    about = partial(Report, tolerance=options.tolerance, not_checked=unseen, strict=options.strict)
    problem = missing.without_rows(problem)
    problem = replace(problem, forward=clock.watch(problem.forward))
    clock.plan([leaf.x.size if _whole(leaf, options) else SAMPLED for leaf in problem.leaves])
    matched = Backward(problem, backward)
    try:
        report = _judged(Watch(problem, first), matched, matched.of_leaves(trees), about, options, rng, clock)
    except TimeUp:
        reason = f"time: max_seconds={options.max_seconds:g} was over before any element could be looked at"
        report = about(_without_numbers(problem, reason))
    return replace(report, arguments=(*report.arguments, *missing.rows))


def _judged(
    watch: Watch,
    matched: Backward,
    gradients: list[Any],
    about: Callable[..., Report],
    options: Options,
    rng: np.random.Generator,
    clock: Clock,
) -> Report:
    """Return the report on gradients, made by `about` with what it says of all of them."""
    problem = watch.problem
    dout = problem.given_dout()
    all_fit = not any(misfit(*pair) for pair in zip(problem.leaves, gradients, strict=True))

    conduct = watch.conduct()
    obstacle = _obstacle(problem, conduct)
    if obstacle:
        return about(_without_numbers(problem, obstacle), conduct.broken, notes=conduct.notes)

    contract = check_contract(problem, matched, conduct.relative)
    known = known_noise(options.noise, watch.first.values)
    functions = [widened(f, conduct.noise, known) for f in functions_of(problem, conduct.writes, rng)]
    if all_fit:
        allowed = allowances(problem, functions, matched, dout, gradients)
    else:  # the other gradients are held to their error bars alone
        allowed = [np.zeros(leaf.x.shape) for leaf in problem.leaves]
    parts = zip(functions, gradients, allowed, strict=True)
    found = [
        _compare(*part, partial(matched.at, dout=dout), options, rng, clock.turn(i)) for i, part in enumerate(parts)
    ]
    clock.finish()
    later = watch.later(conduct)
    broken = (*conduct.broken, *contract.broken, *dtype_errors(problem, gradients))
    notes = conduct.notes + contract.notes + tuple(_inexact(found))
    if later:
        return about(_without_numbers(problem, later), broken, notes=notes)
    reports = [_report(*pair, options.tolerance) for pair in zip(problem.leaves, found, strict=True)]
    if any(report.verdict == "fail" for report in reports):
        reports = _with_hints(reports, found, matched, dout, apart=options.max_seconds is None)
    if not problem.real and all_fit:
        reports = _with_convention(reports, found, matched, dout)
    if not (all_fit and _taylor_can_be_tried(problem, gradients)):
        return about(tuple(reports), broken, notes=notes)
    try:
        taylor = taylor_test(functions, gradients, rng)
    except TimeUp:
        left_out = f"max_seconds={options.max_seconds:g} left no time for the Taylor test"
        return about(tuple(reports), broken, notes=(*notes, left_out))
    return about(tuple(reports), broken, str(taylor), taylor.verdict, notes=notes)


def _taylor_can_be_tried(problem: Problem, gradients: list[Any]) -> bool:
    # in float32 rounding hides the remainders that the Taylor test needs
    return problem.dtype != np.float32 and all(np.isfinite(g).all() for g in gradients)


def own_generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return a generator that only the check uses.

    With the seed that the arguments were drawn with, dout would be equal to one of them.
    """
    rng = np.random.default_rng(0 if rng is None else rng)
    return np.random.default_rng((int(rng.integers(2**63)), 0x6E706770))


def _without_numbers(problem: Problem, reason: str) -> tuple[ArgumentReport, ...]:
    """Return the reports of a check that had to stop before the gradients were compared."""
    return tuple(without_numbers(leaf.name, leaf.shape, "inconclusive", reason) for leaf in problem.leaves)


def _obstacle(problem: Problem, conduct: Conduct) -> str:
    """Return why nothing can be said of the gradients, least of all that they are wrong; or nothing."""
    if not math.isfinite(problem.magnitude):
        given = [leaf.name for leaf in problem.leaves if not np.isfinite(leaf.x).all()]
        if given:
            return f"overflow: {', '.join(given)} is infinite or NaN, and so is what forward returns"
        return "overflow: the forward is infinite or NaN at these arguments"
    return conduct.obstacle


def _compare(
    function: Function,
    gradient: Any,
    allowance: np.ndarray,
    again: Callable[[Leaf, np.ndarray], np.ndarray],
    options: Options,
    rng: np.random.Generator,
    clock: Clock,
) -> Comparison | Misfit:
    """Compare one gradient with the numerical one, as a whole or by samples and directions, if it can be compared."""
    leaf = function.leaf
    unfit = misfit(leaf, gradient)
    if unfit:
        return unfit
    analytic = np.asarray(gradient).astype(np.float64)
    comparison = Comparison(function, analytic, allowance, clock, partial(again, leaf))
    if leaf.x.size == 0:
        return comparison
    whole = _whole(leaf, options)
    unbound = np.flatnonzero(~np.isfinite(analytic))[:8]  # no direction would show them
    others = np.arange(leaf.x.size) if whole else sample(leaf.x.shape, function.problem.args, SAMPLED, rng)
    others = np.setdiff1d(others, unbound)
    if options.max_seconds is not None:  # those for which there is time are to be a random sample
        others = rng.permutation(others)
    comparison.check(np.concatenate([unbound, others]), whole, rng)
    return comparison


def _inexact(found: list[Comparison | Misfit]) -> Iterator[str]:
    for comparison in found:
        if isinstance(comparison, Comparison) and comparison.inexact:
            allowed = float(np.max(comparison.rough))
            yield (
                "forward jumps where an iteration of it stops later or earlier: derivatives by "
                f"{comparison.function.leaf.name} are known to {allowed:.0e} at best"
            )


def _whole(leaf: Leaf, options: Options) -> bool:
    """Return whether every element of an array is to be looked at."""
    return options.mode == "elements" or (options.mode == "auto" and leaf.x.size <= SMALL)


def _report(leaf: Leaf, found: Comparison | Misfit, tolerance: float | None) -> ArgumentReport:
    if isinstance(found, Misfit):
        return without_numbers(leaf.name, leaf.shape, "fail", found.reason, found.hint)
    report = judge(found, tolerance)
    return in_complex_terms(report, leaf) if leaf.is_complex else report


def _with_hints(
    reports: list[ArgumentReport], found: list[Comparison | Misfit], matched: Backward, dout: Any, apart: bool
) -> list[ArgumentReport]:
    """Return the reports with the slips that wrong gradients suggest."""
    compared = [c if isinstance(c, Comparison) else None for c in found]
    suggested = hints(matched.problem, matched, dout, compared, apart)
    pairs = zip(reports, suggested, strict=True)
    return [replace(r, hint=r.hint or hint) if r.verdict == "fail" else r for r, hint in pairs]


def _with_convention(
    reports: list[ArgumentReport], found: list[Comparison | Misfit], matched: Backward, dout: Any
) -> list[ArgumentReport]:
    """Return the reports with the hint that wrong complex gradients are right in the other convention."""
    parts = [(c.value, c.error + c.allowance, c.counted) for c in found if isinstance(c, Comparison)]
    if all(report.verdict != "fail" for report in reports):
        return reports
    hinted = convention_hint(matched.problem, matched, dout, parts)
    return [replace(r, hint=hinted) if hinted and r.verdict == "fail" else r for r in reports]
