"""Damaged and hostile model folders, in a process of their own that may take little memory; see tests/hostile.py."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.big)])
def test_a_folder_that_does_harm_gets_one_clear_line(count):
    # the time-out is for a hang: 100,000 take some four minutes
    command = [sys.executable, "-m", "tests.hostile", str(count), "2026"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes["refused"] + outcomes["opened"] == count
    assert min(outcomes.values()) > count / 20  # the changes are neither all harmless nor all absurd
