"""A hub on localhost: what huggingface_hub asks for, over folders of this machine."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class SmallHub:
    """Repositories by id, each with its revisions: name -> folder. A gated one needs the token."""

    repositories: dict[str, dict[str, Path]]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_open"
    broken: int = 0  # the status of every answer, if not 0
    cut: set[str] = field(default_factory=set)  # files that end too early
    asked: list[str] = field(default_factory=list)  # files whose content was sent
    url: str = ""

    def commit(self, repository: str, revision: str = "main") -> str:
        """40 hexadecimal digits, of a revision's name or of itself."""
        names = self.repositories[repository]
        made = {name: _commit(folder) for name, folder in names.items()}
        return next((c for name, c in made.items() if revision in (c, name)), "")

    def folder(self, repository: str, commit: str) -> Path:
        """What is in a commit."""
        folders = self.repositories[repository].values()
        return next(folder for folder in folders if _commit(folder) == commit)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its address, while it serves from a thread."""
        handler = type("Handler", (_Handler,), {"hub": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield self.url
            finally:
                server.shutdown()
                thread.join()


def _commit(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """In silence."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        info, file = _INFO.fullmatch(path), _FILE.fullmatch(path)
        found = info or file
        if self.hub.broken:
            self._answer(self.hub.broken)
        elif found is None:
            self._answer(404)
        elif (repository := found[1]) not in self.hub.repositories:
            self._answer(404, error="RepoNotFound")
        elif not (commit := self.hub.commit(repository, unquote(found[2] or "main"))):
            self._answer(404, error="RevisionNotFound")
        elif info:
            self._info(repository, commit)
        elif repository in self.hub.gated and self.hub.token not in self._authorization:
            self._answer(403, error="GatedRepo")
        elif file:
            self._file(repository, commit, unquote(file[3]))

    @property
    def _authorization(self) -> str:
        return self.headers.get("Authorization", "")

    def _info(self, repository: str, commit: str) -> None:
        folder = self.hub.folder(repository, commit)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [
            {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size}
            for path in files
        ]
        body = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, repository: str, commit: str, name: str) -> None:
        path = self.hub.folder(repository, commit) / name
        if not path.is_file():
            self._answer(404, error="EntryNotFound")
            return
        body = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}
        if self.command == "GET":
            self.hub.asked.append(name)
        if self.command == "GET" and name in self.hub.cut:
            body = body[: len(body) // 2]
        self._answer(200, body, headers)

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        error: str | None = None,
    ) -> None:
        self.send_response(status)
        given = {**(headers or {}), **({"X-Error-Code": error} if error else {})}
        for name, value in {**given, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
