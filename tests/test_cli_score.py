"""npgpt score: lines of text, JSON lines, prompts and completions, choices; what it prints and what it refuses."""

import io
import json
import math
import sys

import pytest

import npgpt
from npgpt import GPT, Tokenizer
from npgpt.cli import main
from tests.mistakes.tools import refused
from tests.test_cli import command

LINE = "the quick brown fox, 天地玄黃。🙂 e\u0301\n"
TINY = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 32 --max-steps 2 --eval-batches 1 --threads 1 --sample-tokens 0"
PAIRS = [("Question: 天? ", "地"), ("the quick ", "brown fox"), ("", "the")]
FILES = {
    "a.txt": LINE * 30,
    "lines.txt": "\ufeffthe fox\r\n\r\n 天地\r\n",
    "tasks.jsonl": "".join(json.dumps({"prompt": p, "completion": c}, ensure_ascii=False) + "\n" for p, c in PAIRS),
    "texts.json": '{"text": "the\\nfox"}\n{"text": "fox"}\n',
    "choices.jsonl": '{"prompt": "the ", "choices": ["fox", "天", "brown fox"], "answer": 1}\n'
    '{"prompt": "the ", "choices": ["fox", "brown fox"], "answer": "fox"}\n{"prompt": "", "choices": ["a", "b"]}\n',
    "other.jsonl": '{"content": "the fox", "prompt": 3}\n',
    "tasks2.jsonl": '{"prompt": "a", "completion": "b"}\n\n{"prompt": "天", "completion": "地"}\n',
    "long.txt": "fox\n" + "the fox " * 9 + "\n",
    "mixed.jsonl": '{"text": "the fox"}\n{"prompt": "the ", "completion": "fox"}\n',
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    for name, text in FILES.items():
        (folder / name).write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--tokenizer", "bpe:280", "--out", "r", *TINY.split()]) == 0
        assert main(["train", "--data", "a.txt", "--out", "c", *TINY.split()]) == 0  # characters, without an end token
        learn = "--max-steps 1 --batch-size 1 --eval-batches 1 --threads 1"
        assert main(["finetune", "r", "--data", "tasks2.jsonl", "--out", "f", *learn.split()]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def records(capsys, *words):
    code, out, err = command(capsys, "score", *words, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()], err


def test_each_line_of_a_text_is_scored_by_itself(capsys, here, caplog):
    found, _ = records(capsys, "r", "lines.txt", "--top", "2")
    assert caplog.messages == ["lines.txt: 1 blank line left out"]
    model, tokenizer = GPT.from_pretrained("r"), Tokenizer.from_pretrained("r")
    # the run has learned one long text, so a line begins after a line end, and not after the end token
    for line, (number, text) in zip(found, [(1, "the fox"), (3, " 天地")], strict=True):
        score = npgpt.score(model, tokenizer, text, after_end=False, top=2)
        assert (line["line"], line["text"]) == (number, text)
        assert line["ids"] == score.ids.tolist() == list(tokenizer.encode(text))
        assert line["logprobs"] == score.logprobs.tolist()
        assert line["ranks"] == score.ranks.tolist()
        assert line["contexts"] == list(range(1, 1 + len(score.ids)))
        assert [[i for i, _ in top] for top in line["top"]] == score.top_ids.tolist()
        assert (line["tokens"], line["bytes"]) == (len(score.ids), len(text.encode()))
        assert line["nats"] == score.nats == pytest.approx(-sum(line["logprobs"]))
        assert line["perplexity"] == score.perplexity
        assert line["bits_per_byte"] == score.bits_per_byte
        assert "".join(line["pieces"]).startswith(text[0])


def test_completions_with_their_end_tokens_have_the_loss_that_eval_prints(capsys, here):
    code, out, _ = command(capsys, "eval", "f", "--data", "tasks.jsonl")
    assert code == 0
    rows = dict(line.split()[:2] for line in out.splitlines()[1:])
    found, err = records(capsys, "f", "tasks.jsonl", "--end")
    assert [(line["prompt"], line["completion"]) for line in found] == PAIRS
    nats, n = sum(line["nats"] for line in found), sum(line["tokens"] for line in found)
    assert rows["loss"] == f"{nats / n:.4f}"
    assert int(rows["tokens"]) == n
    assert rows["bits/byte"] == f"{nats / math.log(2) / sum(line['bytes'] for line in found):.4f}"
    assert f"nats        {nats:.3f} ({nats / n:.4f} per token)" in err
    assert f"bits/byte   {rows['bits/byte']}" in err


def test_a_list_in_json_is_scored_by_its_entries_and_not_as_a_line_of_text(capsys, here):
    questions = [{"instruction": "the", "input": "quick", "output": "fox"}, {"instruction": "天", "output": "地"}]
    (here / "list.json").write_text(json.dumps(questions))
    found, _ = records(capsys, "f", "list.json", "--end")
    assert [(line["line"], line["completion"]) for line in found] == [(1, "fox"), (2, "地")]
    nats, n = sum(line["nats"] for line in found), sum(line["tokens"] for line in found)
    code, out, _ = command(capsys, "eval", "f", "--data", "list.json")
    assert code == 0
    assert f"loss        {nats / n:.4f} nats per token\n" in out
    (here / "pairs.json").write_text(json.dumps([{"prompt": p, "completion": c} for p, c in PAIRS], indent=1))
    assert [line["nats"] for line in records(capsys, "f", "pairs.json")[0]] == [
        line["nats"] for line in records(capsys, "f", "tasks.jsonl")[0]
    ]
    (here / "choices.json").write_text(json.dumps([{"prompt": "the ", "choices": ["fox", "天"]}]))
    refused(capsys, here, ["score", "r", "choices.json"], "choices.json: one list in JSON", "write a line for each")


def test_the_likeliest_choice_is_marked_and_counted(capsys, here):
    for per in "token", "byte", "text":
        found, err = records(capsys, "r", "choices.jsonl", "--per", per)
        for line in found:
            sizes = {"token": "tokens", "byte": "bytes"}
            costs = [choice["nats"] / choice.get(sizes.get(per), 1) for choice in line["choices"]]
            assert line["likeliest"] == costs.index(min(costs))
        assert [line.get("answer") for line in found] == [1, 0, None]
        right = sum(line["right"] for line in found[:2])
        assert f"choices     {right} of 2 right ({50 * right:.1f}%), by nats per {per}" in err
    code, out, _ = command(capsys, "score", "r", "choices.jsonl")
    assert code == 0
    marked = [line.split()[-1] for line in out.splitlines() if " * " in line]
    found, _ = records(capsys, "r", "choices.jsonl")
    assert marked == [line["choices"][line["likeliest"]]["completion"].split()[-1] for line in found]


def test_a_table_shows_lines_and_tokens(capsys, here):
    code, out, _ = command(capsys, "score", "c", "texts.json", "--top", "2")
    assert code == 0
    rows = out.splitlines()
    assert rows[0].split() == ["line", "tokens", "nats", "nats/token", "perplexity", "bits/byte", "text"]
    assert rows[1].split()[:2] == ["1", "7"]
    assert rows[1].endswith(r"the\nfox")
    assert r'"\n"  of "' in rows[6]
    assert rows[3].split()[1].endswith("%")
    assert out.endswith("tokens      10 (10 bytes) in 2 lines\n")


@pytest.mark.parametrize("kind", ["file", "standard input"])
def test_lines_may_be_of_several_kinds_wherever_they_come_from(capsys, here, monkeypatch, kind):
    if kind == "file":
        found, _ = records(capsys, "r", "mixed.jsonl")
    else:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILES["mixed.jsonl"].encode())))
        found, _ = records(capsys, "r", "-")
    assert [set(line) & {"text", "prompt", "completion"} for line in found] == [{"text"}, {"prompt", "completion"}]


def test_a_named_field_or_none_decides_what_is_read(capsys, here):
    found, _ = records(capsys, "r", "texts.json", "--text-field", "none")
    assert [line["text"] for line in found] == FILES["texts.json"].splitlines()
    (here / "named.txt").write_text('{"content": "the fox"}\n')
    found, _ = records(capsys, "r", "named.txt", "--text-field", "content")
    assert [line["text"] for line in found] == ["the fox"]


def test_a_text_past_the_context_is_said_to_be_read_in_windows(capsys, here, caplog):
    found, _ = records(capsys, "c", "long.txt")
    assert caplog.messages == ["1 of 2 texts are longer than the context of 32, and read in windows"]
    assert max(found[1]["contexts"]) == 32
    assert found[1]["tokens"] == 72


WRONG = {
    '{"text": 3}': "'text' is 3, not a string",
    '{"text": "fox", "prompt": "a"}': "expected 'text', or 'prompt' with 'completion' or 'choices'",
    '{"prompt": "a"}': "expected 'text', or 'prompt' with 'completion' or 'choices'",
    '{"prompt": "a", "completion": "b", "choices": ["a", "b"]}': "expected 'text', or 'prompt'",
    '{"prompt": ["a"], "completion": ["b"]}': "'prompt' must be one string",
    '{"prompt": "a", "choices": "b"}': "'choices' must be a list",
    '{"prompt": "a", "choices": ["b"]}': "'choices' needs at least two",
    '{"prompt": "a", "choices": ["b", 3]}': "'choices' is 3, not a string",
    '{"prompt": "a", "choices": ["b", ""]}': "the completion is empty",
    '{"prompt": "a", "choices": ["b", "c"], "answer": 2}': "'answer' is 2",
    '{"prompt": "a", "choices": ["b", "c"], "answer": "d"}': "'answer' is 'd'",
    '{"prompt": "a", "choices": ["b", "c"], "answer": true}': "'answer' is True",
    '{"text": ""}': "the text '' is empty",
    '{"text": "\\ud800"}': "lone surrogate",
    "[1]": "expected an object",
    "{": "not JSON",
    json.dumps({"prompt": "the " * 30, "completion": "fox"}): "too long",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_named_before_anything_is_printed(capsys, here, line):
    (here / "wrong.jsonl").write_text('{"text": "fox"}\n\n' + line + "\n")
    refused(capsys, here, ["score", "r", "wrong.jsonl"], "wrong.jsonl:3: ", WRONG[line])


def test_what_has_no_effect_or_no_line_is_refused(capsys, here):
    (here / "unknown.txt").write_text("fox\nthe ☃ fox\n")
    (here / "blank.txt").write_text("\n \n")
    refused(capsys, here, ["score", "c", "unknown.txt"], "unknown.txt:2: character '☃'")
    refused(capsys, here, ["score", "r", "a.txt", "--top", "-1"], "--top=-1 must be at least 0")
    refused(capsys, here, ["score", "r", "a.txt", "--top", "999"], "--top 999 is more than the 280 tokens")
    refused(capsys, here, ["score", "c", "a.txt", "--end"], "a.txt:1:", "no token that ends an example")
    refused(capsys, here, ["score", "c", "a.txt", "--special"], "no special tokens")
    code, out, err = command(capsys, "score", "r", "blank.txt")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "npgpt score: error: blank.txt: there is no line to score"
