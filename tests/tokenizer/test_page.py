"""docs/tokenizer.md quotes what its script prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_quotes_what_its_script_prints():
    page = (ROOT / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    quoted = dict(re.findall(r"<!-- ([^>]+) -->\n```\n(.*?)```\n", page, re.DOTALL))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "docs/tokenizer.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr
    sections = done.stdout.split("\n## ")[1:]
    printed = {name: text.rstrip() + "\n" for name, text in (section.split("\n", 1) for section in sections)}
    assert list(quoted) == list(printed)  # in the order of the page
    for name, text in printed.items():
        assert quoted[name] == text, name
    others = re.sub(r"```(sh|python)\n.*?```", "", page, flags=re.DOTALL)  # and nothing else is shown as output
    assert len(re.findall(r"^```\n", others, re.MULTILINE)) == 2 * len(quoted)
