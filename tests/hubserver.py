"""A small model hub on 127.0.0.1: what the real huggingface_hub client asks for, and faults on demand.

with HubServer() as hub:
    first = hub.commit("owner/name", {"config.json": b"{}"})
    second = hub.commit("owner/name", {"model.safetensors": data})      # main moves on, first stays readable
    hub.requests                                                       # every request: method, path, range, status
    hub.fail("5xx", "/api/")                                           # the next request whose path holds the text
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request as the server saw it: `sent` counts the body's bytes."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int
    sent: int


@dataclass
class Repo:
    """The commits of one repository (hash to path to bytes), its branches, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    access: str = "public"
    token: str | None = None


@dataclass
class Fault:
    """What goes wrong in paths that hold `text`: "5xx", "cut", "no-range", "wrong-range", "nonsense"; `times` left."""

    kind: str
    text: str
    times: int


class HubServer:
    """A hub of repositories in memory, served by threads of this process."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.extra_siblings: list[dict[str, object]] = []
        self.hide_sizes = False
        self.connections: list[socket.socket] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """The address to put into HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        # A client keeps its connection open for the next request; a hub that is gone has none.
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit(self, repo: str, files: Mapping[str, bytes | str | None], *, branch: str = "main") -> str:
        """Add a commit on `branch` that changes `files` (None deletes one); return its hash. The branch moves to it."""
        with self._lock:
            home = self.repos.setdefault(repo, Repo())
            tree = dict(home.commits.get(home.branches.get(branch, ""), {}))
            for path, data in files.items():
                if data is None:
                    tree.pop(path, None)
                else:
                    tree[path] = data.encode() if isinstance(data, str) else data
            digest = hashlib.sha1(f"{repo}\0{branch}\0{len(home.commits)}".encode(), usedforsecurity=False)
            for path in sorted(tree):
                digest.update(path.encode() + b"\0" + hashlib.sha256(tree[path]).digest())
            home.commits[digest.hexdigest()] = tree
            home.branches[branch] = digest.hexdigest()
            return digest.hexdigest()

    def restrict(self, repo: str, *, access: str, token: str = "hf_secret") -> None:
        """Make a repository "gated" or "private": readable with `token` alone."""
        self.repos[repo].access = access
        self.repos[repo].token = token

    def fail(self, kind: str, text: str, *, times: int = 1) -> None:
        """Let the next `times` requests whose path holds `text` go wrong in the way of `Fault.kind`."""
        with self._lock:
            self._faults.append(Fault(kind, text, times))

    def take_fault(self, path: str, *kinds: str) -> str | None:
        """Return and use up the fault that waits for this path."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.text in path and fault.kind in kinds:
                    fault.times -= 1
                    return fault.kind
        return None

    def sent(self, path_end: str) -> int:
        """Bytes of bodies sent for files whose path ends so."""
        return sum(request.sent for request in self.requests if request.path.endswith(path_end))

    def record(self, request: Request) -> None:
        """Keep a request for `requests`."""
        with self._lock:
            self.requests.append(request)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.append(self.connection)

        def handle(self) -> None:
            # The client may hang up at any time; that is its right and no news.
            with contextlib.suppress(ConnectionError):
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the tests read `requests`."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            try:
                self._route(body)
            except (BrokenPipeError, ConnectionResetError):
                # A client that has what it wanted hangs up.
                self.close_connection = True

        def _route(self, body: bool) -> None:
            split = urlsplit(self.path)
            parts = [unquote(part) for part in split.path.strip("/").split("/")]
            if hub.take_fault(self.path, "5xx"):
                self._send(503, b"down for maintenance", body=body)
            elif hub.take_fault(self.path, "nonsense"):
                self._send(200, b"<html>log in to the hotel's network</html>", body=body)
            elif parts[:2] == ["api", "models"] and (len(parts) == 4 or parts[4:-1] == ["revision"]):
                revision = parts[5] if len(parts) == 6 else "main"
                self._info("/".join(parts[2:4]), revision, parse_qs(split.query), body)
            elif parts[:2] == ["api", "models"] and len(parts) == 6 and parts[4] == "tree":
                self._tree("/".join(parts[2:4]), parts[5], body)
            elif len(parts) > 4 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
            else:
                self._error(404, "RepoNotFound", "Repository not found", body)

        def _find(self, name: str, revision: str, body: bool) -> tuple[str, dict[str, bytes]] | None:
            repo = hub.repos.get(name)
            allowed = repo is not None and self.headers.get("Authorization") == f"Bearer {repo.token}"
            if repo is None or (repo.access == "private" and not allowed):
                # The real hub answers so to hide whether a private repository exists.
                self._error(401, "RepoNotFound", "Repository not found", body)
            elif repo.access == "gated" and not allowed:
                self._error(403, "GatedRepo", f"Access to model {name} is restricted", body)
            else:
                commit = repo.branches.get(revision, revision)
                if commit in repo.commits:
                    return commit, repo.commits[commit]
                self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}", body)
            return None

        def _info(self, name: str, revision: str, query: dict[str, list[str]], body: bool) -> None:
            found = self._find(name, revision, body)
            if found is None:
                return
            commit, tree = found
            siblings: list[dict[str, object]] = []
            for path, data in tree.items():
                sizes = {"size": len(data), "blobId": _etag(data)} if "blobs" in query and not hub.hide_sizes else {}
                siblings.append({"rfilename": path, **sizes})
            answer = {
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": False,
                "siblings": siblings + hub.extra_siblings,
            }
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body=body)

        def _tree(self, name: str, revision: str, body: bool) -> None:
            found = self._find(name, revision, body)
            if found is not None:
                files = [{"type": "file", "path": p, "size": len(d), "oid": _etag(d)} for p, d in found[1].items()]
                self._send(200, json.dumps(files).encode(), {"Content-Type": "application/json"}, body=body)

        def _file(self, name: str, revision: str, path: str, body: bool) -> None:
            found = self._find(name, revision, body)
            if found is None:
                return
            commit, tree = found
            if path not in tree:
                self._error(404, "EntryNotFound", "Entry not found", body, {"X-Repo-Commit": commit})
                return
            data = tree[path]
            headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if span is None or hub.take_fault(self.path, "no-range"):
                self._send(200, data, headers, body=body)
                return
            start, end = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1)
            if hub.take_fault(self.path, "wrong-range"):
                start, end = start + 1, end + 1
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self._send(206, data[start : end + 1], headers, body=body)

        def _error(
            self, status: int, code: str, message: str, body: bool, headers: Mapping[str, str] | None = None
        ) -> None:
            text = json.dumps({"error": message}).encode()
            extra = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
            self._send(status, text, {**extra, **(headers or {})}, body=body)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None, *, body: bool) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            out = data if body else b""
            if out and hub.take_fault(self.path, "cut"):
                out = out[: len(out) // 2]
                self.close_connection = True
            asked = {"range": self.headers.get("Range"), "authorization": self.headers.get("Authorization")}
            # Recorded before the last byte leaves, so that a test which has its answer also finds the request.
            hub.record(Request(self.command, unquote(self.path), status=status, sent=len(out), **asked))
            self.wfile.write(out)

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
