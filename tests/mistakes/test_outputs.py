"""Every command that writes, where it cannot: a read-only folder, a full disk, a pipe that nobody reads."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import mostly_big
from tests.mistakes.tools import FINETUNE, TINY, refused
from tests.test_cli import start

WRITE = {  # {} is where to write
    "train": f"train --data a.txt --out {{}}/new {TINY}",
    "finetune": f"finetune q --data tasks.jsonl --out {{}}/new {FINETUNE}",
    "distill": "distill r --out {}/new --cache-logits 2 --max-steps 2",
    "train-generator": f"train-generator q --data tasks.jsonl --out {{}}/new {FINETUNE}",
    "export": "export r --weights int8 --out {}/new",
    "demo": "demo --out {}/new --base-steps 1 --tune-steps 1 --tests 1",
    "prepare": "prepare a.txt --out {}/new --tokenizer bytes",
    "tokenizer train": "tokenizer train a.txt --out {}/new --vocab-size 270",
    "tokenizer stats": "tokenizer stats p a.txt --plot {}/new.png",
    "gradcheck": "gradcheck linear --html {}/new.html",
    "plot": "plot r --out {}/new.png",
    "profile": "profile r --steps 1 --json {}/new.json",
}
NEED_MATPLOTLIB = {"plot", "tokenizer stats"}
PRINT = {
    "train": f"train --data a.txt --out new {TINY}",
    "distill": "distill r --out new --max-steps 2 --sample-tokens 9",
    "sample": "sample r --max-new-tokens 9",
    "prompts": "sample r --prompts a.txt --max-new-tokens 2",
    "finetune": f"finetune q --data tasks.jsonl --out new {FINETUNE}",
    "train-generator": f"train-generator q --data tasks.jsonl --out new {FINETUNE}",
    "ask": "ask f --prompt the",
    "eval": "eval r --data a.txt",
    "score": "score r a.txt",
    "features": "features r a.txt --out v.npy",
    "similar": "similar r the --search a.txt",
    "profile": "profile r --steps 1",
    "tales": "tales 3",
    "tasks": "tales 3 --tasks",
    "not a tale": "tales --check a.txt",
    "data": "data list",
    "prepare": "prepare a.txt --out new --tokenizer bytes",
    "learn": "tokenizer train a.txt --out new --vocab-size 270",
    "encode": "tokenizer encode p the",
    "decode": "tokenizer decode p 1 2",
    "show": "tokenizer show p the",
    "stats": "tokenizer stats p a.txt",
    "gradcheck": "gradcheck linear",
    "wrong": "gradcheck wrong:forward,backward",
    "info": "info r",
    "export": "export r --weights int8 --out new",
    "help": "--help",
    "help of a command": "train --help",
    "version": "--version",
}
# each is a process of its own: one that streams, a verdict, and argparse's help
PRINTED = mostly_big(PRINT, {"sample", "not a tale", "help"}.__contains__)
JUDGED = {"gradcheck": 0, "wrong": 1, "not a tale": 1}  # they end with their verdict, whoever reads what they print


@pytest.fixture
def readonly(here):
    """Return a folder in which nothing can be written: root may write where modes forbid it, but not on such a disk."""
    folder = here / "readonly"
    folder.mkdir()
    if os.name != "posix":
        pytest.skip("needs POSIX's modes")
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder.name
        folder.chmod(0o700)
        return
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder]).returncode:
        pytest.skip("root may write everywhere, and cannot mount a read-only disk here")
    yield folder.name
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", WRITE)
def test_a_folder_that_cannot_be_written_is_named(capsys, here, readonly, name):
    if name in NEED_MATPLOTLIB:
        pytest.importorskip("matplotlib")
    refused(capsys, here, WRITE[name].format(readonly).split(), readonly)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", PRINTED)
def test_a_full_disk_under_the_output_is_an_error(here, name):
    with open("/dev/full", "w") as full:
        process = start(*PRINT[name].split(), stdout=full)
        _, err = process.communicate()
    assert process.returncode == 2, err
    assert b"Traceback" not in err
    assert b"space" in err.splitlines()[-1]


@pytest.mark.parametrize("name", PRINTED)
def test_a_pipe_that_nobody_reads_ends_a_command_in_silence(here, name):
    """What was cut short has not succeeded, and a failure stays one."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*PRINT[name].split(), stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert process.returncode == JUDGED.get(name, 141), err
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err
    assert b"Broken pipe" not in err
