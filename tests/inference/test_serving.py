"""The page of `farl serve`: what it answers, and what it refuses."""

import asyncio
import base64
import http.client
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from inference_cases import astronaut, save_tiny_model, three_photos
from PIL import Image

import farl_hf
from farl_hf.inference.serving import MAX_LABELS, FaceService, Refusal, start_server

pytest.importorskip("gradio")
PARTS = ("parsing", "alignment", "attributes")


def file_of(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("models")
    return {task: [save_tiny_model(folder / f"tiny-{task}", task)] for task in PARTS}


@pytest.fixture(scope="module")
def service(models) -> FaceService:
    return FaceService(models, max_megabytes=0.6, max_megapixels=0.5, max_waiting=3)


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:
    server, address = start_server(service)
    yield address
    server.close(verbose=False)


def ask(address: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict]:
    """Status, body and headers of an answer; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=600)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    text = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, text, {name.lower(): value for name, value in response.getheaders()}


def analyze(address: str, photo: bytes, labels: tuple[str, ...] = (), **query: str) -> tuple[int, dict]:
    words = urlencode([*query.items(), *(("label", label) for label in labels)])
    status, text, _ = ask(address, "POST", f"/api/analyze?{words}", photo)
    return status, json.loads(text)


# ---------------------------------------------------------------------------------------------------------- functions


def test_choices(service, models):
    choices = service.choices()
    assert choices["tasks"]["parsing"] == ["tiny-parsing"] and choices["tasks"]["zeroshot"] == ["farl-tiny"]
    assert str(Path(models["parsing"][0]).parent) not in json.dumps(choices), "where a folder lies"
    with pytest.raises(ValueError, match="Unknown tasks faces"):
        FaceService({"faces": ["x"]})
    with pytest.raises(ValueError, match="one name"):
        FaceService({"parsing": [models["parsing"][0], str(Path(models["parsing"][0]) / ".." / "tiny-parsing")]})


@pytest.mark.parametrize(
    ("task", "model", "labels", "message"),
    (
        ("identity", "", (), "no task 'identity'"),
        ("parsing", "/etc", (), "no model '/etc' for parsing"),
        ("parsing", "tiny-alignment", (), "choose among tiny-parsing"),
        ("everything", "tiny-parsing", (), "none by name"),
        ("zeroshot", "", ("one", " "), "two to 20"),
        ("zeroshot", "", ("word",) * (MAX_LABELS + 1), "two to 20"),
        ("zeroshot", "", ("a", "b" * 300), "at most 200"),
    ),
)
def test_words_that_are_refused(service, task, model, labels, message):
    with pytest.raises(Refusal, match=re.escape(message)):
        service.submit(b"", task, model, labels)


def test_the_queue_keeps_the_order(models):
    service = FaceService(models)
    order: list[int] = []
    service.answer = lambda photo, *_: (time.sleep(0.01), order.append(photo[0]))
    futures = [service.submit(bytes([i]), "parsing") for i in range(20)]
    assert all(future.result() for future in futures) and order == list(range(20))


# --------------------------------------------------------------------------------------------------------- over HTTP


def test_three_photos(address):
    """With no, one and several faces."""
    for count, photo in zip((0, 1, 3), three_photos(), strict=True):
        status, answer = analyze(address, file_of(photo, "JPEG", quality=95))
        assert status == 200 and len(answer["faces"]) == count
        assert answer["image_size"] == [photo.height, photo.width]
        assert all({"box", "score", "landmarks", "head_pose", "attributes"} <= set(face) for face in answer["faces"])
        labels = Image.open(io.BytesIO(base64.b64decode(answer["label_map"].partition(",")[2])))
        assert labels.size == photo.size and labels.mode == "P" and labels.info["transparency"] == 0
        assert {entry["id"] for entry in answer["legend"]} == set(np.unique(labels).tolist()) - {0}
        assert all(re.fullmatch("#[0-9a-f]{6}", entry["colour"]) for entry in answer["legend"])


def test_answers_are_the_pipeline_s(address, models):
    _, answer = analyze(address, file_of(astronaut()), task="alignment", model="tiny-alignment")
    found = farl_hf.analyze(astronaut(), tasks=["alignment"], models={"alignment": models["alignment"][0]})
    np.testing.assert_allclose(answer["faces"][0]["landmarks"], found.landmarks[0], atol=1e-3)
    assert "label_map" not in answer and max(map(max, answer["landmark_lines"])) == 67


def test_own_words(address):
    status, answer = analyze(address, file_of(astronaut()), ("a smiling face", "a hat", ""), task="zeroshot")
    assert status == 200
    shares = answer["faces"][0]["attributes"]
    assert set(shares) == {"a smiling face", "a hat"} and sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_page_and_its_files(address):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript"), ("/faces.js", "")):
        status, text, headers = ask(address, "GET", path)
        assert status == 200 and kind in headers["content-type"] and text
        assert "default-src 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
    status, text, _ = ask(address, "GET", "/api/tasks")
    assert json.loads(text)["max_megapixels"] == 0.5


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_photos_that_are_refused(address):
    good = file_of(astronaut(), "JPEG")
    for photo, status, message in (
        (b"", 400, "no photo"),
        (b"no picture", 400, "cannot be used"),
        (good[:3000], 400, "cannot be used"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", 400, "cannot be used"),
        (file_of(Image.new("L", (1000, 600))), 400, "1000 x 600 pixels, more than 500,000"),
        (file_of(Image.new("L", (1, 1))), 400, "1 x 1 pixels"),
        (noise(640, 480).tobytes(), 413, "larger than 0.6 MB"),
    ):
        found, answer = analyze(address, photo)
        assert (found, list(answer)) == (status, ["error"]) and message in answer["error"], answer
        assert "/" not in answer["error"].replace("image/", ""), "no path of the host"
    status, text, _ = ask(address, "POST", "/api/analyze", b"--x\r\n", content_type="multipart/form-data; boundary=x")
    assert status == 415 and "--data-binary" in text
    assert analyze(address, good)[0] == 200, "still there"


TRAVERSALS = (
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/gradio_api/file=../../../../../../etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:22/",
    "/../../../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/page.css/../../../../../etc/passwd",
    "/page.css%00.html",
    "/page/serving.py",
    "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/../../../../etc/passwd",
    "/theme.css",
    "/config",
    "/docs",
    "/openapi.json",
    "/monitoring",
    "/gradio_api/info",
    "/gradio_api/runs",
    "/gradio_api/mcp_other",
    "//etc/passwd",
)
POSTS = (
    "/gradio_api/upload",
    "/gradio_api/run/analyze_photo",
    "/gradio_api/call/analyze_photo",
    "/gradio_api/queue/join",
    "/gradio_api/process_recording",
    "/gradio_api/vibe-edit/",
    "/login",
    "/gradio_api/component_server",
)


def test_no_file_of_the_host(address):
    for path in TRAVERSALS:
        status, text, _ = ask(address, "GET", path)
        assert status == 404 and "root:" not in text, path
    for path in POSTS:
        status, text, _ = ask(address, "POST", path, b'{"data": ["/etc/passwd"]}', content_type="application/json")
        assert status == 404, path
    for query in ({"model": "../../etc"}, {"model": "/etc", "task": "parsing"}, {"task": "../../etc/passwd"}):
        assert analyze(address, file_of(astronaut()), **query)[0] == 400


def test_other_sites(address):
    photo, own = file_of(three_photos()[0], "JPEG"), address.rstrip("/")
    for headers, status in (
        ({"origin": "https://example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": own.rpartition(":")[0] + ":1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"host": "example.com"}, 403),
        ({"host": f"127.0.0.1.example.com:{urlsplit(address).port}"}, 403),
        ({"origin": own}, 200),
        ({}, 200),
    ):
        found, text, answered = ask(address, "POST", "/api/analyze?task=alignment", photo, **headers)
        assert found == status, (headers, text)
        assert "example.com" not in answered.get("access-control-allow-origin", "")
    # A name that someone else controls, and points to this machine.
    assert ask(address, "GET", "/", host="example.com")[0] == 403


def test_more_than_the_queue_holds(address, service):
    photo = file_of(three_photos()[0], "JPEG")
    with service.place(), service.place(), service.place():
        status, answer = analyze(address, photo)
    assert status == 503 and "waiting" in answer["error"]
    assert analyze(address, photo)[0] == 200


def test_photos_are_not_kept(address, monkeypatch):
    def files() -> set[str]:
        return {str(path) for path in Path(tempfile.gettempdir()).glob("*") if "gradio" in path.name}

    before = files()
    analyze(address, file_of(astronaut()))
    assert files() == before


async def _call_tool(address: str, arguments: dict) -> tuple[list[str], str, bool]:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    streams = streamablehttp_client(f"{address}gradio_api/mcp/")
    async with streams as (reads, writes, _), ClientSession(reads, writes) as session:
        await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        answer = await session.call_tool("analyze_photo", arguments)
        return tools, answer.content[0].text, bool(answer.isError)


def test_mcp(address):
    photo = base64.b64encode(file_of(astronaut(), "JPEG")).decode()
    tools, text, is_error = asyncio.run(_call_tool(address, {"photo": photo, "task": "attributes"}))
    assert tools == ["analyze_photo"] and not is_error and "Smiling" in json.loads(text)["faces"][0]["attributes"]
    for photo, message in (("/etc/passwd", "no base64"), ("bm8gcGljdHVyZQ==", "cannot be used"), ("A" * 810_000, "MB")):
        _, text, is_error = asyncio.run(_call_tool(address, {"photo": photo}))
        assert is_error and message in text, text


def test_bound_to_this_machine_alone(address):
    """Nothing listens at the machine's other addresses."""
    port = f":{urlsplit(address).port:04X}"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {local for _, local, _, state, *_ in sockets if state == "0A" and local.endswith(port)}
    assert listening == {f"0100007F{port}"}
