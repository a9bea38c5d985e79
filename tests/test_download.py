"""Texts are downloaded whole or not at all, from where the last try stopped, and only what the checksum says is kept.

The server is on loopback, and does what the test asks of it."""

import contextlib
import hashlib
import http.server
import socket
import threading

import pytest

from npgpt.data import download
from npgpt.data.download import PIECE, TEXTS, Text, fetch
from tests.test_cli import command

DATA = "關關雎鳩、在河之洲，窈窕淑女、君子好逑。\n".encode() * 5000  # a few pieces
OTHER = DATA[::-1]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        server.paths.append(self.path)
        body = server.data
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if server.status != 200:
            self.send_error(server.status)
        elif start >= len(body):
            self.send_error(416)
        else:
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            sent = body[start : server.cut_at]
            server.sent.append(len(sent))
            with contextlib.suppress(ConnectionError):  # the other side has read enough
                self.wfile.write(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with the text "poem", which is the only one that is known, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.data, server.status, server.ranges, server.cut_at = DATA, 200, True, None
        server.asked, server.paths, server.sent = [], [], []
        url = f"http://127.0.0.1:{server.server_port}/poem"
        poem = Text("a poem", "Chinese", len(DATA), hashlib.sha256(DATA).hexdigest(), url, "public domain")
        monkeypatch.setattr(download, "TEXTS", {"poem": poem})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "npgpt" / "data" / "poem.txt"


def begin(path, data):
    """Leave the beginning of a download behind."""
    path.parent.mkdir(parents=True)
    path.with_suffix(".part").write_bytes(data)


def only_the_text_is_there(path):
    return path.read_bytes() == DATA and [file.name for file in path.parent.iterdir()] == ["poem.txt"]


def test_a_whole_download(server, path):
    told = []
    assert fetch("poem", progress=told.append) == path
    assert only_the_text_is_there(path)
    assert server.asked == [None]
    assert (told[0], told[-1]) == (0, len(DATA))
    assert told == sorted(told)


def test_what_is_in_the_cache_needs_no_server(server, path):
    fetch("poem")
    server.status = 500
    assert fetch("poem") == path
    assert server.asked == [None]


def test_a_damaged_file_in_the_cache_is_fetched_again(server, path):
    fetch("poem")
    path.write_bytes(DATA[:100] + b"?" + DATA[101:])
    fetch("poem")
    assert only_the_text_is_there(path)


def test_a_cut_connection_is_gone_on_with(server, path, capsys):
    server.cut_at = 1000
    code, out, err = command(capsys, "data", "get", "poem")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "the connection was cut; 1,000 bytes are kept" in err
    assert f"http://127.0.0.1:{server.server_port}/poem" in err
    assert path.with_suffix(".part").read_bytes() == DATA[:1000]
    assert not path.exists()

    server.cut_at = None
    told = []
    fetch("poem", progress=told.append)
    assert only_the_text_is_there(path)
    assert server.asked == [None, "bytes=1000-"]
    assert server.sent == [1000, len(DATA) - 1000]
    assert (told[0], told[-1]) == (1000, len(DATA))


def test_ctrl_c_keeps_what_has_come(server, path):
    def stop(have):
        if have:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("poem", progress=stop)
    kept = path.with_suffix(".part").read_bytes()
    assert 0 < len(kept) <= PIECE
    assert DATA.startswith(kept)
    fetch("poem")
    assert only_the_text_is_there(path)
    assert server.asked[1] == f"bytes={len(kept)}-"


def test_a_server_that_sends_the_whole_file_is_taken_at_its_word(server, path):
    begin(path, DATA[:1000])
    server.ranges = False
    fetch("poem")
    assert only_the_text_is_there(path)
    assert server.asked == ["bytes=1000-"]


def test_a_server_that_has_no_such_byte_is_asked_for_all(server, path, capsys):
    """Of another text: it is no longer than what is there already."""
    begin(path, DATA[:1000])
    server.data = OTHER[:1000]
    code, _, err = command(capsys, "data", "get", "poem")
    assert server.asked == ["bytes=1000-", None]
    assert code == 2
    assert "the connection was cut" in err  # 1000 bytes are not all of it
    assert path.with_suffix(".part").read_bytes() == OTHER[:1000]


def test_a_part_that_is_too_long_is_no_part(server, path):
    begin(path, DATA + b"x")
    fetch("poem")
    assert only_the_text_is_there(path)
    assert server.asked == [None]


def test_a_part_that_is_complete_needs_no_server(server, path):
    begin(path, DATA)
    fetch("poem")
    assert only_the_text_is_there(path)
    assert server.asked == []


def test_no_more_is_read_than_the_text_has(server, path):
    told = []
    server.data = DATA + bytes(50 * PIECE)
    fetch("poem", progress=told.append)
    assert only_the_text_is_there(path)
    assert max(told) == len(DATA)


def test_another_text_is_refused_and_removed(server, path, capsys):
    server.data = OTHER
    code, out, err = command(capsys, "data", "get", "poem")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert hashlib.sha256(OTHER).hexdigest() in err
    assert hashlib.sha256(DATA).hexdigest() in err
    assert list(path.parent.iterdir()) == []


def test_a_part_of_another_text_costs_one_try(server, path):
    begin(path, OTHER[:1000])
    with pytest.raises(ValueError, match="not the text that is known as 'poem'"):
        fetch("poem")
    fetch("poem")
    assert only_the_text_is_there(path)


def test_a_page_that_is_not_there(server, path, capsys):
    begin(path, DATA[:1000])
    server.status = 404
    code, out, err = command(capsys, "data", "get", "poem")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "/poem: 404 Not Found; 1,000 bytes are kept" in err
    assert path.with_suffix(".part").read_bytes() == DATA[:1000]


def test_offline(server, path, capsys):
    with socket.socket() as closed:  # a port that nobody listens on, and nobody else gets
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/poem"
        code, out, err = command(capsys, "data", "get", "poem", "--url", url)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"npgpt data: error: {url}: no connection: Connection refused; try again later")
    assert "kept" not in err
    assert list(path.parent.iterdir()) == []


def test_a_server_that_says_nothing_is_not_waited_for(server, capsys, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a connection that is never answered
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/poem"
        code, _, err = command(capsys, "data", "get", "poem", "--url", url)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "timed out" in err


def test_an_answer_that_is_no_http(server, capsys):
    def answer():
        connection, _ = strange.accept()
        with connection:
            connection.recv(PIECE)
            connection.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as strange:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{strange.getsockname()[1]}/poem"
        code, _, err = command(capsys, "data", "get", "poem", "--url", url)
        thread.join()
    assert (code, len(err.splitlines())) == (2, 1)
    assert "a broken answer: 220 mail.example ESMTP" in err


def test_an_address_is_quoted(server, path, capsys):
    url = f"http://127.0.0.1:{server.server_port}/a%20b/詩 經?x=1&y=2"
    assert command(capsys, "data", "get", "poem", "--url", url)[0] == 0
    assert server.paths == ["/a%20b/%E8%A9%A9%20%E7%B6%93?x=1&y=2"]


def test_a_cache_folder_that_cannot_be_written_is_named(server, path, capsys):
    path.parent.mkdir(parents=True)
    path.with_suffix(".part").mkdir()
    code, _, err = command(capsys, "data", "get", "poem")
    assert code == 2
    assert err == f"npgpt data: error: {path.with_suffix('.part')}: Is a directory\n"


def test_an_address_that_is_none(server, capsys):
    code, _, err = command(capsys, "data", "get", "poem", "--url", "nonsense")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "'nonsense'" in err


def test_only_the_path_is_on_standard_output(server, path, capsys):
    code, out, _ = command(capsys, "data", "get", "poem")
    assert (code, out) == (0, f"{path}\n")


def test_a_copy(server, tmp_path, capsys):
    copy = tmp_path / "new" / "copy.txt"
    for _ in range(2):
        code, out, _ = command(capsys, "data", "get", "poem", "--out", copy)
        assert (code, out) == (0, f"{copy}\n")
        assert copy.read_bytes() == DATA
    copy.write_bytes(b"mine")
    code, _, err = command(capsys, "data", "get", "poem", "--out", copy)
    assert code == 2
    assert f"--out {copy} already holds something else" in err
    assert copy.read_bytes() == b"mine"


def test_the_list(capsys):
    code, out, _ = command(capsys, "data", "list")
    assert code == 0
    for name, text in TEXTS.items():
        assert name in out
        assert text.title in out
        assert text.licence in out


def test_shakespeare_is_the_file_that_everybody_means(shared_text):
    data = shared_text("tinyshakespeare.txt").encode()
    text = TEXTS["shakespeare"]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (text.size, text.sha256)
