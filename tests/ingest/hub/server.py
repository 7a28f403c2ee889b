"""A small Hugging Face Hub: it answers the calls that huggingface_hub and the ingest make, with faults on request.

Two servers on two ports: the Hub itself, and the storage that it redirects to for large files.  Every call is in the
log with the bytes that its body sent.  Point a process at it with ``HF_ENDPOINT=server.url``.

    with HubServer() as server:
        server.add("org/lora", {"adapter_config.json": b"…", "adapter_model.safetensors": path})
        server.fault("org/lora", "500", times=2)
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

Content = bytes | Path
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4242424242\n"
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"

ANSWERS = frozenset(("404", "gated", "429", "500", "slow"))
"""Faults of the Hub's own answers: on any file of the repository, and on its API entry with ``where="api"``."""
BODIES = frozenset(("drop", "wrong-bytes", "pointer", "html", "longer", "no-range", "no-hash", "stall"))
"""Faults of a file's body; without a path on the large files only."""


@dataclass
class Fault:
    """What is wrong with a repository, and for how many more requests (None: all)."""

    kind: str
    times: int | None = None
    path: str | None = None
    where: str = "resolve"
    seconds: float = 0.0


@dataclass
class Repo:
    """A repository: its files by commit, the branches and tags, what its card says."""

    name: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    in_git: frozenset[str] = frozenset()
    faults: list[Fault] = field(default_factory=list)
    hashes: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return self.refs["main"]


@dataclass(frozen=True)
class Call:
    """One request: kind is "api", "resolve", "cache" (where small files are redirected to) or "storage"."""

    method: str
    kind: str
    repo: str
    path: str
    status: int
    range: str
    sent: int


class HubServer:
    """The two servers with their repositories; a context manager.

    Attributes
    ----------
    page
        Repositories in one page of a listing, at most.
    token
        The one token that is valid: it opens gated and private repositories.
    limits
        Kind ("api" or "resolve") → calls that are answered before the quota is used up, and the seconds that the
        Hub then asks to wait; the quota is whole again after the first 429.
    calls
        The log.
    """

    def __init__(self) -> None:
        self.page = 1000
        self.token = "hf_valid"
        self.limits: dict[str, tuple[int, int]] = {}
        self.calls: list[Call] = []
        self.collections: dict[str, list[tuple[str, str]]] = {}
        self.lock = threading.Lock()
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.used: Counter[str] = Counter()
        self._servers = [_Server(_Hub, self), _Server(_Storage, self)]
        self.url, self.storage_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)

    def environment(self, home: str | Path) -> dict[str, str]:
        """The variables that point a process at this Hub, with its caches below `home` and no token."""
        home = Path(home)
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        card: Mapping[str, Any] | None = None,
        gated: bool = False,
        private: bool = False,
        in_git: Iterable[str] = (),
    ) -> str:
        """Publish a repository, or a newer commit of it; the commit.  Files named `in_git` are no LFS files."""
        repo = self.repos.setdefault(name, Repo(name))
        repo.card, repo.gated, repo.private = dict(card or repo.card), gated, private
        repo.in_git = frozenset(in_git)
        digest = hashlib.sha1(name.encode())
        hashes = {path: _hash(content, self.large(repo, path)) for path, content in files.items()}
        for path in sorted(files):
            digest.update(f"{path!a}\0{hashes[path]}\0".encode())
        commit = digest.hexdigest()
        repo.hashes.update(((commit, path), stated) for path, stated in hashes.items())
        repo.commits[commit] = dict(files)
        repo.refs["main"] = commit
        return commit

    def add_folder(self, name: str, folder: str | Path, **more: Any) -> str:
        """Publish all files of a local folder, which are read when they are asked for."""
        top = Path(folder)
        files = {str(p.relative_to(top)): p for p in sorted(top.rglob("*")) if p.is_file()}
        return self.add(name, files, **more)

    def rename(self, old: str, new: str) -> None:
        """Move a repository; its old name redirects."""
        repo = self.repos.pop(old)
        repo.name = new
        self.repos[new] = repo
        self.renamed[old] = new

    def fault(self, name: str, kind: str, **more: Any) -> None:
        """Spoil a repository; see `Fault`, `ANSWERS` and `BODIES`."""
        if kind not in ANSWERS | BODIES:
            raise ValueError(kind)
        self.repos[name].faults.append(Fault(kind, **more))

    def count(self, *kinds: str, **wanted: Any) -> int:
        """Calls of these kinds (all without any) with these attributes."""
        return len(self.select(*kinds, **wanted))

    def select(self, *kinds: str, **wanted: Any) -> list[Call]:
        """The log's calls of these kinds with these attributes."""
        with self.lock:
            calls = list(self.calls)
        return [
            c
            for c in calls
            if (not kinds or c.kind in kinds) and all(getattr(c, key) == value for key, value in wanted.items())
        ]

    def sent(self, repo: str | None = None, path: str | None = None) -> int:
        """Bytes of bodies sent of a repository, or of one of its files."""
        return sum(c.sent for c in self.select() if repo in (None, c.repo) and path in (None, c.path))

    def forget(self) -> None:
        """Empty the log."""
        with self.lock:
            self.calls.clear()

    def take(self, repo: Repo, kinds: Iterable[str], where: str, path: str) -> Fault | None:
        """The fault that spoils this request, which is one of its times."""
        with self.lock:
            for fault in repo.faults:
                meant = fault.path == path or (fault.path is None and (fault.kind in ANSWERS or self.large(repo, path)))
                if fault.kind in kinds and fault.where in (where, "any") and meant and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def large(self, repo: Repo, path: str) -> bool:
        """Whether a file is in LFS."""
        return path.endswith(LARGE) and path not in repo.in_git


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _hash(content: Content, large: bool) -> tuple[str, int]:
    data = _read(content)
    return (hashlib.sha256(data).hexdigest() if large else git_hash(data)), len(data)


def _read(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler], hub: HubServer) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, *_: object) -> None:
        """Clients that are killed leave broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(
        self,
        kind: str,
        repo: str,
        path: str,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        cut: int | None = None,
        stall: float = 0.0,
        chunked: bool = False,
    ) -> None:
        """Send and log; `cut` breaks the connection after so many bytes of the body, or stalls there."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        payload = body if self.command != "HEAD" else b""
        payload = payload if cut is None else payload[:cut]
        call = Call(self.command, kind, repo, path, status, self.headers.get("Range", ""), len(payload))
        with self.hub.lock:
            self.hub.calls.append(call)
        if chunked:
            payload = b"%x\r\n%s\r\n0\r\n\r\n" % (len(payload), payload) if payload else b"0\r\n\r\n"
        self.wfile.write(payload)
        self.wfile.flush()
        if cut is not None:
            time.sleep(stall)
            self.close_connection = True

    def file(
        self, kind: str, repo: Repo, path: str, data: bytes, headers: Mapping[str, str], fault: Fault | None
    ) -> None:
        """A file's body or the part asked for, spoiled as the fault says."""
        what = fault.kind if fault is not None else ""
        if what == "wrong-bytes":
            data = data[:-64] + bytes(byte ^ 0x15 for byte in data[-64:])
        elif what in ("pointer", "html"):
            data = POINTER if what == "pointer" else PAGE
        elif what == "longer":
            data += b"\0" * (1 << 20)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        extra = {**headers, "Accept-Ranges": "bytes"}
        cut = None
        if wanted and what != "no-range":
            first = int(wanted[1])
            last = min(int(wanted[2] or len(data)), len(data) - 1)
            if first > last:
                extra["Content-Range"] = f"bytes */{len(data)}"
                self.answer(kind, repo.name, path, 416, extra)
                return
            extra["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        else:
            status = 200
        if what in ("drop", "stall"):
            cut = len(data) // 2
        stall = fault.seconds if fault is not None and what == "stall" else 0.0
        self.answer(kind, repo.name, path, status, extra, data, cut, stall, chunked=what == "longer")


class _Hub(_Handler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        kind = "cache" if parts[:2] == ["api", "resolve-cache"] else "api" if parts[0] == "api" else "resolve"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != self.hub.token:
            self._error(kind, "", "", 401, "", "Invalid credentials in Authorization header")
            return
        if kind != "cache" and not self._quota(kind):
            return
        if kind == "cache":
            name, commit, path = "/".join(parts[3:5]), parts[5], "/".join(parts[6:])
            self._content(self.hub.repos[name], commit, path, kind)
        elif kind == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), bool(token))
        elif parts[:2] == ["api", "models"] and len(parts) == 2:
            self._list(parse_qs(url.query))
        elif parts[:2] == ["api", "models"]:
            self._model("/".join(parts[2:4]), parts[4:], bool(token), url.query)
        elif parts[:2] == ["api", "collections"]:
            self._collection("/".join(parts[2:]))
        else:
            self._error(kind, "", "", 404, "", "no such page")

    def _error(self, kind: str, repo: str, path: str, status: int, code: str, message: str, **more: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json", **more}
        if code:
            headers["X-Error-Code"] = code
        self.answer(kind, repo, path, status, headers, json.dumps({"error": message}).encode())

    def _quota(self, kind: str) -> bool:
        if kind not in self.hub.limits:
            return True
        quota, seconds = self.hub.limits[kind]
        with self.hub.lock:
            self.hub.used[kind] += 1
            over = self.hub.used[kind] > quota
            if over:
                self.hub.used[kind] = 0
        if over:
            self._limited(kind, "", "", seconds)
        return not over

    def _limited(self, kind: str, repo: str, path: str, seconds: float) -> None:
        resource = "api" if kind == "api" else "resolvers"
        limit = {"RateLimit": f'"{resource}";r=0;t={seconds:.0f}', "RateLimit-Policy": '"fixed window";q=500;w=300'}
        self._error(kind, repo, path, 429, "", "Too Many Requests", **limit)

    def _fault(self, repo: Repo, kind: str, path: str) -> bool:
        """Whether a fault has answered."""
        fault = self.hub.take(repo, ANSWERS, kind, path)
        if fault is None:
            return False
        if fault.kind == "404":
            self._error(kind, repo.name, path, 404, "RepoNotFound", "Repository not found")
        elif fault.kind == "gated":
            self._gated(kind, repo, path)
        elif fault.kind == "429":
            self._limited(kind, repo.name, path, fault.seconds)
        elif fault.kind == "500":
            self._error(kind, repo.name, path, 500, "", "Internal Server Error")
        else:
            time.sleep(fault.seconds)
        return fault.kind != "slow"

    def _gated(self, kind: str, repo: Repo, path: str) -> None:
        message = f"Access to model {repo.name} is restricted. You must have access to it and be authenticated."
        self._error(kind, repo.name, path, 401, "GatedRepo", message)

    def _found(self, kind: str, name: str, path: str, authorized: bool) -> Repo | None:
        """The repository, or None when something else has been answered."""
        if name in self.hub.renamed:
            there = self.path.replace(name, self.hub.renamed[name], 1)
            self.answer(kind, name, path, 307, {"Location": there})
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not authorized):
            self._error(kind, name, path, 404 if authorized else 401, "RepoNotFound", "Repository not found")
            return None
        return None if self._fault(repo, kind, path) else repo

    def _resolve(self, name: str, revision: str, path: str, authorized: bool) -> None:
        repo = self._found("resolve", name, path, authorized)
        if repo is None:
            return
        if repo.gated and not authorized:
            self._gated("resolve", repo, path)
            return
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._error("resolve", name, path, 404, "RevisionNotFound", "Invalid rev id")
        elif path not in repo.commits[commit]:
            told = {"X-Repo-Commit": commit}
            self._error("resolve", name, path, 404, "EntryNotFound", "Entry not found", **told)
        elif repo.hashes[commit, path][0] and self.hub.large(repo, path):
            stated, size = repo.hashes[commit, path]
            query = urlencode({"repo": name, "commit": commit, "path": path})
            headers = {
                "Location": f"{self.hub.storage_url}/{stated}?{query}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{stated}"',
                "X-Linked-Size": str(size),
            }
            if any(fault.kind == "no-hash" for fault in repo.faults):
                del headers["X-Linked-Etag"]
            self.answer("resolve", name, path, 302, headers)
        elif authorized:
            self._content(repo, commit, path, "resolve")
        else:
            there = f"/api/resolve-cache/models/{name}/{commit}/{quote(path)}"
            stated, size = repo.hashes[commit, path]
            headers = {"Location": there, "X-Repo-Commit": commit, "X-Linked-Size": str(size)}
            self.answer("resolve", name, path, 307, headers)

    def _content(self, repo: Repo, commit: str, path: str, kind: str) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{repo.hashes[commit, path][0]}"'}
        fault = self.hub.take(repo, BODIES, "resolve", path)
        if fault is not None and fault.kind == "no-hash":
            headers["ETag"] = '"W/none"'
        self.file(kind, repo, path, _read(repo.commits[commit][path]), headers, fault)

    def _list(self, query: Mapping[str, list[str]]) -> None:
        author, wanted = query.get("author", [""])[0], query.get("filter", [])
        after = query.get("cursor", [""])[0]
        fields = query.get("expand", [])
        limit = min(self.hub.page, int(query.get("limit", ["1000"])[0]))
        found = [
            repo
            for name, repo in sorted(self.hub.repos.items())
            if name > after
            and not repo.private
            and (not author or name.split("/")[0] == author)
            and all(f == f"base_model:adapter:{repo.card.get('base_model')}" for f in wanted)
        ]
        items = [self._item(repo, repo.commit, fields) for repo in found[:limit]]
        headers = {"Content-Type": "application/json"}
        if len(found) > limit:
            more = {key: value for key, value in query.items() if key != "cursor"}
            link = urlencode({**more, "cursor": found[limit - 1].name}, doseq=True)
            headers["Link"] = f'<{self.hub.url}/api/models?{link}>; rel="next"'
        fault = next((f for r in found[:1] if (f := self.hub.take(r, ("500", "drop"), "list", ".safetensors"))), None)
        if fault is not None and fault.kind == "500":
            self._error("api", "", "list", 500, "", "Internal Server Error")
            return
        body = json.dumps(items).encode()
        self.answer("api", "", "list", 200, headers, body, len(body) // 2 if fault is not None else None)

    def _item(self, repo: Repo, commit: str, fields: Iterable[str]) -> dict[str, Any]:
        everything = {
            "sha": commit,
            "siblings": [{"rfilename": path} for path in repo.commits[commit]],
            "gated": "manual" if repo.gated else False,
            "private": repo.private,
            "cardData": repo.card,
        }
        chosen = {key: value for key, value in everything.items() if not fields or key in fields}
        return {"_id": git_hash(repo.name.encode())[:24], "id": repo.name, **chosen}

    def _model(self, name: str, rest: list[str], authorized: bool, query: str) -> None:
        repo = self._found("api", name, "", authorized)
        if repo is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._error("api", name, "", 404, "RevisionNotFound", "Invalid rev id")
            return
        if rest[:1] == ["tree"]:
            made: Any = [self._entry(repo, commit, path) for path in repo.commits[commit]]
        else:
            made = self._item(repo, commit, parse_qs(query).get("expand", []))
        self.answer("api", name, "", 200, {"Content-Type": "application/json"}, json.dumps(made).encode())

    def _entry(self, repo: Repo, commit: str, path: str) -> dict[str, Any]:
        stated, size = repo.hashes[commit, path]
        entry: dict[str, Any] = {"type": "file", "oid": stated, "size": size, "path": path}
        if self.hub.large(repo, path):
            entry |= {"oid": git_hash(POINTER), "lfs": {"oid": stated, "size": size, "pointerSize": len(POINTER)}}
        return entry

    def _collection(self, slug: str) -> None:
        if slug not in self.hub.collections:
            self._error("api", "", slug, 404, "", "Collection not found")
            return
        items = [
            {"_id": f"{at:024x}", "id": name, "type": kind, "position": at}
            for at, (kind, name) in enumerate(self.hub.collections[slug])
        ]
        made = {
            "slug": slug,
            "title": slug,
            "owner": {"name": slug.split("/")[0]},
            "items": items,
            "lastUpdated": "2025-01-01T00:00:00.000Z",
            "position": 0,
            "private": False,
            "theme": "blue",
            "upvotes": 0,
        }
        self.answer("api", "", slug, 200, {"Content-Type": "application/json"}, json.dumps(made).encode())


class _Storage(_Handler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: value[0] for key, value in parse_qs(url.query).items()}
        repo, path = self.hub.repos[query["repo"]], query["path"]
        if "Authorization" in self.headers:  # as a storage says to a signed address with a token beside it
            self.answer("storage", repo.name, path, 400, body=b"Only one auth mechanism allowed")
            return
        data = _read(repo.commits[query["commit"]][path])
        # A storage's own tag is no hash of the file.
        headers = {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-7"'}
        self.file("storage", repo, path, data, headers, self.hub.take(repo, BODIES, "resolve", path))
