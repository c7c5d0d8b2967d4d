import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from farl_hf import downloads
from farl_hf.downloads import DownloadError, ReleaseFile, download_release

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `mode` makes it misbehave. Remembers the Range headers it was sent."""

    mode = "good"
    etag = '"v1"'

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.mode == "missing":
            return self.send_error(404)
        if server.mode == "web page":
            return self.answer(200, b"<html>sign in</html>", "text/html")
        if asked and server.mode != "no range" and self.headers.get("If-Range") == server.etag:
            return self.answer(206, CONTENT[int(asked.removeprefix("bytes=").rstrip("-")) :])
        self.answer(200, CONTENT)

    def answer(self, status: int, body: bytes, kind: str = "application/octet-stream"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        breaks = self.server.mode in ("breaks", "no range") and len(self.server.ranges) == 1
        self.wfile.write(body[: len(body) // 3] if breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, f"http://127.0.0.1:{server.server_port}/files")
    monkeypatch.setitem(downloads.RELEASE_FILES, "ep64", ReleaseFile("https://example.org/ep64.pth", 1_000_000))
    yield server
    server.shutdown()
    server.server_close()


def test_download_once(tmp_path, server):
    path = download_release("ep64", tmp_path)
    assert path == tmp_path / "ep64.pth" and path.read_bytes() == CONTENT
    assert (tmp_path / "ep64.pth.sha256").read_text().split()[0] == hashlib.sha256(CONTENT).hexdigest()
    assert download_release("ep64", tmp_path) == path and len(server.ranges) == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"ep64.pth", "ep64.pth.sha256"}


@pytest.mark.parametrize("mode", ["breaks", "no range"])
def test_broken_download_goes_on(tmp_path, server, mode):
    server.mode = mode
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 3}-"]


def test_broken_download_starts_again_if_the_file_changed(tmp_path, server):
    server.mode = "breaks"
    with pytest.raises(DownloadError, match="try again later"):
        download_release("ep64", tmp_path, retries=0)
    assert (tmp_path / "ep64.pth.part").stat().st_size == len(CONTENT) // 3
    server.etag = '"v2"'
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("mode, message", [("missing", "404"), ("web page", "web page")])
def test_wrong_answers(tmp_path, server, mode, message):
    server.mode = mode
    with pytest.raises(DownloadError, match=message):
        download_release("ep64", tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_too_small(tmp_path, server, monkeypatch):
    monkeypatch.setitem(downloads.RELEASE_FILES, "ep64", ReleaseFile("https://example.org/ep64.pth", 10**9))
    with pytest.raises(DownloadError, match="at least 1,000,000,000"):
        download_release("ep64", tmp_path)
    assert not list(tmp_path.glob("ep64.pth*"))


def test_changed_file_in_the_cache(tmp_path, server):
    path = download_release("ep64", tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match="has changed"):
        download_release("ep64", tmp_path)


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, "http://127.0.0.1:9/files")
    with pytest.raises(DownloadError, match=r"FaRL-Base-Patch16-LAIONFace20M-ep16\.pth.*give its path"):
        download_release("ep16", tmp_path, retries=0)
