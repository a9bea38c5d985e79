"""npgpt sample: every setting as a flag, several texts, prompts from a file, and the loop in a terminal."""

import argparse
import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling, Tokenizer
from npgpt.cli import sampling
from npgpt.cli.parser import Parser
from npgpt.generation import search
from npgpt.generation.in_order import AHEAD, finished, in_order
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from tests.test_cli import command

TEXT = "白日依山盡，\n黃河入海流。\ne\u0301🙂"
END = "<|endoftext|>"
FIELDS = [field.name for field in dataclasses.fields(Sampling)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Untrained models with characters, bytes, and byte pairs with an end token."""
    folder = tmp_path_factory.mktemp("sample")
    bpe = Tokenizer.train([TEXT * 3], 290, special_tokens=[END])
    for name, tokenizer in ("chars", CharTokenizer([TEXT])), ("bytes", ByteTokenizer()), ("bpe", bpe):
        config = GPTConfig(tokenizer.vocab_size, 24, 8, 1, 2, eos_token_id=tokenizer.end_id)
        GPT(config, seed=1).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)
    return runs


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def opened(name):
    return GPT.from_pretrained(name), Tokenizer.from_pretrained(name)


# a value of each setting as a flag, and what Sampling then has. What needs another setting is given with it
VALUES = {
    "max_new_tokens": ("7", 7),
    "min_new_tokens": ("3", 3),
    "context": ("slide", "slide"),
    "temperature": ("0.5", 0.5),
    "top_k": ("5", 5),
    "top_p": ("0.9", 0.9),
    "min_p": ("0.05", 0.05),
    "typical_p": ("0.9", 0.9),
    "epsilon_cutoff": ("1e-4", 1e-4),
    "eta_cutoff": ("1e-4", 1e-4),
    "top_n_sigma": ("1.5", 1.5),
    "mirostat_tau": ("3", 3.0),
    "mirostat_eta": ("0.2", 0.2),
    "seed": ("4", 4),
    "order": ("top_k,temperature", ("top_k", "temperature")),
    "repetition_penalty": ("1.2", 1.2),
    "presence_penalty": ("-0.5", -0.5),
    "frequency_penalty": ("0.5", 0.5),
    "penalty_window": ("8", 8),
    "dry_multiplier": ("0.8", 0.8),
    "dry_base": ("2", 2.0),
    "dry_allowed_length": ("3", 3),
    "dry_breakers": ("\\n", ("\n",)),
    "no_repeat_ngram_size": ("3", 3),
    "logit_bias": ("5=-inf", {5: float("-inf")}),
    "banned": ("海", ("海",)),
    "prefix": ("日\\n", "日\n"),
    "negative_prompt": ("日", "日"),
    "guidance_scale": ("1.5", 1.5),
    "stop": ("\\n\\n", ("\n\n",)),
    "stop_regex": ("日+", "日+"),
    "stop_ids": ("3,5", (3, 5)),
    "regex": ("日{3}", "日{3}"),
    "json_schema": ("schema.json", '{"type": "integer"}'),
    "choices": ("日", ("日",)),
    "logprobs": ("2", 2),
}
TOGETHER = {
    "negative_prompt": {"guidance_scale": 1.5},
    "guidance_scale": {"negative_prompt": "日"},
    "mirostat_eta": {"mirostat_tau": 3.0},
    "penalty_window": {"no_repeat_ngram_size": 3},
    "dry_base": {"dry_multiplier": 0.8},
    "dry_allowed_length": {"dry_multiplier": 0.8},
    "dry_breakers": {"dry_multiplier": 0.8},
}


def parsed(*words):
    parser = Parser(prog="npgpt sample")
    parser.set_defaults(run="no folder", folder=Path("no folder"), base=None)
    sampling.add_sampling_flags(parser, {})
    return sampling.sampling_of(parser.parse_args(words), {})


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "penalize_prompt"])
def test_every_setting_is_a_flag(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.json").write_text('{"type":"integer"}')
    written, value = VALUES[name]
    needed = TOGETHER.get(name, {})
    found = parsed(f"{sampling.flag(name)}={written}", *(f"{sampling.flag(n)}={v}" for n, v in needed.items()))
    assert getattr(found, name) == value
    assert found == Sampling(**{name: value}, **needed)


def test_flags_that_may_be_given_several_times():
    line = "--stop a --stop b --banned c --banned d --logit-bias 1=2 --logit-bias 3=-inf --choices x y"
    found = parsed(*line.split(), "--no-penalize-prompt", "--presence-penalty", "1")
    assert (found.stop, found.banned, found.choices) == (("a", "b"), ("c", "d"), ("x", "y"))
    assert dict(found.logit_bias) == {1: 2.0, 3: float("-inf")}
    assert not found.penalize_prompt


def test_help_has_a_line_for_every_setting_and_its_default():
    assert sorted(name for group in sampling.FLAGS.values() for name in group) == sorted(FIELDS)
    parser = Parser(prog="npgpt")
    sampling.add_sampling_flags(parser, {"temperature": 0.8})
    page = " ".join(parser.format_help().split())
    assert "(default: 0.8)" in page
    assert "generation_config.json" in page


@pytest.mark.parametrize("search", ["--num-beams 2", "--penalty-alpha 0.5 --top-k 2"])
def test_the_folders_draws_have_no_effect_on_a_search_without_draws(capsys, caplog, here, tmp_path, search):
    shutil.copytree("bytes", tmp_path / "r")
    (tmp_path / "r" / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    found = [
        command(capsys, "sample", run, *search.split(), "--max-new-tokens", 5) for run in ("bytes", tmp_path / "r")
    ]
    assert found[0][:2] == found[1][:2]
    assert "sets temperature=0.6" in caplog.messages[-1]
    assert "nothing is drawn" in caplog.messages[-1]


def test_a_flag_comes_before_the_folders_file_and_that_before_the_commands_default(capsys, caplog, here, tmp_path):
    shutil.copytree("bytes", tmp_path / "r")
    (tmp_path / "r" / "generation_config.json").write_text('{"do_sample": true, "top_k": 1, "max_new_tokens": 4}')
    likeliest = command(capsys, "sample", "bytes", "--temperature", 0, "--max-new-tokens", 4)[1]
    assert command(capsys, "sample", tmp_path / "r")[:2] == (0, likeliest)
    assert "sets temperature=1.0, top_k=1, max_new_tokens=4; flags override it" in caplog.messages[-1]
    given = command(capsys, "sample", tmp_path / "r", "--max-new-tokens", 2)[1]
    assert given == likeliest[:2] + "\n"
    assert "max_new_tokens" not in caplog.messages[-1]


def test_the_command_writes_what_the_generator_writes(capsys, here):
    model, tokenizer = opened("chars")
    settings = {"max_new_tokens": 30, "temperature": 0.7, "min_p": 0.01, "repetition_penalty": 1.3, "seed": 5}
    ids = tokenizer.encode("白日")
    (found,) = Generator(model, tokenizer).complete([ids], **settings)
    flags = [f"{sampling.flag(name)}={value}" for name, value in settings.items()]
    assert command(capsys, "sample", "chars", "--prompt", "白日", *flags) == (0, f"白日{found.text}\n", "")


def test_several_samples_have_a_line_before_each_and_the_first_is_that_of_one(capsys, here):
    flags = ("sample", "chars", "--prompt", "日", "--max-new-tokens", 9)
    one = command(capsys, *flags)[1]
    code, out, err = command(capsys, *flags, "--num-samples", 3)
    assert (code, err) == (0, "")
    assert out.startswith(f"--- sample 1 of 3 ---\n{one}--- sample 2 of 3 ---\n日")
    told = lines(command(capsys, *flags, "--num-samples", 3, "--json")[1])
    assert "".join(f"--- sample {i} of 3 ---\n日{line['text']}\n" for i, line in enumerate(told, 1)) == out
    assert len({line["text"] for line in told}) == 3


def test_prompts_of_a_file_are_continued_in_order_each_as_alone(capsys, here):
    """Also when there are more than are written at once, and of other lengths; an empty line starts a new text."""
    prompts = [*("日" * (i % 7 + 1) + "河" for i in range(AHEAD + 5)), "", "e\u0301🙂\u2028"[:3]]
    (here / "句.txt").write_bytes("\r\n".join(prompts).encode())
    code, out, err = command(capsys, "sample", "chars", "--prompts", "句.txt", "--max-new-tokens", 5, "--logprobs", 2)
    assert (code, err) == (0, "")
    found = lines(out)
    assert [line["prompt"] for line in found] == prompts
    tokenizer = Tokenizer.from_pretrained("chars")
    for line in (found[0], found[8], found[-2], found[-1]):
        alone = ("--prompt", line["prompt"]) if line["prompt"] else ()
        out = command(capsys, "sample", "chars", *alone, "--max-new-tokens", 5, "--json", "--logprobs", 2)[1]
        assert lines(out) == [line]
        assert line.keys() == {"prompt", "text", "ids", "logprobs", "finish_reason", "top"}
        assert tokenizer.decode(line["ids"]) == line["text"]
        assert (len(line["ids"]), len(line["logprobs"]), line["finish_reason"]) == (5, 5, "length")
        for token, logprob, top in zip(line["ids"], line["logprobs"], line["top"], strict=True):
            assert len(top) == 2
            assert logprob <= top[0][1]
            assert dict(map(tuple, top)).get(token, logprob) == logprob


def test_prompts_of_json_lines_may_have_line_ends(capsys, here):
    (here / "p.jsonl").write_text('{"prompt": "日\\n河", "more": 1}\n\n{"prompt": ""}\n', "utf-8")
    code, out, _ = command(capsys, "sample", "chars", "--prompts", "p.jsonl", "--max-new-tokens", 1)
    assert (code, [line["prompt"] for line in lines(out)]) == (0, ["日\n河", ""])
    (here / "p.jsonl").write_text('{"prompt": "日"}\n{"prompt": ["日", "河"]}\n', "utf-8")
    code, out, err = command(capsys, "sample", "chars", "--prompts", "p.jsonl")
    assert (code, out) == (2, "")
    assert "p.jsonl:2: a conversation" in err


def stdin(monkeypatch, data, terminal=False):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: terminal, buffer=io.BytesIO(data)))


def test_prompts_from_standard_input(capsys, here, monkeypatch):
    stdin(monkeypatch, "日\n河\n".encode())
    code, out, _ = command(capsys, "sample", "chars", "--prompts", "-", "--max-new-tokens", 2, "--num-samples", 2)
    assert (code, [line["prompt"] for line in lines(out)]) == (0, ["日", "日", "河", "河"])
    stdin(monkeypatch, "日\r\n河\n".encode())
    code, out, _ = command(capsys, "sample", "chars", "--prompt", "-", "--max-new-tokens", 0)
    assert (code, out) == (0, "日\n河\n")


def test_a_prompt_that_cannot_be_read_is_named_before_anything_is_written(capsys, here):
    (here / "a.txt").write_text("日\n海\nX\n", "utf-8")
    code, out, err = command(capsys, "sample", "chars", "--prompts", "a.txt")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "a.txt:3: character 'X'" in err


def test_a_stop_string_is_never_shown(capsys, here):
    whole = command(capsys, "sample", "bytes", "--max-new-tokens", 60)[1]
    at = whole[20:23]
    found = command(capsys, "sample", "bytes", "--max-new-tokens", 60, "--stop", "\\n" if at == "\n" else at)[1]
    assert found == whole[: whole.index(at)] + "\n"


MISTAKES = [
    ("--num-samples 2 --temperature 0", "--num-samples 2 at temperature 0"),
    ("--num-samples 0", "--num-samples=0"),
    ("--stop=", "--stop: it is empty"),
    ("--banned=", "--banned: it is empty"),
    ("--logit-bias 999=1", "999"),
    ("--logit-bias 5", "ID=X"),
    ("--logit-bias x=1", "ID=X"),
    ("--logit-bias 5=nan", "nan"),
    ("--logit-bias 5=1 --logit-bias 5=2", "twice"),
    ("--stop-ids 999", "999"),
    ("--stop-ids a", "list of ids"),
    ("--prompts a.txt --prompt a", "--prompt and --prompts cannot be combined"),
    ("--prompts a.txt --interactive", "--prompts and --interactive cannot be combined"),
    ("--prompt a --interactive", "--prompt and --interactive cannot be combined"),
    ("--interactive", "needs a terminal"),
    ("--interactive --json", "cannot be combined"),
    ("--prompts nosuch.txt", "nosuch.txt"),
    ("--prompts empty.txt", "empty.txt: there is no prompt"),
    ("--prompts -", "nothing to read"),
    ("--prompt -", "nothing to read"),
    ("--logprobs 2", "add --json"),
    ("--choices a b --regex a+", "cannot be combined"),
    ("--json-schema nosuch.json", "nosuch.json"),
    ("--json-schema empty.txt", "empty.txt: not valid JSON"),
    ("--order temprature", "did you mean 'temperature'"),
    ("--order top_k,top_k", "twice"),
    ("--order top_k", "temperature"),
    ("--context sloud", "slide"),
    ("--min-new-tokens 9 --max-new-tokens 3", "--min-new-tokens=9"),
    ("--mirostat-tau 3 --temperature 0", "--mirostat-tau has"),
    ("--negative-prompt a", "--guidance-scale=1"),
    ("--guidance-scale 2", "a --negative-prompt"),
    ("--stop-regex (", "stop_regex"),
    ("--deadline 0", "--deadline=0.0"),
    ("--deadline nan", "--deadline=nan"),
    ("--threads -1", "--threads=-1"),
    ("--weights int4", "int8"),
    ("--min-p 2", "--min-p=2"),
    ("--special", "--special has no effect"),
    ("--dry-base 2", "--dry-base has no effect without --dry-multiplier"),
    ("--dry-breakers a", "--dry-breakers has no effect without --dry-multiplier"),
    ("--mirostat-eta 0.2", "--mirostat-eta has no effect without --mirostat-tau"),
    ("--penalty-window 5", "--penalty-window has no effect without --repetition-penalty"),
    ("--no-penalize-prompt", "--penalize-prompt has no effect without --repetition-penalty"),
    ("--json-schema -", "--json-schema -: "),
    ("--prompts long.txt --context stop", "long.txt:2: the prompt has 40 tokens"),
    ("--num-beams 4 --seed 3", "seed=3"),
    ("--num-beams 4 --temperature 0.5", "temperature=0.5"),
    ("--num-beams 0", "--num-beams=0"),
    ("--num-beams 2 --num-samples 3", "--num-samples 3 is more than --num-beams 2"),
    ("--num-beams 4 --best-of 2", "--num-beams and --best-of cannot be combined"),
    ("--num-beam-groups 2", "no effect without --num-beams"),
    ("--early-stopping maybe --num-beams 2", "never"),
    ("--penalty-alpha 0.6", "top_k"),
    ("--penalty-alpha 0.6 --top-k 3 --num-samples 2", "leave --num-samples out"),
    ("--best-of 0", "--best-of=0"),
    ("--best-of 3 --temperature 0", "--best-of 3 at temperature 0"),
    ("--draft nosuch", "nosuch"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line(capsys, here, monkeypatch, words, says):
    (here / "empty.txt").touch()
    (here / "long.txt").write_text(f"a\n{'b' * 40}\n")
    monkeypatch.setattr("sys.stdin", None)
    code, out, err = command(capsys, "sample", "bytes", *words.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert "Traceback" not in err


def test_a_deadline_ends_a_text_and_says_so(capsys, here):
    code, out, err = command(capsys, "sample", "bytes", "--prompt", "a", "--deadline", 1e-9)
    assert (code, out) == (0, "a\n")
    assert err == "the text was cut off after --deadline 1e-09 seconds\n"
    code, out, err = command(capsys, "sample", "bytes", "--deadline", 1e-9, "--json", "--num-samples", 9)
    assert (code, err) == (0, "")
    assert [line["finish_reason"] for line in lines(out)] == ["deadline"] * 9
    code, out, err = command(capsys, "sample", "bytes", "--deadline", 1e6, "--json", "--max-new-tokens", 2)
    assert [line["finish_reason"] for line in lines(out)] == ["length"], "a deadline that is far away"


def test_a_text_of_a_model_that_knows_ends_is_not_cut_in_silence(capsys, here):
    """A model from elsewhere is assumed to have learned where a text ends."""
    forbid = ("--logit-bias", f"{Tokenizer.from_pretrained('bpe').end_id}=-inf")
    err = command(capsys, "sample", "bpe", *forbid)[2]
    assert err == "the text was cut off after 500 tokens; --max-new-tokens N allows more\n"
    assert command(capsys, "sample", "bpe", *forbid, "--max-new-tokens", 5)[2] == ""
    err = command(capsys, "sample", "bpe", *forbid, "--context", "stop", "--num-samples", 2)[2]
    assert err == "2 of 2 texts were cut off because the context is full\n"


def test_what_does_not_match_its_constraint_ends_with_1(capsys, here):
    pytest.importorskip("llguidance")
    code, out, err = command(capsys, "sample", "bytes", "--regex", "(ab){50}", "--max-new-tokens", 6)
    assert (code, out) == (1, "ababab\n")
    assert err == "the text was cut off before it matched what it must match; --max-new-tokens N allows more\n"
    code, out, err = command(capsys, "sample", "chars", "--choices", "黃河", "e\u0301🙂", "--num-samples", 8, "--json")
    assert (code, err) == (0, "")
    assert {line["text"] for line in lines(out)} == {"黃河", "e\u0301🙂"}
    (here / "schema.json").write_text('{"enum": [true]}')
    assert command(capsys, "sample", "bytes", "--json-schema", "schema.json")[:2] == (0, "true\n")


def test_what_is_not_awaited_is_cancelled():
    model = GPT(GPTConfig(256, 16, 8, 1, 2))
    generator = Generator(model, ByteTokenizer(), slots=1)
    requests = in_order(generator, (([i], None) for i in range(99)), Sampling(max_new_tokens=50))
    assert len(finished(generator, next(requests)).ids) == 50
    second = next(requests)
    assert generator.busy
    requests.close()
    assert second.completion.finish_reason == "cancelled"
    assert not generator.busy


def test_a_search_prints_what_it_finds(capsys, here):
    """One beam, contrastive search without a penalty, and a draft at temperature 0 take the likeliest tokens."""
    flags = ("sample", "bytes", "--prompt", "a", "--max-new-tokens", 9)
    likeliest = command(capsys, *flags, "--temperature", 0)
    for words in "--num-beams 1", "--penalty-alpha 0 --top-k 4", "--draft bytes --temperature 0":
        assert command(capsys, *flags, *words.split()) == likeliest
    groups = "--num-beams 4 --num-beam-groups 2 --diversity-penalty 0.5 --early-stopping never --length-penalty 0.8"
    code, out, err = command(capsys, *flags, *groups.split(), "--num-samples", 2)
    assert (code, err, out.count("--- sample ")) == (0, "", 2)
    told = lines(command(capsys, *flags, "--num-samples", 5, "--json")[1])
    best = max(told, key=lambda line: sum(line["logprobs"]) / len(line["logprobs"]))
    assert command(capsys, *flags, "--best-of", 5)[:2] == (0, f"a{best['text']}\n")


@pytest.mark.parametrize("words", ["--num-beams 2", "--penalty-alpha 0.6 --top-k 3"])
def test_a_search_that_draws_nothing_leaves_out_how_the_folder_draws(capsys, caplog, here, tmp_path, words):
    shutil.copytree("bytes", tmp_path / "r")
    (tmp_path / "r" / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7, "top_p": 0.9}')
    flags = ("--max-new-tokens", 9, *words.split())
    expected = command(capsys, "sample", "bytes", *flags)[1]
    assert command(capsys, "sample", tmp_path / "r", *flags)[:2] == (0, expected)
    assert "temperature=0.7" in caplog.messages[-1]
    assert "nothing is drawn" in caplog.messages[-1]


def test_an_empty_prompt_is_not_what_to_do_without_one(capsys, here, monkeypatch):
    stdin(monkeypatch, b"")
    code, out, err = command(capsys, "sample", "bytes", "--prompt", "-")
    assert (code, out) == (2, "")
    assert "--prompt ''" not in err  # which is an error of its own


def test_a_deadline_is_for_all_prompts_of_a_search(capsys, here, monkeypatch):
    (here / "two.txt").write_text("日\n河\n")
    left = []

    def searched(generator, prompt, beams, sampling, deadline):
        left.append(deadline)
        return []

    monkeypatch.setattr(search, "beam_search", searched)
    assert command(capsys, "sample", "chars", "--prompts", "two.txt", "--num-beams", 2, "--deadline", 60)[0] == 0
    first, second = left
    assert 0 < second < first <= 60


def test_a_flag_that_is_not_given_is_missing():
    parser = Parser(prog="npgpt")
    sampling.add_sampling_flags(parser, {"temperature": 0.8})
    assert parser.parse_args([]) == argparse.Namespace()
