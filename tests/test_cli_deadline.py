"""npgpt sample with a deadline: what is printed when it has passed."""

from npgpt import GPT, GPTConfig
from npgpt.tokenizer import ByteTokenizer
from tests.test_cli import command


def save(folder):
    GPT(GPTConfig(256, 24, 8, 1, 2), seed=1).save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    return folder


def test_no_text_is_begun_after_a_deadline_and_all_are_counted(capsys, tmp_path):
    run = save(tmp_path / "r")
    code, out, err = command(capsys, "sample", run, "--prompt", "a", "--deadline", 1e-9, "--num-samples", 10**9)
    assert (code, out) == (0, "--- sample 1 of 1000000000 ---\na\n")
    assert err == "1000000000 of 1000000000 texts were cut off after --deadline 1e-09 seconds\n"
