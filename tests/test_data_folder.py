"""The samples in data/ are what the commands beside them in its README make, letter by letter."""

import re
from pathlib import Path

import pytest

from tests.test_cli import command

DATA = Path(__file__).parents[1] / "data"
ROWS = re.findall(r"^\| `(\S+)` \|.*\| `npgpt (.*)` \|$", (DATA / "README.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("name", "words"), ROWS)
def test_a_sample_is_made_by_its_command(capsys, name, words):
    code, out, err = command(capsys, *words.split())
    assert (code, err) == (0, "")
    assert out == (DATA / name).read_text("utf-8")


def test_every_sample_is_in_the_table():
    assert {name for name, _ in ROWS} == {path.name for path in DATA.iterdir()} - {"README.md"}
