"""npgpt sample --interactive: what is typed in a terminal."""

from npgpt import GPT, GPTConfig
from npgpt.tokenizer import ByteTokenizer
from tests.test_cli import command
from tests.test_cli_sample import stdin


def test_bytes_that_are_no_text_are_named_and_end_nothing(capsys, tmp_path, monkeypatch):
    GPT(GPTConfig(256, 24, 8, 1, 2), seed=1).save_pretrained(tmp_path)
    ByteTokenizer().save_pretrained(tmp_path)
    typed = [b"ab\xff", b"a"]

    def read(prompt):
        if not typed:
            raise EOFError
        return typed.pop(0).decode()

    stdin(monkeypatch, b"", terminal=True)
    monkeypatch.setattr("builtins.input", read)
    code, out, err = command(capsys, "sample", tmp_path, "--interactive", "--max-new-tokens", 3)
    assert (code, out[0]) == (0, "a")
    assert err.splitlines()[1:] == ["npgpt sample: error: the byte 0xff is not utf-8 text"]
