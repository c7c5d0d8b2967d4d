"""`farl serve` as a process of its own: in a real browser, and under what strangers may send it."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from browser_cases import Browser, needs_chromium
from inference_cases import astronaut, three_photos
from PIL import Image
from test_serving import POSTS, TRAVERSALS, analyze, ask, file_of

import farl_hf

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow


class Served:
    """`farl serve` with the package's own weights."""

    def __init__(self, folder: Path, *arguments: str):
        self.temporary, self.log = folder / "temporary", folder.parent / f"{folder.name}.log"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "farl_hf", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        line = self.process.stdout.readline()
        self.address = re.match(r"http://127.0.0.1:\d+/", line)[0]

    def memory(self, name: str = "VmHWM") -> float:
        """MB of resident memory, the most so far by default."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1]) / 1024

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> list[str]:
        folder = Path(f"/proc/{self.process.pid}/fd")
        return [os.readlink(file) for file in folder.iterdir() if os.path.lexists(file)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=180)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    # What a page that serves the folder it was started in would give away.
    (folder / "secret.txt").write_text("root:secret")
    (folder / "page").symlink_to("/etc")
    (folder / "link.png").symlink_to("/etc/passwd")
    served = Served(folder)
    yield served
    assert served.stop() == 0


# ------------------------------------------------------------------------------------------------------ in the browser


@needs_chromium
def test_page_in_chromium(served, tmp_path):
    names = ("none.jpg", "one.jpg", "several.jpg")
    for name, photo in zip(names, three_photos(), strict=True):
        photo.save(tmp_path / name, quality=95)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "one.jpg").read_bytes()[:2000])
    (tmp_path / "large.png").write_bytes(os.urandom(21_000_000))
    with Browser(served.address) as browser:
        browser.wait_for("document.querySelectorAll('#tasks input').length === 5")
        text = "document.querySelector('#message').textContent"
        shown = "!document.querySelector('#stage').hidden"

        browser.choose_file("#file", tmp_path / "one.jpg")
        assert browser.wait_for(f"{shown} && {text}") == "One face"
        assert browser.wait_for("document.querySelector('#stage .labels').naturalWidth") == 512
        assert browser.evaluate("document.querySelectorAll('#stage circle').length") == 68
        photo, labels = (f"document.querySelector('#stage {name}')" for name in ("img", ".labels"))
        for side in ("left", "top", "width", "height"):
            rectangle = "Math.round({}.getBoundingClientRect()." + side + ")"
            assert browser.evaluate(rectangle.format(photo)) == browser.evaluate(rectangle.format(labels))
        # The slider.
        browser.evaluate("opacity.value = 0.25, opacity.dispatchEvent(new Event('input'))")
        assert browser.evaluate(f"getComputedStyle({labels}).opacity") == "0.25"
        # The legend and the downloads are what Python says.
        (faces,) = farl_hf.analyze([tmp_path / "one.jpg"])
        names_seen = browser.evaluate("[...document.querySelectorAll('#legend li')].map((entry) => entry.textContent)")
        assert names_seen == [faces.label_names[i] for i in np.unique(faces.label_map) if i > 0]
        address = browser.evaluate("document.querySelector('#save-labels').href")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), faces.label_map)
        address = browser.evaluate("document.querySelector('#save-json').href")
        saved = json.loads(unquote(address.removeprefix("data:application/json,")))
        assert saved["faces"][0]["score"] == pytest.approx(faces.scores[0], abs=1e-4)

        for name, said in (("none.jpg", "No face was found."), ("several.jpg", "3 faces")):
            browser.choose_file("#file", tmp_path / name)
            browser.wait_for(f"{text} === '{said}'")
        assert browser.evaluate("document.querySelectorAll('#faces > li').length") == 3

        browser.choose_file("#file", tmp_path / "broken.jpg")
        browser.wait_for("document.querySelector('#message').className === 'wrong'")
        assert "cannot be used" in browser.evaluate(text) and not browser.evaluate(shown)
        browser.choose_file("#file", tmp_path / "large.png")
        browser.wait_for(f"{text} === 'This file is larger than 20 MB.'")

        browser.choose_file("#file", tmp_path / "one.jpg")
        browser.wait_for(f"{text} === 'One face'")
        browser.evaluate("document.querySelector('input[value=zeroshot]').click()")
        browser.evaluate("words.value = 'a smiling face\\na hat', again.click()")
        shares = browser.wait_for(
            "document.querySelectorAll('#faces meter').length === 2 &&"
            " [...document.querySelectorAll('#faces meter')].map((meter) => meter.value)"
        )
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        browser.evaluate("document.querySelector('input[value=parsing]').click()")
        browser.evaluate("model.value = 'farl-tiny-parsing-celebamask-hq', model.dispatchEvent(new Event('change'))")
        browser.wait_for(f"{shown} && document.querySelector('#stage .labels')?.naturalWidth === 512")
        wrong = [message for message in browser.messages if "400" not in message]
        assert not wrong, "errors in the console"


# --------------------------------------------------------------------------------------------------------- reliability


def noise_file(megabytes: float) -> bytes:
    side = round((megabytes * 1e6 / 3) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return file_of(Image.fromarray(pixels), compress_level=0)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred kB that is `width` x `height` grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_what_strangers_may_send(served, capsys):
    """Everything is refused or served; the figures are printed."""
    figures: dict[str, object] = {}
    photos = [file_of(Image.fromarray(np.roll(np.asarray(astronaut()), i, axis=1)), "JPEG") for i in range(20)]
    analyze(served.address, photos[0])
    memory_before = served.memory("VmRSS")
    files_before = sorted(served.temporary.rglob("*"))

    def timed(photo: bytes) -> tuple[int, int, float]:
        start = time.monotonic()
        status, answer = analyze(served.address, photo)
        return status, len(answer.get("faces", ())), time.monotonic() - start

    with ThreadPoolExecutor(20) as pool:
        start, used = time.monotonic(), served.processor_seconds()
        answers = list(pool.map(timed, photos))
        seconds = time.monotonic() - start, served.processor_seconds() - used
        figures["20 photos at once, seconds and CPU seconds"] = [round(value, 1) for value in seconds]
    assert [answer[:2] for answer in answers] == [(200, 1)] * 20

    for name, photo, expected in (
        ("40 MB", noise_file(40), 413),
        ("30,000 x 30,000 px", bomb(30_000, 30_000), 400),
        ("30,000 x 1,000 px", bomb(30_000, 1_000), 200),
        ("2 x 30,000 px", bomb(2, 30_000), 200),
    ):
        status, _, seconds = timed(photo)
        assert status == expected, name
        figures[f"{name}, status and seconds"] = [status, round(seconds, 1)]

    # Twenty at once of the largest that is let in, and of files that are too large.
    with ThreadPoolExecutor(20) as pool:
        large = noise_file(19)
        answers = list(pool.map(timed, [large] * 10 + [noise_file(25)] * 10))
    assert [answer[0] for answer in answers] == [200] * 10 + [413] * 10

    folder = os.readlink(f"/proc/{served.process.pid}/cwd")
    paths = [f"/{name}" for name in ("secret.txt", "link.png", "page/passwd", "page/hostname")]
    paths += [f"/gradio_api/file={folder}/{name}" for name in ("secret.txt", "link.png", "page/passwd")]
    for path in (*TRAVERSALS, *paths):
        status, text, _ = ask(served.address, "GET", path)
        assert status == 404 and "root:" not in text, path
    for path in POSTS:
        assert ask(served.address, "POST", path, b"{}", content_type="application/json")[0] == 404
    assert ask(served.address, "POST", "/api/analyze", photos[0], origin="https://example.com")[0] == 403

    # Uploads that break off leave their places in the queue.
    where = urlsplit(served.address)
    for _ in range(40):
        with socket.create_connection((where.hostname, where.port)) as connection:
            head = f"POST /api/analyze HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 100000\r\n\r\n"
            connection.sendall(head.encode() + photos[0][:1000])
    assert analyze(served.address, photos[0])[0] == 200 and served.process.poll() is None
    assert sorted(served.temporary.rglob("*")) == files_before, "nothing is kept"
    assert "Traceback" not in served.log.read_text()
    assert not [name for name in served.open_files() if "deleted" in name]
    figures["memory before and at most, MB"] = [round(memory_before), round(served.memory())]
    with capsys.disabled():
        print("\n" + json.dumps(figures, indent=1))
