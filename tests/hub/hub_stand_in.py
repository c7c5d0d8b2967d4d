"""A stand-in for the Hub: the part of its HTTP interface that pushing and loading a model use, on 127.0.0.1."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "x" * 34


class HubStandIn(ThreadingHTTPServer):
    """
    Attributes:
        repositories: Name -> branch -> path -> content.
        private: Names of private repositories.
        objects: LFS contents by their SHA-256.
        log: (method, path) of every request.
        on_half_an_object: Called, and the connection closed, when half of an LFS object has arrived.
        commits_to_refuse: Number of commits that fail next.
        pull_requests: Their addresses.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.pull_requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.on_half_an_object: Callable[[], None] | None = None
        self.commits_to_refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, method: str, pattern: str) -> int:
        return sum(verb == method and re.search(pattern, path) is not None for verb, path in self.log)

    def __enter__(self) -> "HubStandIn":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args) -> None:
        self.shutdown()
        self.server_close()


def sha_of(files: dict[str, bytes]) -> str:
    """A commit's id: 40 hexadecimal digits that follow from its content."""
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def _answer(self, status: int, content: dict | bytes = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _is_allowed(self, name: str | None = None) -> bool:
        """Whether the token may write, or read the named repository."""
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if has_token or (name is not None and name not in self.server.private):
            return True
        self._answer(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
        return False

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.server.log.append(("POST", url.path))
        body = self._body()
        if not self._is_allowed():
            return
        if url.path == "/api/repos/create":
            content = json.loads(body)
            name = f"{content.get('organization') or 'me'}/{content['name']}"
            exists = name in self.server.repositories
            self.server.repositories.setdefault(name, {"main": {}})
            if not exists and content.get("visibility") == "private":
                self.server.private.add(name)
            self._answer(409 if exists else 200, {"url": f"{self.server.url}/{name}"})
        elif url.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", url.path):
            branches = self.server.repositories[match[1]]
            branches.setdefault(unquote(match[2]), dict(branches["main"]))
            self._answer(200, {})
        elif re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", url.path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif url.path.endswith(".git/info/lfs/objects/batch"):
            objects = []
            for wanted in json.loads(body)["objects"]:
                entry = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in self.server.objects:
                    entry["actions"] = {"upload": {"href": f"{self.server.url}/objects/{wanted['oid']}", "header": {}}}
                objects.append(entry)
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", url.path):
            self._commit(match[1], unquote(match[2]), body, "create_pr" in parse_qs(url.query))
        else:
            self._answer(404, {"error": f"unknown {url.path}"})

    def _commit(self, name: str, branch: str, body: bytes, is_pull_request: bool) -> None:
        if self.server.commits_to_refuse > 0:
            self.server.commits_to_refuse -= 1
            self._answer(500, {"error": "no"})
            return
        branches = self.server.repositories[name]
        pull_request = None
        if is_pull_request:
            number = len(self.server.pull_requests) + 1
            pull_request, base, branch = f"{self.server.url}/{name}/discussions/{number}", branch, f"refs/pr/{number}"
            self.server.pull_requests.append(pull_request)
            branches[branch] = dict(branches[base])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                branches[branch][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                branches[branch][entry["value"]["path"]] = self.server.objects[entry["value"]["oid"]]
        sha = sha_of(branches[branch])
        answer = {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha}
        self._answer(200, answer | {"pullRequestUrl": pull_request})

    def do_PUT(self) -> None:
        self.server.log.append(("PUT", self.path))
        if self.server.on_half_an_object is not None:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.server.on_half_an_object()
            self.close_connection = True
            return
        content = self._body()
        oid = self.path.rsplit("/", 1)[1]
        if hashlib.sha256(content).hexdigest() != oid:
            self._answer(400, {"error": "wrong content"})
            return
        self.server.objects[oid] = content
        self._answer(200)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.log.append((self.command, url.path))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+?)/(.+)", url.path):
            name, revision, path = match[1], unquote(match[2]), unquote(match[3])
            if not self._is_allowed(name):
                return
            files = self._files(name, revision)
            if files is None:
                self._answer(404, {"error": "no repository"}, X_Error_Code="RepoNotFound")
            elif path not in files:
                self._answer(404, {"error": "no file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha_of(files))
            else:
                etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
                self._answer(200, files[path], ETag=etag, X_Repo_Commit=sha_of(files))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/tree|/revision)?(/[^/]+)?(/.*)?", url.path):
            if not self._is_allowed(match[1]):
                return
            files = self._files(match[1], unquote((match[3] or "/main")[1:]))
            if files is None:
                self._answer(404, {"error": "no repository"}, X_Error_Code="RepoNotFound")
            elif match[2] == "/tree":
                under = (match[4] or "/").strip("/")
                listed = [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                    if path.startswith(under)
                ]
                self._answer(200, json.dumps(listed).encode())
            else:
                siblings = [{"rfilename": path} for path in files]
                self._answer(200, {"id": match[1], "sha": sha_of(files), "siblings": siblings, "tags": []})
        else:
            self._answer(404, {"error": f"unknown {url.path}"})

    do_HEAD = do_GET

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        branches = self.server.repositories.get(name)
        if branches is None:
            return None
        return branches.get(revision) or next((f for f in branches.values() if sha_of(f) == revision), None)
