import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from farl_hf import downloads
from farl_hf.conversion.downloads import DownloadError, ReleaseFile, download_release

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `mode` makes it misbehave. Remembers the Range headers it was sent."""

    mode = "good"
    etag = '"v1"'

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.asked_for: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        server.asked_for.append(self.path)
        if server.mode == "missing":
            return self.send_error(404)
        if server.mode.startswith("busy") and len(server.ranges) == 1:
            return self.send_error(int(server.mode.split()[1]))
        if server.mode == "web page":
            return self.answer(200, b"<html>sign in</html>", "text/html")
        if asked and server.mode != "no range" and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            start -= server.mode == "wrong range"
            return self.answer(206, CONTENT[start:], content_range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.answer(200, CONTENT)

    def answer(self, status: int, body: bytes, kind: str = "application/octet-stream", content_range: str = ""):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        breaks = self.server.mode in ("breaks", "no range", "wrong range") and len(self.server.ranges) == 1
        self.wfile.write(body[: len(body) // 3] if breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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
    assert {entry.name for entry in tmp_path.iterdir()} == {"ep64.pth", "ep64.pth.sha256", "ep64.pth.lock"}


@pytest.mark.parametrize("mode", ["breaks", "no range"])
def test_broken_download_goes_on(tmp_path, server, mode):
    server.mode = mode
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 3}-"]


def test_range_that_was_not_asked_for(tmp_path, server):
    server.mode = "wrong range"
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 3}-", None]


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server(tmp_path, server, status):
    server.mode = f"busy {status}"
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2


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
    assert {entry.name for entry in tmp_path.iterdir()} == {"ep64.pth.lock"}


def test_changed_file_in_the_cache(tmp_path, server):
    path = download_release("ep64", tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"has changed.*delete it"):
        download_release("ep64", tmp_path)
    path.unlink()
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT


def test_release_that_changed_upstream_is_not_taken_silently(tmp_path, server):
    download_release("ep64", tmp_path).unlink()
    record = tmp_path / "ep64.pth.sha256"
    record.write_text(hashlib.sha256(b"the file of last year").hexdigest())
    with pytest.raises(DownloadError, match=r"has changed.*delete .*ep64\.pth\.sha256"):
        download_release("ep64", tmp_path)
    assert not (tmp_path / "ep64.pth").exists() and not (tmp_path / "ep64.pth.part").exists()


def test_published_digest(tmp_path, server, monkeypatch):
    url = "https://example.org/ep64.pth"
    monkeypatch.setitem(downloads.RELEASE_FILES, "ep64", ReleaseFile(url, 1, sha256="0" * 64))
    with pytest.raises(DownloadError, match=hashlib.sha256(CONTENT).hexdigest()):
        download_release("ep64", tmp_path)
    monkeypatch.setitem(
        downloads.RELEASE_FILES, "ep64", ReleaseFile(url, 1, sha256=hashlib.sha256(CONTENT).hexdigest())
    )
    assert download_release("ep64", tmp_path).read_bytes() == CONTENT


def test_file_put_into_the_cache_by_hand(tmp_path, server):
    (tmp_path / "ep64.pth").write_bytes(CONTENT)
    download_release("ep64", tmp_path)
    assert server.ranges == []
    assert (tmp_path / "ep64.pth.sha256").read_text().split()[0] == hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "ep64.pth").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="only 1,000 bytes"):
        download_release("ep64", tmp_path)


def test_two_at_once_fetch_once(tmp_path, server):
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: download_release("ep64", tmp_path), range(2)))
    assert paths[0].read_bytes() == CONTENT and server.ranges == [None]


def test_mirror_argument_and_progress(tmp_path, server, monkeypatch, capfd):
    monkeypatch.delenv(downloads.MIRROR_VARIABLE)
    mirror = f"http://127.0.0.1:{server.server_port}/mirror/"
    download_release("ep64", tmp_path / "quiet", base_url=mirror, progress=False)
    assert server.asked_for == ["/mirror/ep64.pth"] and capfd.readouterr().err == ""
    download_release("ep64", tmp_path / "shown", base_url=mirror)
    assert "ep64.pth" in capfd.readouterr().err


def test_proxy(tmp_path, server, monkeypatch):
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    download_release("ep64", tmp_path, base_url="http://release.invalid/v1")
    assert server.asked_for == ["http://release.invalid/v1/ep64.pth"]


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="no release file 'ep65': choose one of ep16, ep64"):
        download_release("ep65", tmp_path)


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, "http://127.0.0.1:9/files")
    with pytest.raises(DownloadError, match=r"FaRL-Base-Patch16-LAIONFace20M-ep16\.pth.*give its path"):
        download_release("ep16", tmp_path, retries=0)
