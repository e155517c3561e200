"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as fetching a commit takes."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LocalHub(ThreadingHTTPServer):
    """Serves the files of one commit of one repository.

    Attributes:
        fetched: the names of the files whose contents were asked for, in order.
        failing: names of files that it answers with an error.
    """

    def __init__(self, repository: str, commit: str, directory: Path) -> None:
        """Takes the repository's name, its commit, and the directory with its files."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.commit, self.directory = repository, commit, directory
        self.fetched: list[str] = []
        self.failing: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        files = {
            file.relative_to(hub.directory).as_posix(): file
            for file in sorted(hub.directory.rglob("*"))
            if file.is_file()
        }
        prefix = f"/{hub.repository}/resolve/{hub.commit}/"
        if path == f"/api/models/{hub.repository}/revision/{hub.commit}":
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": hub.repository, "sha": hub.commit, "siblings": siblings})
            self._send(200, body.encode(), with_body=with_body)
        elif path == f"/api/models/{hub.repository}/tree/{hub.commit}":
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in files.items()
            ]
            self._send(200, json.dumps(entries).encode(), with_body=with_body)
        elif path.startswith(prefix) and path.removeprefix(prefix) in files.keys() - hub.failing:
            name = path.removeprefix(prefix)
            if with_body:
                hub.fetched.append(name)
            self._send(200, files[name].read_bytes(), with_body=with_body)
        else:
            self._send(404, b"{}", with_body=with_body)

    def _send(self, status: int, body: bytes, *, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.commit)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def local_hub(repository: str, commit: str, directory: Path) -> Iterator[LocalHub]:
    """Runs the server while the context lasts."""
    with LocalHub(repository, commit, directory) as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
