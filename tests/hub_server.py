"""A small server on this machine that speaks the protocol of the Hugging Face hub, as far as downloads need it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" * 6 + "beef"


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories.

    repositories  {name: folder}; those in `gated` and `private` need the token "secret"
    asked         the method and the path of each request
    broken        the name of a file of which only the first half is sent, once
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.asked: list[str] = []
        self.broken: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        known = self.headers.get("Authorization") == "Bearer secret"
        if name not in self.server.repositories or (name in self.server.private and not known):
            return self.refuse(401, "RepoNotFound")
        if name in self.server.gated and not known and "resolve" in parts:
            return self.refuse(403, "GatedRepo")
        rest = parts[4:] if parts[0] == "api" else parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        folder = self.server.repositories[name]
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        if parts[0] == "api" and rest[:1] == ["tree"]:
            return self.send([{"type": "file", "path": file, "size": 1, "oid": "0"} for file in files], body)
        if parts[0] == "api":
            return self.send({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}, body)
        if rest[-1] not in files:
            return self.refuse(404, "EntryNotFound")
        return self.file(folder / rest[-1], body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: object, body: bool) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def file(self, path: Path, body: bool) -> None:
        data = path.read_bytes()
        first = 0
        if (span := self.headers.get("Range")) is not None and body:
            first = int(span.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if not body:
            return
        if path.name == self.server.broken:
            self.server.broken = None
            self.wfile.write(data[first : len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[first:])


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve folders as repositories of a hub on this machine."""
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
