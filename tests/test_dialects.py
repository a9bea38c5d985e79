"""Kinds of examples and templates: what is read of each, which ids are learned, and that asking reads the same ids."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.data.dialects import kind_of
from npgpt.data.examples import Example, encode_examples, has_examples, read_examples, read_lines
from npgpt.data.templates import AS_GIVEN, FOR_GENERATORS, LINE, Template, asked_ids, escaped
from npgpt.generation.opening import learned
from npgpt.generation.prompts import Framing, Learned, answer_prompt, first_prompt
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.tokenizer import ByteTokenizer
from npgpt.tokenizer.stream import text_file
from tests.test_cli import command

TEXT = "system user assistant: 人工智能 👍🏽 e\u0301\r\n" * 9
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = """{[<|im_start|>system
{system}<|im_end|>
]}<|im_start|>user
{prompt}<|im_end|>
<|im_start|>assistant
{completion}<|im_end|>
"""
SHORT = ["--max-steps", "2", "--batch-size", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 300, special_tokens=SPECIALS)


def chat(*said):
    return {"messages": [{"role": role, "content": text} for role, text in said]}


# (a line, its prompt, completion, further turns, system message and input)
LINES = {
    "chat": (
        chat(("system", "Be"), ("user", "嗨"), ("assistant", "Hi"), ("user", "2?"), ("assistant", "4")),
        ("嗨", "Hi", (("2?", "4"),), "Be", ""),
    ),
    "developer": (chat(("developer", "D"), ("user", "a"), ("assistant", "b")), ("a", "b", (), "D", "")),
    "parts": (
        chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "👋"}]), ("assistant", "b")),
        ("a👋", "b", (), "", ""),
    ),
    "in a row": (
        chat(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")),
        ("a\n\nb", "c\n\nd", (), "", ""),
    ),
    "assistant first": (chat(("assistant", "a")), ("", "a", (), "", "")),
    "open end": (chat(("user", "a"), ("assistant", "b"), ("user", "c")), ("a", "b", (), "", "")),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S"},
        ("a", "b", (), "S", ""),
    ),
    "bing": (
        {"conversations": [{"from": "user", "value": "a"}, {"from": "bing", "value": "b"}]},
        ("a", "b", (), "", ""),
    ),
    "alpaca": ({"instruction": "a", "input": "中", "output": "b"}, ("a", "b", (), "", "中")),
    "alpaca without input": ({"instruction": "a", "output": "b"}, ("a", "b", (), "", "")),
    "question": ({"question": "a", "answer": "b"}, ("a", "b", (), "", "")),
    "query": ({"query": "a", "response": "b"}, ("a", "b", (), "", "")),
    "input": ({"input": "a", "output": "b"}, ("a", "b", (), "", "")),
    "prompt and answer": ({"prompt": "a", "answer": "b"}, ("a", "b", (), "", "")),
    "source": ({"source": "a", "target": "b"}, ("a", "b", (), "", "")),
    "messages beside a prompt": ({"prompt": "x"} | chat(("user", "a"), ("assistant", "b")), ("a", "b", (), "", "")),
}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_read_as_its_kind(tmp_path, caplog, name):
    line, (prompt, completion, more, system, given) = LINES[name]
    path = write(tmp_path / "a.jsonl", line, line)
    kind, (found, _) = read_lines([path])
    assert found == Example(prompt, completion, f"{path}:1", more, system, given)
    assert has_examples(text_file(path))
    assert f"{kind.what}, 2 lines" in caplog.text
    assert ("2 of them end with the user" in caplog.text) == (name == "open end")
    again = kind.write(found, [answer for _, answer in found.turns()])
    (reread,) = read_examples([write(tmp_path / "b.jsonl", again)])
    assert reread._replace(where="") == found._replace(where="")
    (tmp_path / "a.json").write_text(json.dumps([line, line], indent=1), encoding="utf-8")
    assert [one._replace(where="") for one in read_examples([tmp_path / "a.json"])] == [found._replace(where="")] * 2
    assert has_examples(text_file(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (chat(("user", "a")), "no message of the assistant"),
        (chat(("system", "a")), "a system message alone"),
        (chat(("user", "a"), ("system", "b"), ("assistant", "c")), r"messages\[1\] is a system message"),
        (chat(("user", "a"), ("assistant", "")), "the last answer is empty"),
        (chat(("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")), "empty"),
        (chat(("user", "a"), ("tool", "b")), r"messages\[1\] is a call of a tool or its result \(tool\)"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, r"\(tool_calls\)"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "'weight' is 0"),
        (chat(("user", [{"type": "image_url"}]), ("assistant", "c")), "a part of type 'image_url'"),
        (chat(("user", 3), ("assistant", "c")), r"messages\[0\]: 'content' is 3, not a string"),
        (chat(("user", "\ud800"), ("assistant", "c")), r"the lone surrogate U\+D800"),
        (chat(("narrator", "a")), "'role' is 'narrator': expected one of"),
        ({"messages": [{"role": "user"}]}, "'content' is missing"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": ["a"]}, "a message is an object"),
        ({"instruction": "a", "input": None, "output": "b"}, "'input' is None, not a string"),
        ({"instruction": "a", "output": ""}, "'output' is empty"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "'history' has earlier turns"),
        ({"question": ["a"], "answer": ["b"]}, "must be strings, and not lists"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, says):
    with pytest.raises(ValueError, match=rf"a.jsonl:1: .*{says}|a.jsonl:1: {says}"):
        read_examples([write(tmp_path / "a.jsonl", line)])


def test_lines_of_two_kinds_are_refused_with_the_line(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES["alpaca"][0], LINES["chat"][0])
    with pytest.raises(ValueError, match=r"a.jsonl:2: chat messages, but .*a.jsonl:1 has instructions of Alpaca"):
        read_examples([path])
    one, other = write(tmp_path / "b.jsonl", LINES["chat"][0]), write(tmp_path / "c.jsonl", LINES["question"][0])
    with pytest.raises(ValueError, match=r"c.jsonl:1: questions and answers, but .*b.jsonl:1 has chat messages"):
        read_examples([one, other])


def test_lists_and_tables_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(ValueError, match=r"a.csv: a table: .*pandas.read_csv\(FILE\).to_json"):
        read_examples([tmp_path / "a.csv"])
    (tmp_path / "a.json").write_text('[{"prompt": "a", "completion": "b"}, 3]')
    with pytest.raises(ValueError, match=r"a.json: entry 2: expected an object"):
        read_examples([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text('[{"prompt": "a", "completion": "b"},')
    with pytest.raises(ValueError, match=r"a.json: not a list in JSON"):
        read_examples([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="there is no example to learn"):
        read_examples([tmp_path / "a.json"])


def test_files_may_begin_with_marks(tmp_path):
    line = json.dumps(LINES["alpaca"][0]).encode()
    (tmp_path / "a.jsonl").write_bytes((b"\xef\xbb\xbf" + line + b"\r\n") * 2)  # two files that were joined
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[\r\n" + line + b",\r\n" + line + b"]")
    for name in "a.jsonl", "a.json":
        assert [one.input for one in read_examples([tmp_path / name])] == ["中", "中"]


@pytest.mark.parametrize("text", ['{\n "prompt": "a"}', "[1, 2]", "[]", "", '[{"text": "a"}]', '[{"a": 1}, 3]', "中"])
def test_other_files_in_json_hold_no_examples(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert not has_examples(text_file(tmp_path / "a.json"))


def test_a_file_without_completions_has_the_kind_of_what_is_asked(tmp_path, caplog):
    paths = [write(tmp_path / name, {"question": "a"}) for name in ("a.jsonl", "b.jsonl")]
    kind, found = read_lines(paths, completions=False)
    assert (kind.template, kind.asked, found[1].turns()) == (LINE, "question", (("a", ""),))
    assert "2 files: questions and answers, 2 lines" in caplog.text
    with pytest.raises(ValueError, match="'prompt' is missing"):
        read_lines(paths)


def test_a_line_of_no_kind_is_told_the_keys_that_begin_one(tmp_path):
    with pytest.raises(ValueError, match="'prompt' is missing, and so are messages, conversations, instruction"):
        read_lines([write(tmp_path / "a.jsonl", {"foo": 1})])


def test_without_completions_a_chat_may_end_with_the_user(tmp_path):
    path = write(tmp_path / "a.jsonl", chat(("user", "a"), ("assistant", "b"), ("user", "c")), chat(("user", "d")))
    found = read_examples([path], completions=False)
    assert [one.turns() for one in found] == [(("a", "b"), ("c", "")), (("d", ""),)]


# --- what the model reads


def test_the_ids_of_a_chat_are_those_of_chatml(tokenizer):
    tokenizer = tokenizer.ending_with("<|im_end|>")
    start, end = (tokenizer.special_tokens[name] for name in SPECIALS[1:])
    example = Example("嗨 <|im_end|>", "Hi", more=(("2?", "4"),), system="Be")
    ((ids,), (read,)) = encode_examples([example], tokenizer, Template.parse(CHATML))
    enc = lambda text: tokenizer.encode(text).tolist()  # noqa: E731
    asked = [start, *enc("system\nBe"), end, *enc("\n"), start, *enc("user\n嗨 <|im_end|>"), end, *enc("\n")]
    asked += [start, *enc("assistant\n")]
    second = [*enc("\n"), start, *enc("user\n2?"), end, *enc("\n"), start, *enc("assistant\n")]
    assert ids.tolist() == [*asked, *enc("Hi"), end, *second, *enc("4")]
    learned_ids = [*enc("Hi"), end, *enc("4")]
    assert ids[~read].tolist() == learned_ids


def test_plain_lines_are_read_with_a_line_end(tokenizer):
    example = Example("Do", "👋", system="Be", input="中")
    ((ids,), (read,)) = encode_examples([example], tokenizer, LINE)
    assert ids[read].tolist() == tokenizer.encode("Be\n\nDo\n\n中\n").tolist()
    assert ids[~read].tolist() == tokenizer.encode("👋").tolist()


TEMPLATES = {
    "as given": AS_GIVEN,
    "line": LINE,
    "chatml": Template.parse(CHATML),
    "alpaca": Template.parse("### I:\n{instruction}\n{[### In: {input}\n]}### R:\n{completion}\n\n"),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", LINES)
def test_a_prompt_has_the_same_ids_in_training_and_when_asked(tokenizer, tmp_path, name, template):
    tokenizer = tokenizer.ending_with("<|im_end|>")
    model = GPT(GPTConfig(300, 400, 8, 1, 2))
    (example,) = read_examples([write(tmp_path / "a.jsonl", LINES[name][0])])
    turns = example.turns()
    ((ids,), (read,)) = encode_examples([example], tokenizer, TEMPLATES[template])
    whole = [tokenizer.end_id, *ids.tolist()]
    for number, (prompt, completion) in enumerate(turns):
        asked = answer_prompt(
            model, tokenizer, prompt, turns[:number], False, TEMPLATES[template], example.system, example.input
        )
        assert whole[: len(asked)] == asked
        answer = tokenizer.encode(completion).tolist()
        assert whole[len(asked) : len(asked) + len(answer)] == answer
        assert not read[len(asked) - 1 : len(asked) - 1 + len(answer)].any()
        assert read[len(asked) - 2] or len(asked) == 1


def test_a_vocabulary_without_special_tokens_reads_a_template_as_text():
    ids = asked_ids(Template.parse(CHATML), ByteTokenizer(), "a")
    assert bytes(ids).decode() == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_a_special_token_that_would_not_be_learned_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"has <\|im_end\|> after \{completion\}, but .*--end-token '<\|im_end\|>'"):
        encode_examples([Example("a", "b")], tokenizer, Template.parse(CHATML))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{prompt}", "{completion} is missing"),
        ("{completion}", "{prompt} is missing"),
        ("{prompt}{[{completion}]}", r"is missing outside of {\[ \]}"),
        ("{prompt}{prompt}{completion}", "2 places for the prompt"),
        ("{prompt}{instruction}{completion}", "2 places for the prompt"),
        ("{completion}{prompt}", "must be the last place"),
        ("{promt}{completion}", "did you mean 'prompt'"),
        ("{[a{system}{prompt}{completion}", "does not end with"),
        ("{[a]}{prompt}{completion}", "has no place"),
        ("{[{[{system}]}]}{prompt}{completion}", "cannot be in another"),
        ("", "{completion} is missing"),
        ("{end}{prompt}{completion}", "{end} can stand only once, directly before {completion}"),
        ("{prompt}{end}{end}{completion}", "{end} can stand only once"),
        ("{[{system}{end}]}{prompt}{end}{completion}", "{end} can stand only once"),
        ("{prompt}{completion}{end}", "{end} can stand only once"),
    ],
)
def test_a_template_that_is_none_is_refused(tmp_path, text, says):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ValueError, match=rf"t: .*{says}"):
        Template.read(tmp_path / "t")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.txt", "{% for m in messages %}{{ m }}{% endfor %}", "Jinja"),
        ("t.txt", "{{ prompt }}{completion}", "Jinja"),
        ("chat_template.jinja", "a", "Jinja"),
        ("tokenizer_config.json", '{"chat_template": "{% if a %}"}', "Jinja"),
        ("tokenizer_config.json", "{}", "a JSON file is no template"),
    ],
)
def test_a_template_in_jinja_is_refused_by_name(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}"):
        Template.read(tmp_path / name)


TEXTS = st.text(st.sampled_from(r"{}[]\% abprompt中👋🏽" + "\n\u0301"), max_size=12) | st.text(max_size=8)


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
def test_any_text_can_be_in_a_template_and_in_its_places(one, two, after, prompt, system):
    before, inside = escaped(one, True), escaped(two, True)
    spelt = f"{before}{{prompt}}{inside}{{[<{{system}}]}}{{completion}}{escaped(after)}"
    template = Template.parse(spelt)
    assert template.shown(prompt, system) == one + prompt + two + (f"<{system}" if system else "")
    assert template.after == after


# --- where a generator's prompt ends


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["alpaca", "input", "developer"])
def test_the_end_token_comes_between_a_generators_prompt_and_its_completion(tokenizer, tmp_path, name, template):
    """Whichever token that is, it is read and not learned, and all else is as the template without {end} has it."""
    tokenizer = tokenizer.ending_with("<|im_end|>")
    (example,) = read_examples([write(tmp_path / "a.jsonl", LINES[name][0])])
    plain = TEMPLATES[template]
    ended = plain.with_end()
    assert (plain.ends, ended.ends, ended.with_end()) == (False, True, ended)
    ((ids,), (read,)) = encode_examples([example], tokenizer, ended)
    ((before,), (read_before,)) = encode_examples([example], tokenizer, plain)
    at = int(np.flatnonzero(~read)[0])
    assert at > 1
    assert (ids[at - 1], read[at - 1]) == (tokenizer.end_id, True)
    assert np.delete(ids, at - 1).tolist() == before.tolist()
    assert np.delete(read, at - 1).tolist() == read_before.tolist()
    model = GPT(GPTConfig(300, 400, 8, 1, 2))
    asked = answer_prompt(model, tokenizer, example.prompt, (), False, ended, example.system, example.input)
    assert asked == [tokenizer.end_id, *ids[:at].tolist()]


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("{prompt}{completion}", "{prompt}{end}{completion}"),
        (r"\{completion}{prompt}{completion}\{completion}", r"\{completion}{prompt}{end}{completion}\{completion}"),
        (r"{prompt}\\{completion}", r"{prompt}\\{end}{completion}"),
    ],
)
def test_an_end_goes_before_the_place_and_not_before_its_name_as_text(text, ended):
    assert Template.parse(text).with_end().text == ended


def test_a_generator_reads_one_turn(tokenizer):
    with pytest.raises(ValueError, match="2 turns, and a generator reads one prompt"):
        encode_examples([Example("a", "b", more=(("c", "d"),))], tokenizer, FOR_GENERATORS)
    with pytest.raises(ValueError, match="give each completion a line of its own"):
        asked_ids(FOR_GENERATORS, tokenizer, "c", before=[("a", "b")])


def test_a_generators_text_begins_after_its_prompt(tokenizer):
    end = tokenizer.end_id
    known = Learned(examples=True, documents=False, template=FOR_GENERATORS)
    enc = lambda text: tokenizer.encode(text).tolist()  # noqa: E731
    assert first_prompt(tokenizer, None, known) == [end, end]
    assert first_prompt(tokenizer, "嗨", known) == [end, *enc("嗨"), end]
    assert first_prompt(tokenizer, "嗨", known._replace(template=AS_GIVEN)) == [end, *enc("嗨")]
    framing = Framing(tokenizer, after_end=True, template=FOR_GENERATORS)
    with pytest.raises(ValueError, match="JSON lines with prompt and completion"):
        framing.text("Hi")
    assert framing.completion("嗨", "Hi", 99) == ([end, *enc("嗨"), end, *enc("Hi")], 2 + len(enc("嗨")))


# --- the commands


@pytest.fixture
def here(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    GPT(GPTConfig(300, 64, 8, 1, 2), seed=1).save_pretrained("m")
    tokenizer.save_pretrained("m")
    write(tmp_path / "chat.jsonl", *[LINES["chat"][0]] * 4)
    (tmp_path / "t.txt").write_text(CHATML)
    return tmp_path


def tune(capsys, *flags):
    return command(capsys, "finetune", "m", "--data", "chat.jsonl", "--out", "r", *SHORT, *flags)


def test_a_model_is_asked_as_it_was_taught(capsys, here, monkeypatch, tokenizer):
    code, out, err = tune(capsys, "--template", "t.txt", "--end-token", "<|im_end|>")
    assert code == 0, err
    assert "<|im_start|>user\n嗨<|im_end|>\n<|im_start|>assistant\n[" in out
    assert learned("r").template == Template.parse(CHATML)
    asked, submit = [], None
    from npgpt.generation.engine import Generator

    submit = Generator.submit
    monkeypatch.setattr(Generator, "submit", lambda self, ids, *rest: asked.append(ids) or submit(self, ids, *rest))
    tokenizer = tokenizer.ending_with("<|im_end|>")
    assert command(capsys, "ask", "r", "--prompt", "嗨", "--max-new-tokens", "1")[0] == 0
    assert asked.pop() == [tokenizer.end_id, *asked_ids(Template.parse(CHATML), tokenizer, "嗨")]
    assert command(capsys, "ask", "r", "--prompt", "嗨", "--system", "Be", "--max-new-tokens", "1")[0] == 0
    with_system = asked.pop()
    code, out, err = command(capsys, "ask", "r", "--data", "chat.jsonl", "--max-new-tokens", "1")
    assert code == 0, err
    assert (
        asked[0] == with_system == [tokenizer.end_id, *asked_ids(Template.parse(CHATML), tokenizer, "嗨", system="Be")]
    )
    assert [message["role"] for message in json.loads(out.splitlines()[0])["messages"]] == [
        *("system", "user", "assistant", "user", "assistant")
    ]
    # eval and score measure the same completions, so with --end their nats agree
    code, out, err = command(capsys, "eval", "r", "--data", "chat.jsonl")
    assert code == 0, err
    loss = float(out.split("loss")[1].split()[0])
    code, out, err = command(capsys, "score", "r", "chat.jsonl", "--end", "--json")
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["completion"] for line in found] == ["Hi", "4"] * 4
    mean = sum(line["nats"] for line in found) / sum(line["tokens"] for line in found)
    np.testing.assert_allclose(mean, loss, atol=2e-4)  # four decimals are printed


def test_a_run_keeps_its_template(capsys, here):
    assert tune(capsys)[0] == 0
    assert read_sealed_json(here / "r" / "train.json")["data"]["template"] == LINE.text
    resume = ("finetune", "m", "--resume", "--out", "r", "--max-steps", "3")
    (here / "u.txt").write_text("{prompt}: {completion}")
    code, _, err = command(capsys, *resume, "--template", "u.txt")
    assert code == 2
    assert "the template cannot change with --resume" in err
    assert command(capsys, *resume)[0] == 0


def test_a_model_that_learns_by_another_template_is_named(capsys, here, caplog):
    assert tune(capsys)[0] == 0
    assert "has learned examples" not in caplog.text
    (here / "u.txt").write_text("{prompt}: {completion}")
    again = ("finetune", "r", "--data", "chat.jsonl", *SHORT)
    assert command(capsys, *again, "--out", "s")[0] == 0
    assert "has learned examples" not in caplog.text
    assert command(capsys, *again, "--out", "t", "--template", "u.txt")[0] == 0
    assert f"r has learned examples as {LINE.text!r}, and now learns them as '{{prompt}}: " in caplog.text


def test_an_adapter_is_asked_as_it_was_taught(capsys, here):
    assert tune(capsys, "--lora", "2")[0] == 0
    assert learned("r/adapter") == learned("r")
    both = [command(capsys, "ask", run, "--data", "chat.jsonl", "--max-new-tokens", "3") for run in ("r", "r/adapter")]
    assert both[0][0] == 0
    assert both[0][1] == both[1][1]
    both = [command(capsys, "eval", run, "--data", "chat.jsonl")[1] for run in ("r", "r/adapter")]
    assert both[0].startswith("8 completions of 4 lines")
    assert both[0] == both[1]


def test_a_system_message_goes_with_a_prompt(capsys, here):
    code, _, err = command(capsys, "ask", "m", "--data", "chat.jsonl", "--system", "a")
    assert (code, err.count("\n")) == (2, 1)
    assert "--system goes with --prompt" in err


def test_prompts_to_sample_are_no_chats(capsys, here):
    code, _, err = command(capsys, "sample", "m", "--prompts", "chat.jsonl")
    assert code == 2
    assert "chat.jsonl:1: a conversation of several prompts: npgpt ask --data" in err


def test_a_run_of_an_earlier_version_goes_on(capsys, here):
    write(here / "chat.jsonl", *[{"prompt": "a", "completion": "b"}] * 4)
    assert tune(capsys)[0] == 0
    saved = read_sealed_json(here / "r" / "train.json")
    del saved["data"]["template"]
    write_sealed_json(here / "r" / "train.json", saved)
    assert learned("r").template is None
    assert command(capsys, "ask", "r", "--prompt", "a", "--max-new-tokens", "1")[0] == 0
    code, _, err = command(capsys, "finetune", "m", "--resume", "--out", "r", "--max-steps", "3")
    assert code == 0, err


def test_a_chat_template_of_the_model_is_not_applied_and_said(capsys, here, caplog):
    path = here / "m" / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {"chat_template": "{% if a %}"}))
    assert command(capsys, "ask", "m", "--prompt", "a", "--max-new-tokens", "1")[0] == 0
    assert "has a chat template in Jinja, which is not applied" in caplog.text


def test_a_line_of_no_kind_has_none():
    assert kind_of({"text": "a"}) is None
    assert kind_of({"prompt": "a"}) is None
    assert kind_of({"prompt": "a"}, completions=False).asked == "prompt"
