"""Models by name, through the real huggingface_hub, from a hub on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.models.lora import Adapters, save_adapter
from tests.hub_server import COMMIT, serving

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

# runs command lines of npgpt in one process, because importing the library takes a while
RUN = """
import contextlib, io, json, sys
from npgpt.cli import main
from npgpt.hub import folders
folders.TIMEOUT = float(sys.argv[2])
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
CONFIG = GPTConfig(vocab_size=260, n_positions=32, n_embd=8, n_layer=1, n_head=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return folders of a whole model, one in shards with GPT-2's two files of a vocabulary, a pickle, an adapter."""
    home = tmp_path_factory.mktemp("models")
    whole, shards, pickle, adapter = (home / name for name in ("whole", "shards", "pickle", "adapter"))
    tokenizer = Tokenizer.train(["床前明月光 ab ab ab"], 260)
    model = GPT(CONFIG, seed=3)
    model.config = GPTConfig(**vars(CONFIG) | {"eos_token_id": tokenizer.end_id})
    model.save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    for unwanted in ("pytorch_model.bin", "model.fp16.safetensors", "model.onnx"):
        (whole / unwanted).write_bytes(b"unwanted")
    shutil.copytree(whole, shards, ignore=shutil.ignore_patterns("tokenizer.json", "*.bin", "*fp16*", "*.onnx"))
    (shards / "model.safetensors").rename(shards / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(model.params, "model-00001-of-00001.safetensors")}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copytree(whole, pickle, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    adapters = Adapters(model, 2)
    adapters.params.flat += 0.5
    save_adapter(adapter, adapters, f"some/model@{COMMIT}")
    return {"some/model": whole, "in/shards": shards, "a/pickle": pickle, "an/adapter": adapter}


@pytest.fixture
def hub(models):
    with serving({**models, "a/gated": models["some/model"], "a/secret": models["some/model"]}) as hub:
        hub.gated.add("a/gated")
        hub.private.add("a/secret")
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Return a function that runs command lines beside the hub: what each returns and writes."""

    def run(*lines, timeout=10, **env):
        home = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        env = home | {"HF_HUB_OFFLINE": "0"} | env
        env["HF_TOKEN"] = env.get("HF_TOKEN", "")
        command = [sys.executable, "-c", RUN, json.dumps([line.split() for line in lines]), str(timeout)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def downloads(hub, name):
    return [line.rpartition("/")[2] for line in hub.asked if line.startswith(f"GET /{name}/resolve/")]


def test_a_name_is_the_model_that_it_stands_for(hub, run, models):
    wrote = "--max-new-tokens 5 --temperature 0 --prompt ab"
    names = "some/model", models["some/model"], "in/shards@v1", "an/adapter"
    found = run(*(f"sample {name} {wrote}" for name in names))
    assert [code for code, *_ in found] == [0] * len(found), found
    assert found[0][1] == found[1][1] == found[2][1] != found[3][1]
    assert len(downloads(hub, "some/model")) == 7  # each of them once


@pytest.mark.big
def test_every_command_opens_a_name_with_its_tokenizer(hub, run, models, tmp_path):
    (tmp_path / "a.txt").write_text("床前明月光 ab\n" * 20)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    wrote = "--max-new-tokens 5 --temperature 0 --prompt ab"
    found = run(
        f"sample some/model {wrote}",
        f"sample {models['some/model']} {wrote}",
        f"sample in/shards@v1 {wrote}",
        "info some/model",
        "eval some/model --data a.txt",
        "score some/model a.txt",
        "features some/model a.txt --out a.npy",
        "similar some/model a b",
        "ask some/model --prompt a --max-new-tokens 3",
        "export some/model --format safetensors --out copy",
        "finetune some/model --data a.jsonl --out tuned --max-steps 1 --lora 1",
        f"sample an/adapter {wrote}",
        "info an/adapter",
        "sample tuned/adapter --max-new-tokens 3",
        "train --from some/model@v1 --data a.txt --out further --max-steps 1 --eval-batches 1 --sample-tokens 0",
    )
    assert [code for code, *_ in found] == [0] * len(found), found
    assert found[0][1] == found[1][1] == found[2][1]
    assert found[11][1] != found[0][1]
    assert sorted({*downloads(hub, "some/model")}) == sorted(
        [*("config.json", "generation_config.json", "merges.txt", "model.safetensors"),
         *("tokenizer.json", "tokenizer_config.json", "vocab.json")]
    )  # fmt: skip
    assert len(downloads(hub, "some/model")) == 7  # each of them once
    saved = json.loads((tmp_path / "tuned" / "train.json").read_text())
    assert saved["finetune"]["base"] == f"some/model@{COMMIT}"
    further = json.loads((tmp_path / "further" / "train.json").read_text())
    assert further["from"]["name"] == "some/model@v1"
    adapter = json.loads((tmp_path / "tuned" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("some/model", COMMIT)
    offline = run(
        f"sample some/model {wrote}",
        "sample no/model",
        "finetune some/model --resume --out tuned --max-steps 2",
        HF_HUB_OFFLINE="1",
    )
    assert [code for code, *_ in offline] == [0, 2, 0]
    assert offline[0][1] == found[0][1]
    assert "not in the cache of the Hugging Face hub, which HF_HUB_OFFLINE forbids to ask" in offline[1][2]


def test_what_is_not_to_be_had_is_said_in_one_line(hub, run, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    said = {
        "no/model": "the Hugging Face hub has no such model, or it is private",
        "a/secret": "for a private one log in with hf auth login, or set HF_TOKEN",
        "a/gated": "is gated: ask for access on its page, and log in with hf auth login, or set HF_TOKEN",
        "some/model@v9": "some/model on the Hugging Face hub has no revision v9",
        "a/pickle": "has no weights in safetensors, but pytorch_model.bin, a pickle, which npgpt never opens",
        "runs/fist": "no such folder; did you mean 'runs/first'?",
        "a/b/c": "a/b/c: no such folder",
    }
    for (name, words), (code, out, err) in zip(said.items(), run(*(f"info {name}" for name in said)), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), name
        assert words in err
    assert not any("runs" in line for line in hub.asked)
    assert [code for code, *_ in run("info a/secret", "info a/gated", HF_TOKEN="secret")] == [0, 0]


def test_a_hub_that_is_gone_is_said_and_a_download_goes_on(hub, run):
    ((code, _, err),) = run("info some/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, err.count("\n")) == (2, 1)
    assert "not in the cache of the Hugging Face hub, and http://127.0.0.1:9 cannot be reached" in err
    hub.broken = "model.safetensors"
    first, second = run("info some/model", "info some/model")
    assert first[0] in (0, 2)  # the library may try again by itself
    assert second[0] == 0
    ((code, _, err),) = run("info some/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, err) == (
        0,
        "some/model: the copy in the cache is taken, because http://127.0.0.1:9 does not answer\n",
    )


@pytest.mark.big
def test_a_hub_that_accepts_and_never_answers_is_given_up(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ((code, _, err),) = run("info some/model", HF_ENDPOINT=url, timeout=0.2)
    assert (code, err.count("\n")) == (2, 1)
    assert f"not in the cache of the Hugging Face hub, and {url} cannot be reached" in err
