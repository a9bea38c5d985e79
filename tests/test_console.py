"""Standard input, output and error: UTF-8 everywhere, and an exit code that tells the truth when one of them fails."""

import errno
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from npgpt.cli import console, main
from npgpt.data.tales import texts
from npgpt.tokenizer import ByteTokenizer
from tests.conftest import mostly_big
from tests.test_cli import command, start
from tests.test_cli_gradcheck import PAIR

ENVIRONMENTS = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "C, whatever Python would make of it": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "cp936": {"PYTHONIOENCODING": "cp936", "PYTHONUTF8": "0"},
}
posix = pytest.mark.skipif(os.name != "posix", reason="descriptors and terminals of POSIX")


def tale() -> str:
    return next(texts(0, "zh"))


def run(*argv, env=None, stdin=b"") -> tuple[int, str, str]:
    """Run a command in a process of its own. Its outputs must be UTF-8."""
    with start(*argv, env=env or {}, stdin=subprocess.PIPE) as process:
        out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("name", mostly_big(ENVIRONMENTS, "cp1252".__eq__))
def test_what_is_piped_in_and_out_is_utf8_in_every_locale(name):
    code, out, err = run("tales", "--check", "-", "--lang", "zh", env=ENVIRONMENTS[name], stdin=tale().encode())
    assert (code, err) == (0, "")
    hero = out.split("hero=")[1].split(",")[0].split("\n")[0]
    assert hero in tale()
    assert hero > "\u4e00"


@posix
@pytest.mark.parametrize("name", mostly_big(ENVIRONMENTS, "C".__eq__))
def test_arguments_and_messages_are_utf8_in_every_locale(tmp_path, name):
    """The ids of 学 are those of its bytes, and the file that is missing has the name that was given."""
    ByteTokenizer().save_pretrained(tmp_path)
    assert run("tokenizer", "encode", tmp_path, "学🙂e\u0301", env=ENVIRONMENTS[name]) == (
        0,
        " ".join(map(str, "学🙂e\u0301".encode())) + "\n",
        "",
    )
    code, out, err = run("tales", "--check", "没有🙂.txt", env=ENVIRONMENTS[name])
    assert (code, out, err) == (2, "", "npgpt tales: error: 没有🙂.txt: no such file\n")


def test_tasks_are_written_as_they_are_whatever_pythonioencoding_says():
    plain = run("tales", 4, "--tasks", "translate")
    assert plain == run("tales", 4, "--tasks", "translate", env={"PYTHONIOENCODING": "cp1252:replace"})
    assert max("".join(json.loads(line)["completion"] for line in plain[1].splitlines())) > "\u4e00"


def on_a_terminal(encoding: str, *argv) -> tuple[int, bytes, str]:
    """Run a command whose standard output is a terminal."""
    import pty

    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "npgpt", *map(str, argv)]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        out = b""
        try:
            while piece := os.read(ours, 4096):
                out += piece
        except OSError as error:  # how Linux says that the other end is closed
            assert error.errno == errno.EIO
        err = process.stderr.read().decode()
    os.close(ours)
    return process.returncode, out.replace(b"\r\n", b"\n"), err


@posix
def test_a_terminal_is_shown_what_it_can_show_and_codes_for_the_rest():
    code, out, err = on_a_terminal("cp1252", "tales", "--lang", "zh")
    assert code == 0
    assert out.decode("cp1252") == (tale() + "\n").encode("cp1252", "backslashreplace").decode("cp1252")
    assert len(err.splitlines()) == 1
    assert ascii(tale()[0])[1:-1] in err
    assert on_a_terminal("cp936", "tales", "--lang", "zh") == (0, (tale() + "\n").encode("cp936"), "")


def test_input_that_is_not_utf8_is_named_by_its_first_wrong_byte():
    code, out, err = run("tales", "--check", "-", stdin="学".encode() + b"\xff")
    assert (code, out) == (2, "")
    assert err == "npgpt tales: error: standard input: not UTF-8: byte 0xff at offset 3; save it as UTF-8\n"


def test_a_mark_at_the_start_of_the_input_is_no_text():
    assert run("tales", "--check", "-", stdin=b"\xef\xbb\xbf" + tale().encode())[0] == 0


@pytest.mark.parametrize("name", ["caf\udce9.txt", "\ud800"])
def test_an_argument_that_is_no_text_is_one_line(capsys, name):
    code, out, err = command(capsys, "tales", "--check", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_a_lone_surrogate_is_printed_as_its_code_and_line_ends_as_they_are(capsys, monkeypatch):
    """Inside of JSON the code is what stands for it; on Windows, Python's own line ends would be CRLF."""
    binary = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(binary, encoding="cp1252", newline="\r\n"))
    with console.open_streams():
        print('{"prompt": "学\ud800"}')
        sys.stdout.flush()
    assert binary.getvalue() == '{"prompt": "学\\ud800"}\n'.encode()
    assert "such as \\ud800" in capsys.readouterr().err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder of a user with a pair of functions of their own, a text and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(PAIR)
    (tmp_path / "a.txt").write_text("not a tale")
    ByteTokenizer().save_pretrained(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@contextmanager
def output_to(where: str):
    """An output that takes nothing, because its reader is gone or its disk is full."""
    if where == "a full disk":
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield


CODES = {
    "tales": 141,
    "tales 20000": 141,
    "tales 2 --tasks": 141,
    "tales --check a.txt": 1,
    "tales --check nosuch": 2,
    "tokenizer encode . abc": 141,
    "tokenizer decode . 65": 141,
    "tokenizer show . abc": 141,
    "tokenizer stats . a.txt": 141,
    "data list": 141,
    "gradcheck mine:forward,wrong": 1,
    "gradcheck mine:forward,wrong --json": 1,
    "gradcheck mine:forward,backward": 0,
    "eval nosuch --data a.txt": 2,
    "--help": 141,
    "tales --help": 141,
    "--version": 141,
}


@pytest.mark.parametrize("where", ["a closed pipe", "a full disk"])
@pytest.mark.parametrize("line", CODES)
def test_an_output_that_fails_never_makes_a_success(capsys, here, where, line):
    """A command that was cut short has not succeeded, and one whose exit code is its result still gives it."""
    with output_to(where):
        code, _, err = command(capsys, *line.split())
    full = where == "a full disk" and CODES[line] != 2
    assert code == (2 if full else CODES[line])
    if full:
        assert err.startswith("npgpt")
        assert err.endswith("error: standard output: No space left on device\n")
    elif code != 2:
        assert err == ""


@posix
def test_python_itself_has_nothing_to_add_at_its_end():
    """Python writes what is left in its buffers, and has an exit code of its own if that fails."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "npgpt", "tales"]
    for stdout, expected in (writer, (141, b"")), (os.open("/dev/full", os.O_WRONLY), (2, None)):
        found = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE)
        os.close(stdout)
        assert found.returncode == expected[0]
        assert len(found.stderr.splitlines()) == (expected[1] is None)
    found = subprocess.run([*words, "--check", "nosuch"], stderr=os.open("/dev/full", os.O_WRONLY))
    assert found.returncode == 2


@posix
@pytest.mark.parametrize(
    "closed",
    mostly_big(
        ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"], {">&-", "<&- >&- 2>&-"}.__contains__
    ),
)
def test_a_stream_that_is_closed_from_the_start(tmp_path, closed):
    """Without an output no command begins; without the others it does what it can."""
    line = f'"{sys.executable}" -m npgpt tales {closed}'
    found = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True)
    assert found.returncode == (2 if ">&-" in closed.replace("2>&-", "") else 0)
    if found.returncode:
        assert found.stdout == b""
        said = b"npgpt tales: error: standard output is closed: send it to a file, or to /dev/null"
        assert found.stderr.strip() == (b"" if "2>&-" in closed else said)
    else:
        assert found.stdout.decode() == next(texts(0, "en")) + "\n"


@pytest.mark.parametrize("line", ["tales --check -", "tokenizer encode .", "tokenizer decode ."])
def test_an_input_that_is_closed_is_an_error(capsys, here, monkeypatch, line):
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = command(capsys, *line.split())
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert sys.stdin is None


def test_the_streams_are_given_back(capsys, monkeypatch):
    streams = sys.stdin, sys.stdout, sys.stderr
    assert main(["tales"]) == 0
    assert (sys.stdin, sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(0)",
        "import sys; sys.exit()",
        "def make_args():\n    raise SystemExit(0)",
        "def forward(x, weight):\n    raise SystemExit(0)",
        "def backward(dout, cache):\n    raise SystemExit(0)",
        "def backward(dout, cache):\n    raise GeneratorExit",
        "import os; os._exit(0)",
        "def make_args():\n    os._exit(0)\nimport os",
        "def backward(dout, cache):\n    os._exit(0)\nimport os",
        "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_a_module_that_ends_the_program_has_not_passed(capsys, here, code):
    (here / "mine.py").write_text(f"{PAIR}\n\n{code}\n")
    code, _, err = command(capsys, "gradcheck", "mine:forward,backward")
    assert code == 2
    assert "mine.py:" in err or "mine:forward,backward: the module ended the program (" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("backward", "expected"), [("backward", 0), ("wrong", 1)])
def test_a_module_that_ends_the_program_at_its_end_changes_no_verdict(capsys, here, backward, expected):
    (here / "mine.py").write_text(f"{PAIR}\n\nimport atexit, os\natexit.register(os._exit, 1 - {expected})\n")
    assert command(capsys, "gradcheck", f"mine:forward,{backward}")[0] == expected


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            "tokenizer encode . a --speciall",
            "npgpt tokenizer encode: error: unknown argument '--speciall'; did you mean",
        ),
        ("data get shijing --ulr x", "did you mean '--url'"),
        ("tales 1 2", "npgpt tales: error: unknown argument '2' ("),
        ("--verson tales", "npgpt: error: unknown argument '--verson'; did you mean '--version'"),
    ],
)
def test_a_misspelt_flag_is_compared_with_those_of_its_own_action(capsys, here, line, hint):
    code, _, err = command(capsys, *line.split())
    assert code == 2
    assert hint in err
