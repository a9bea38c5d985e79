"""Prompts and completions from JSON lines: what is read, what is refused and where, what is learned of it."""

import json

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt.data.examples import Example, ExamplesSource, pack_examples, read_examples
from npgpt.tokenizer import ByteTokenizer

LINES = [{"prompt": f"Say {i}.\n", "completion": f"第{i}个 👋"} for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([line["prompt"] + line["completion"] for line in LINES], 300)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tasks.jsonl"


def write(path, lines) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def test_lines_are_read_in_order_with_their_places(path):
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a", "completion": "\xe4\xb8\xad", "lang": "zh"}\n\n  \r\n'
        b'{"completion": "x", "prompt": ""}\r\n{"prompt": "\\ud83d\\udc4b", "completion": "b\\n"}'
    )
    assert read_examples([path]) == [
        Example("a", "中", f"{path}:1"),
        Example("", "x", f"{path}:4"),
        Example("👋", "b\n", f"{path}:5"),
    ]
    assert len(read_examples([path, path])) == 6


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a", "completion": "b"', "not JSON"),
        (b"prompt,completion", "not JSON: .*; each line must be a JSON object with prompt and completion"),
        (b'["a", "b"]', "expected an object with prompt and completion, got list"),
        (b"null", "expected an object with prompt and completion, got NoneType"),
        (b'{"prompt": "a"}', "'completion' is missing"),
        (b'{"completion": "a"}', "'prompt' is missing"),
        (b'{"prompt": 3, "completion": "b"}', "'prompt' is 3, not a string"),
        (b'{"prompt": "a", "completion": null}', "'completion' is None, not a string"),
        (b'{"prompt": "a", "completion": ""}', "'completion' is empty"),
        (b'{"prompt": "a\\ud800", "completion": "b"}', r"'prompt' has the lone surrogate U\+D800"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": ["a", "b"], "completion": ["c"]}', "there are 2 prompts, but 1 completions"),
        (b'{"prompt": "a", "completion": ["c", "d"]}', "there are 1 prompts, but 2 completions"),
        (b'{"prompt": [], "completion": []}', "there is no prompt"),
        (b'{"prompt": ["a", 3], "completion": ["c", "d"]}', "'prompt' is 3, not a string"),
        (b'{"prompt": ["a", "b"], "completion": ["c", ""]}', "'completion' is empty"),
    ],
)
def test_a_malformed_line_is_named(path, line, says):
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"tasks.jsonl:3: {says}"):
        read_examples([path])


def test_a_file_in_another_encoding_is_refused_with_its_name(path):
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9", "completion": "b"}')
    with pytest.raises(ValueError, match=r"tasks.jsonl: not UTF-8: byte 0xe9 at offset 50; .*--encoding cp1252"):
        read_examples([path])


def test_files_without_examples_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tasks.jsonl: no such file"):
        read_examples([path])
    with pytest.raises(ValueError, match="is a folder"):
        read_examples([tmp_path])
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="there is no example to learn"):
        read_examples([path])


def test_a_completion_may_be_left_out_where_it_is_to_be_made(path):
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "completion": ""}\n{"prompt": "c", "completion": "d"}\n')
    assert [example.completion for example in read_examples([path], completions=False)] == ["", "", "d"]
    path.write_text('{"prompt": ["a", "b"]}\n')
    assert read_examples([path], completions=False)[0].turns() == (("a", ""), ("b", ""))
    path.write_text('{"completion": "a"}\n')
    with pytest.raises(ValueError, match=":1: 'prompt' is missing"):
        read_examples([path], completions=False)


def test_the_completion_alone_is_learned(tokenizer):
    """Every target is a token of a completion or the end behind it, and the prompt stands before it as it is asked."""
    examples = [Example(**line) for line in LINES]
    packed = pack_examples(examples, tokenizer, 40)
    end, found = tokenizer.require_end_id(), []
    for ids, targets, starts in zip(*packed[:3], strict=True):
        last = len(ids) - int(np.argmax(targets[::-1] != -100))
        for start in np.unique(starts[:last]):
            where = np.flatnonzero(starts[:last] == start)
            learned = targets[where]
            n_prompt = int(np.argmax(learned != -100))
            assert (learned[n_prompt:] != -100).all()
            assert ids[where[0]] == learned[-1] == end
            prompt, completion = ids[where[1 : n_prompt + 1]], learned[n_prompt:-1]
            np.testing.assert_array_equal(prompt, tokenizer.encode(tokenizer.decode(prompt)))
            found.append((tokenizer.decode(prompt), tokenizer.decode(completion)))
    assert sorted(found) == sorted((line["prompt"], line["completion"]) for line in LINES)


def test_of_several_turns_every_completion_is_learned(path, tokenizer):
    write(path, [{"prompt": ["Say 1.\n", "第 👋"], "completion": ["第1个 👋", "Say 2.\n"]}])
    (example,) = read_examples([path])
    assert example.turns() == (("Say 1.\n", "第1个 👋"), ("第 👋", "Say 2.\n"))
    packed = pack_examples([example], tokenizer, 60)
    parts = [tokenizer.encode(text).tolist() for pair in example.turns() for text in pair]
    end = tokenizer.require_end_id()
    ids = [end, *parts[0], *parts[1], end, *parts[2], *parts[3]]
    assert packed.ids[0, : len(ids)].tolist() == ids
    targets = [-100] * len(parts[0]) + [*parts[1], end] + [-100] * len(parts[2]) + [*parts[3], end]
    assert packed.targets[0, : len(ids)].tolist() == targets
    assert (packed.targets[0, len(ids) :] == -100).all()
    assert not packed.starts[0, : len(ids)].any()


def test_an_example_that_does_not_fit_is_named_or_left_out(path, tokenizer):
    write(path, [*LINES[:3], {"prompt": "a" * 100, "completion": "b"}, *LINES[3:]])
    source = ExamplesSource([path])
    with pytest.raises(ValueError, match=r"tasks.jsonl:4: \d+ tokens and the end token do not fit .* of 40"):
        pack_examples(source.examples, tokenizer, 40)
    source.skip_long(tokenizer, 40)
    assert source.skipped == 1
    assert [e.completion for e in source.examples] == [line["completion"] for line in LINES]
    with pytest.raises(ValueError, match="no example fits: the shortest has"):
        source.skip_long(tokenizer, 3)


def test_a_tenth_is_kept_to_validate(path):
    write(path, LINES)
    source = ExamplesSource([path])
    train, val = source.split(seed=0)
    assert (len(train), len(val)) == (18, 2)
    assert sorted(train + val) == sorted(source.examples)
    assert (train, val) == ExamplesSource([path]).split(seed=0)
    assert val != source.split(seed=1)[1]
    assert source.split(seed=0, in_order=True) == (source.examples[:18], source.examples[18:])
    write(path, LINES[:2])
    assert [len(part) for part in ExamplesSource([path]).split(seed=0)] == [1, 1]
    write(path, LINES[:1])
    with pytest.raises(ValueError, match="1 example is too few"):
        ExamplesSource([path]).split(seed=0)


def test_the_digest_is_that_of_the_content(path):
    write(path, LINES)
    before = ExamplesSource([path]).digest()
    path.write_text(path.read_text("utf-8").replace("\n", "\n\n"), "utf-8")
    assert ExamplesSource([path]).digest() == before
    write(path, [{"prompt": "ab", "completion": "c"}, *LINES])
    first = ExamplesSource([path]).digest()
    write(path, [{"prompt": "a", "completion": "bc"}, *LINES])
    assert ExamplesSource([path]).digest() != first
    digests = set()
    for second in "de":
        write(path, [{"prompt": ["a", "c"], "completion": ["b", second]}])
        digests.add(ExamplesSource([path]).digest())
    assert len(digests) == 2


def test_a_vocabulary_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"--tokenizer bpe:SIZE"):
        pack_examples([Example("a", "b")], ByteTokenizer(), 16)
