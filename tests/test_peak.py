"""The most memory that opening a large model of half precision takes, measured in a process of its own."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from npgpt import GPTConfig
from npgpt.models.gpt2_parameters import parameter_shapes

CONFIG = GPTConfig(vocab_size=1000, n_positions=64, n_embd=1024, n_layer=8, n_head=16)
MEASURE = """
import re, sys
from pathlib import Path
from npgpt.models.gpt2 import GPT

def peak():  # not getrusage's ru_maxrss, in which Linux counts the process that this one was started from
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
model = GPT.from_pretrained(sys.argv[1], ops="reference")
print(peak() - before, float(model.params.flat.sum()))
"""


@pytest.mark.big
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_peaks_at_the_float32_parameters_and_one_tensor(tmp_path):
    shapes = {f"transformer.{name}": shape for name, shape in parameter_shapes(CONFIG).items()}
    header, start = {}, 0
    for name, shape in shapes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [start, start := start + 2 * np.prod(shape).item()],
        }
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write(np.full(shape, 0x3F80, "<u2").tobytes())  # ones
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **vars(CONFIG)}))
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    peak, total = done.stdout.split()
    sizes = [4 * np.prod(shape).item() for shape in shapes.values()]
    assert float(total) == sum(sizes) / 4
    assert sum(sizes) / 2 < 1024 * int(peak) < sum(sizes) + max(sizes)
