"""A server on this machine that answers what the Hugging Face hub's client asks for: listing, download, commit."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest


class StandIn(ThreadingHTTPServer):
    """`repositories`: "models/<owner>/<name>" → file name → content. Only the branch main exists."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.status = 0  # what every request is answered with; 0 = as the hub would
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def _sha(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def _blob_id(data: bytes) -> str:
    """As git names the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if self.server.status:
            return self._answer(self.server.status)
        is_api, path = path.startswith("api/"), path.removeprefix("api/")
        if not path.startswith(("models/", "datasets/")):
            path = f"models/{path}"
        if path.count("/") < 4:
            return self._answer(404)
        kind, owner, name, what, revision, *rest = path.split("/")
        files = self.server.repositories.get(f"{kind}/{owner}/{name}")
        if files is None:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if revision not in ("main", _sha(files)):
            return self._answer(404, X_Error_Code="RevisionNotFound")
        if is_api and what == "revision":
            return self._answer(200, {"id": f"{owner}/{name}", "sha": _sha(files), "siblings": []})
        if is_api:
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)} for path, data in files.items()
            ]
            return self._answer(200, tree)
        data = files.get("/".join(rest))
        if data is None:
            return self._answer(404, X_Error_Code="EntryNotFound")
        return self._answer(200, data, ETag=f'"{_blob_id(data)}"', X_Repo_Commit=_sha(files))

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"POST {path}")
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.status:
            return self._answer(self.server.status)
        if path == "api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "api/repos/create":
            values = json.loads(data)
            repository = f"{values['type']}s/{values['organization']}/{values['name']}"
            self.server.repositories.setdefault(repository, {})
            return self._answer(200, {"url": f"{self.server.address}/{repository.removeprefix('models/')}"})
        _, kind, owner, name, what, *_ = path.split("/")
        if what == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            return self._answer(200, {"files": files})
        repository = self.server.repositories[f"{kind}/{owner}/{name}"]
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                repository[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._answer(200, {"commitUrl": f"{self.server.address}/{owner}/{name}/commit/1", "commitOid": "1" * 40})


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, cache: Any) -> Iterator[StandIn]:
    """The stand-in as the hub of this process, whose client keeps files in `cache` and has a token."""
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    # The client reads HF_ENDPOINT and HF_HOME when it is imported, and the token whenever it needs it.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
