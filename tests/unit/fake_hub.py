"""A very small model hub on localhost, so that fetching runs for real and offline."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one folder as model ``tiny/model``, and tells of a data set ``tiny/text``.

    Attributes:
        trouble: answers to give first, as (status, error code).
        gated: what the hub says of both.
        commits: the revisions of both, and the commit that each stands for; all hold the same files.
        admitted: whether files of a gated one are given out.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.trouble: list[tuple[int, str]] = []
        self.served: list[str] = []
        self.gated: bool | str = False
        self.admitted = True
        self.commits = {"v1": COMMIT}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def send(self, status: int, body: bytes, with_body: bool, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def answer(self, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        if self.server.trouble:
            status, code = self.server.trouble.pop(0)
            self.send(status, b"{}", with_body, X_Error_Code=code, X_Error_Message=code or "try later")
            return
        files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
        names = [file.relative_to(self.server.folder).as_posix() for file in files]
        if path.startswith(("/api/models/tiny/model/revision/", "/api/datasets/tiny/text/revision/")):
            wanted = path.rpartition("/")[2]
            commit = self.server.commits.get(wanted, wanted)
            if commit not in self.server.commits.values():
                self.send(404, b"{}", with_body, X_Error_Code="RevisionNotFound")
                return
            siblings = [{"rfilename": name} for name in ["README.md", ".gitattributes", *names]]
            body = {"id": path.split("/revision")[0], "sha": commit, "gated": self.server.gated, "siblings": siblings}
            self.send(200, json.dumps(body).encode(), with_body, Content_Type="application/json")
        elif path.startswith("/api/models/tiny/model/tree/"):
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in zip(names, files, strict=True)
            ]
            self.send(200, json.dumps(entries).encode(), with_body, Content_Type="application/json")
        elif "/resolve/" in path and not self.server.admitted:
            self.send(403, b"{}", with_body, X_Error_Code="GatedRepo", X_Error_Message="ask its authors")
        elif path.startswith("/tiny/model/resolve/"):
            commit, name = path.split("/", 5)[4:]
            self.server.served.append(name)
            body = (self.server.folder / name).read_bytes()
            tag = hashlib.sha1(body).hexdigest()
            self.send(200, body, with_body, ETag=f'"{tag}"', X_Repo_Commit=self.server.commits.get(commit, commit))
        else:
            self.send(404, b"{}", with_body, X_Error_Code="RepoNotFound")


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """A running hub that serves ``folder``."""
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
