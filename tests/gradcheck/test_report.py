"""The report: what it says in text, as a dict, as JSON, as HTML and as a picture, and how verdicts add up."""

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from npgpt import check_backward
from npgpt.gradcheck import ArgumentReport, Report, table
from npgpt.gradcheck.report import Unchecked

X = np.random.default_rng(3).standard_normal((6, 5))
HEADER = ["argument", "shape", "verdict", "rel. error", "bar", "worst at", "analytic", "numeric", "ratio"]


def product(x, weight):
    return x * weight, (x, weight)


def product_backward(dout, cache):
    x, weight = cache
    return dout * weight, (dout * x).sum(axis=0)


def row_wrong(dout, cache):
    dx, dweight = product_backward(dout, cache)
    dx[2] *= 1.5
    return dx, dweight


RIGHT = check_backward(product, product_backward, X, X[0] + 2)
WRONG = check_backward(product, row_wrong, X, X[0] + 2, tolerance=1e-6)
NAN = check_backward(lambda x: (x * x, x), lambda d, x: np.where(x == X, np.nan, 2 * d * x), X)


def argument(verdict, name="x", **fields):
    values = {"relative_error": 0.0, "error_bar": 0.0, "index": (0,), "analytic": 1.0, "numeric": 1.0}
    return ArgumentReport(name, (3,), verdict, **(values | fields))


# --- verdicts


@pytest.mark.parametrize(
    ("verdicts", "contract", "expected"),
    [
        (["pass"], (), "pass"),
        (["pass", "pass"], (), "pass"),
        (["pass", "inconclusive"], (), "inconclusive"),
        (["inconclusive", "inconclusive"], (), "inconclusive"),
        (["fail", "inconclusive", "pass"], (), "fail"),
        (["pass"], ("backward writes into dout",), "fail"),
        (["inconclusive"], ("backward writes into dout",), "fail"),
    ],
)
def test_the_verdict_is_that_of_the_worst(verdicts, contract, expected):
    report = Report(tuple(argument(v) for v in verdicts), contract)
    assert report.verdict == expected
    assert bool(report) == (expected == "pass")
    assert str(report).splitlines()[-1] == expected


def test_a_taylor_test_that_fails_alone_is_told_but_no_verdict():
    report = Report((argument("pass"),), taylor="remainders fall with slopes 1.00", taylor_verdict="fail")
    assert report.verdict == "pass"
    assert "Taylor test: fail: remainders fall with slopes 1.00" in str(report)
    assert "Taylor" not in str(Report((argument("pass"),), taylor="remainders fall with slopes 2.00"))


def test_the_taylor_slopes_are_near_2_or_1():
    def slopes(report):
        return [float(slope) for slope in report.taylor.split("slopes ")[1].split()]

    right = check_backward(lambda x: (np.exp(x), x), lambda d, x: d * np.exp(x), X)
    wrong = check_backward(lambda x: (np.exp(x), x), lambda d, x: 1.1 * d * np.exp(x), X)
    # h^2 plus h^3 gives 2 + O(h), with h at most 2^-8 and printed to hundredths: two of them; so does h plus h^2 give 1
    assert slopes(right) == pytest.approx([2] * len(slopes(right)), abs=0.02)
    assert slopes(wrong) == pytest.approx([1] * len(slopes(wrong)), abs=0.02)
    assert slopes(right)
    assert slopes(wrong)
    assert (right.taylor_verdict, wrong.taylor_verdict) == ("pass", "fail")


def test_the_worst_of_all_arguments_is_the_reports():
    report = Report((argument("pass", relative_error=1e-9, error_bar=1e-12), argument("fail", relative_error=0.1)))
    assert report.relative_error == 0.1
    assert report.error_bar == 1e-12


# --- text


def test_text_has_a_line_for_each_argument_and_the_verdict_at_the_end():
    lines = str(WRONG).splitlines()
    places = [lines[0].index(name) for name in HEADER]
    assert places == sorted(places)
    assert lines[1].split()[:3] == ["x", "6x5", "fail"]
    assert lines[2].split()[:3] == ["weight", "5", "pass"]
    assert lines[3] == "x: hint: wrong only at index 2 of axis 0 (one of 6): 1.5 times what it should be"
    assert lines[4] == "x: fail: 5 of 30 elements are wrong"
    assert lines[-1] == "fail (relative error at most 1e-06 allowed)"
    assert str(RIGHT).splitlines()[-1] == "pass"
    assert len(str(RIGHT).splitlines()) == 4  # nothing to remark on


def test_columns_are_aligned():
    lines = str(WRONG).splitlines()[:3]
    for name in HEADER[1:]:
        column = lines[0].index(name)
        assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        ({}, ("x", "3", "fail", "0.0e+00", "0e+00", "(0)", "1", "1", "1")),
        # nothing was compared: an error bar of 0 would say that much was
        ({"index": None, "relative_error": math.inf, "analytic": math.nan}, ("x", "3", "fail", *"------")),
        ({"index": (1, 2), "numeric": 0.0}, ("x", "3", "fail", "0.0e+00", "0e+00", "(1, 2)", "1", "0", "inf")),
        (
            {"index": (), "analytic": -0.5, "relative_error": 1.25, "error_bar": 3.4e-9},
            ("x", "3", "fail", "1.2e+00", "3e-09", "()", "-0.5", "1", "-0.5"),
        ),
        (
            {"analytic": 1 / 3, "numeric": 2 / 3e9},
            ("x", "3", "fail", "0.0e+00", "0e+00", "(0)", "0.333333333", "6.66666667e-10", "5e+08"),
        ),
    ],
)
def test_cells(fields, cells):
    assert argument("fail", **fields).row() == cells


def test_shapes_in_cells():
    scalar = check_backward(lambda x: (x * x, x), lambda d, x: 2 * d * x, np.array(2.0)).arguments[0]
    assert scalar.row()[1] == "scalar"
    assert WRONG.arguments[0].row()[1] == "6x5"


def test_remarks_are_all_there():
    found = argument("pass", reason="why", hint="what", kinks=2, checked=9, escape="what escaped").remarks()
    assert found == [
        "x: hint: what",
        "x: pass: why",
        "x: 2 of 9 elements set aside: they are at a kink",
        "x: what escaped",
    ]


def test_the_hints_of_all_arguments_come_before_the_reasons():
    found = Report(
        (argument("fail", "x", reason="many"), argument("fail", "w", reason="one", hint="double")),
        contract=("it writes",),
        notes=("noisy",),
        not_checked=(Unchecked("ids", "int64", "integers"),),
    ).remarks()
    assert found == [
        "w: hint: double",
        "x: fail: many",
        "w: fail: one",
        "contract: it writes",
        "note: noisy",
        "not checked: ids (int64): integers",
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Report((argument("fail", "w", reason="2 of 3 are wrong", hint="double"),)), "w: double (2 of 3 are wrong)"),
        (Report((argument("pass"), argument("fail", "w", reason="no gradient"))), "w: no gradient"),
        (Report((argument("pass"),), ("backward writes into dout",)), "backward writes into dout"),
        (
            Report((argument("inconclusive", reason="noise"), argument("fail", "w", reason="one")), ("it writes",)),
            "w: one; it writes",
        ),
        (Report((argument("inconclusive", reason="noise"),)), "inconclusive; x: noise"),
        (
            Report((argument("pass"),), not_checked=(Unchecked("ids", "int64", "integers"),), strict=True),
            "inconclusive; not checked: ids (int64): integers",
        ),
        (Report((argument("pass"),), not_checked=(Unchecked("ids", "int64", "integers"),)), "pass"),
        (Report(tuple(argument("fail", n, reason="r") for n in "abcd")), "a: r; b: r; c: r; d: r"),
        (Report(tuple(argument("fail", n, reason="r") for n in "abcde")), "a: r; b: r; c: r; and 2 more"),
    ],
)
def test_in_short_it_is_the_slip(report, expected):
    assert report.in_short() == expected


def test_table():
    assert table(("a", "bb"), [("ccc", "d"), ("", "e")]) == "a    bb\nccc  d\n     e"
    assert table(("a", "b"), []) == "a  b"


# --- dict and JSON


def test_dict_holds_all_fields():
    found = WRONG.to_dict()
    assert found["verdict"] == "fail"
    assert found["tolerance"] == 1e-6
    assert found["contract"] == []
    assert found["taylor"]["verdict"] == "fail"
    x, weight = found["arguments"]
    assert (x["name"], x["shape"], x["verdict"]) == ("x", (6, 5), "fail")
    assert x["index"][0] == 2
    assert x["ratio"] == pytest.approx(1.5)
    assert (x["checked"], x["size"], x["kinks"]) == (30, 30, 0)
    assert weight["verdict"] == "pass"
    assert "difference" not in x


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


@pytest.mark.parametrize("report", [RIGHT, WRONG, NAN], ids=["right", "wrong", "nan"])
def test_json_is_strict_and_the_same_as_the_dict(report):
    found = json.loads(report.to_json(), parse_constant=no_constant)
    assert found["verdict"] == report.verdict
    assert [a["name"] for a in found["arguments"]] == [a.name for a in report.arguments]
    for mine, theirs in zip(report.arguments, found["arguments"], strict=True):
        assert theirs["analytic"] == (mine.analytic if math.isfinite(mine.analytic) else None)
        assert theirs["numeric"] == (mine.numeric if math.isfinite(mine.numeric) else None)
        assert theirs["index"] == list(mine.index)


def test_json_of_a_missing_gradient():
    report = check_backward(lambda x: (x * x, x), lambda d, x: None, X)
    (found,) = json.loads(report.to_json(), parse_constant=no_constant)["arguments"]
    assert (found["relative_error"], found["index"], found["analytic"]) == (None, None, None)


# --- HTML


class Page(HTMLParser):
    """Collects rows of cells, and checks that what is opened is closed."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.open, self.texts, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        self.texts.append(data)


@pytest.mark.parametrize("report", [RIGHT, WRONG, NAN], ids=["right", "wrong", "nan"])
def test_html_begins_with_a_table_of_all_arguments(report):
    page = Page(report.to_html())
    assert page.tags.count("table") == 1 + sum(a.verdict == "fail" for a in report.arguments)
    assert page.rows[: 1 + len(report.arguments)] == [HEADER, *(list(a.row()) for a in report.arguments)]
    assert f"Gradient check: {report.verdict}" in page.texts
    for remark in report.remarks():
        assert remark in page.texts


def test_html_lists_the_wrong_elements_by_index_the_most_different_first():
    page = Page(WRONG.to_html())
    assert page.rows[3] == ["wrong at", "analytic", "numeric", "ratio"]
    dx = WRONG.arguments[0].difference
    columns = [int(column) for column in np.argsort(-dx[2])]
    assert [row[0] for row in page.rows[4:]] == [f"(2, {column})" for column in columns]
    assert {row[3] for row in page.rows[4:]} == {"1.5"}
    assert page.rows[4][:2] == list(WRONG.arguments[0].row()[5:7])


def test_the_wrong_elements_are_in_json_and_at_most_ten():
    found = json.loads(WRONG.to_json())["arguments"]
    assert [len(a["wrong"]) for a in found] == [5, 0]
    assert found[0]["wrong"][0]["index"] == found[0]["index"]
    assert found[0]["wrong"][0]["ratio"] == pytest.approx(1.5)
    many = check_backward(lambda x: (x * x, x), lambda d, x: d * x, X)
    assert len(many.arguments[0].wrong) == 10


def test_a_wrong_element_of_several_axes_is_named_by_all_of_them():
    def backward(dout, x):
        dx = 2 * dout * x
        dx[1, 2, 3] -= 1.5
        dx[0, 1, 0] += 0.5
        return dx

    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    (found,) = check_backward(lambda x: (x * x, x), backward, x).arguments
    assert [element.index for element in found.wrong] == [(1, 2, 3), (0, 1, 0)]
    assert found.wrong[0].row()[0] == "(1, 2, 3)"


def test_a_wrong_element_of_a_complex_array_has_its_part():
    z = X[:2] + 1j * X[2:4]

    def backward(dout, z):
        dz = 2 * dout * z.conj()
        dz[1, 3] += 0.5j
        return dz

    (found,) = check_backward(lambda z: (z * z, z), backward, z).arguments
    assert [(element.index, element.part) for element in found.wrong] == [((1, 3), "imag")]


def test_hints_stand_out_in_html():
    text = WRONG.to_html()
    assert text.count('<p class="hint">') == 1
    assert f'<p class="hint">x: hint: {WRONG.arguments[0].hint}</p>' in text
    assert text.index('class="hint"') < text.index("elements are wrong")
    assert 'class="hint"' not in RIGHT.to_html().split("</style>")[1]


def test_html_shows_notes_and_what_was_not_checked():
    unseen = (Unchecked("ids", "int64", "integers", False),)
    page = Page(Report((argument("pass"),), notes=("noise <1e-9",), not_checked=unseen).to_html())
    assert "note: noise <1e-9" in page.texts
    assert "ids (int64): integers" in page.texts


def test_html_escapes_what_it_is_given():
    name = "<script>alert('x')</script> & \"y\""
    report = check_backward(lambda x: (x * x, x), lambda d, x: d * x, X, names=[name])
    page = Page(report.to_html())
    assert "script" not in page.tags
    assert page.rows[1][0] == name
    assert all(image["alt"] == name for image in page.images)


def test_html_refers_to_nothing_outside():
    text = WRONG.to_html()
    assert "http://" not in text
    assert "https://" not in text
    assert text.startswith("<!doctype html>")


def test_html_without_matplotlib_has_no_picture(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(WRONG.to_html())
    assert page.images == []
    assert len(page.rows) == 3 + 1 + 5  # all arguments, and the wrong elements of one


# --- the picture


@pytest.fixture
def image_of():
    pytest.importorskip("matplotlib")

    def image(report, argument=None):
        figure = report.plot(argument)
        axes = [a for a in figure.axes if a.images]
        assert len(axes) == 1
        assert len(axes[0].images) == 1
        return axes[0].images[0], axes[0]

    return image


def test_the_wrong_stripe_is_the_brightest(image_of):
    image, axes = image_of(WRONG)
    values = np.asarray(image.get_array())
    assert values.shape == (6, 5)
    brightest = np.argsort(values.max(axis=1))[::-1]
    assert brightest[0] == 2
    # |0.5 dx| in row 2; elsewhere rounding, drawn as 1e-8 of the largest
    assert values[2].min() > 1e4 * values[[0, 1, 3, 4, 5]].max()
    light = image.cmap(image.norm(values))[..., :3].sum(axis=-1)
    assert light[2].min() > light[[0, 1, 3, 4, 5]].max()
    assert axes.get_title().startswith("x (6 x 5): fail")


def test_the_picture_is_logarithmic(image_of):
    from matplotlib.colors import LogNorm

    report = check_backward(lambda x: (x * x, x), lambda d, x: 2 * d * x + 10.0 ** -np.arange(1, 6), X)
    image, _ = image_of(report)
    assert isinstance(image.norm, LogNorm)
    columns = np.asarray(image.norm(np.asarray(image.get_array()))).mean(axis=0)
    # errors of 1e-1, 1e-2, ...: equal steps of colour, but for the rounding of the colours
    assert np.diff(columns) == pytest.approx([np.diff(columns).mean()] * 4, rel=1e-3)


def test_the_most_wrong_argument_is_drawn_unless_one_is_named(image_of):
    assert image_of(WRONG)[1].get_title().startswith("x ")
    assert image_of(WRONG, "weight")[1].get_title().startswith("weight (5): pass")
    with pytest.raises(ValueError, match="there is no picture of 'y'; known are x, weight"):
        WRONG.plot("y")


def test_a_picture_of_all_shapes(image_of):
    for shape, drawn in (((7,), (1, 7)), ((2, 3, 4), (6, 4)), ((5, 1), (5, 1))):
        x = np.random.default_rng(0).standard_normal(shape)
        image, _ = image_of(check_backward(lambda x: (x * x, x), lambda d, x: d * x, x))
        assert np.asarray(image.get_array()).shape == drawn


def test_a_picture_of_nothing_wrong_and_of_nan(image_of):
    image_of(check_backward(lambda x: (2 * x, x), lambda d, x: 2 * d, X))
    image_of(NAN)
    scalar = check_backward(lambda x: (x * x, x), lambda d, x: 2 * d * x, np.array(2.0))
    with pytest.raises(ValueError, match="there is no picture"):
        scalar.plot()


def test_the_picture_is_in_the_page():
    pytest.importorskip("matplotlib")
    page = Page(WRONG.to_html())
    assert [image["alt"] for image in page.images] == ["x"]  # the one that failed
    assert page.images[0]["src"].startswith("data:image/png;base64,iVBOR")
    assert Page(RIGHT.to_html()).images == []


# --- the page and the example that show it

ROOT = Path(__file__).parents[2]


def printed_by(*args, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", *args]
    result = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_page_quotes_what_its_script_prints():
    page = (ROOT / "docs" / "gradcheck.md").read_text(encoding="utf-8")
    quoted = dict(re.findall(r"<!-- ([^>]+) -->\n```\n(.*?)```\n", page, re.DOTALL))
    sections = printed_by("docs/gradcheck.py").split("\n## ")[1:]
    printed = {name: text.rstrip() + "\n" for name, text in (section.split("\n", 1) for section in sections)}
    assert list(quoted) == list(printed)  # in the order of the page
    for name, text in printed.items():
        assert quoted[name] == text, name
    # and nothing is quoted as output that is not
    assert len(re.findall(r"^```\n", re.sub(r"```(sh|python)\n.*?```", "", page, flags=re.DOTALL), re.MULTILINE)) == (
        2 * len(quoted)
    )


def test_the_example_is_a_target_of_the_command():
    out = printed_by("-m", "npgpt", "gradcheck", "check_your_own:forward,backward", cwd=ROOT / "examples")
    assert out.splitlines()[0] == "check_your_own:forward,backward"
    assert out.splitlines()[-2] == "pass"


def test_the_example_finds_its_two_slips():
    parts = printed_by("examples/check_your_own.py").strip().split("\n\n")
    assert [part.splitlines()[-1] for part in parts] == ["pass", "fail", "pass", "fail"]
    assert "every element is 1/7 (7 is the size of an axis) times what it should be" in parts[1]
    assert "one element is wrong, at (123, 45)" in parts[3]
