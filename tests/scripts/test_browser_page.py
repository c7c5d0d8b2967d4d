"""scripts/browser: the networks in Chromium give Python's numbers, without a server that computes."""

import base64
import functools
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_cases import Browser, needs_chromium
from inference_cases import save_tiny_model, three_photos
from PIL import Image

import farl_hf

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts/browser"))
pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, for onnxruntime-web"),
]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    import build

    folder = tmp_path_factory.mktemp("page")
    assert build.main([str(folder)]) == 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Browser(f"http://127.0.0.1:{server.server_port}/index.html") as browser:
        browser.wait_for("document.querySelector('#message')?.textContent === 'Ready'")
        yield browser
    server.shutdown()


def test_networks_give_python_s_numbers(browser):
    """On the same crop of the astronaut's face."""
    photo = three_photos()[1]
    faces = farl_hf.analyze(photo)
    for task, output in (("parsing", "logits"), ("alignment", "landmarks")):
        folder = farl_hf.pretrained(f"farl-tiny-{task}")
        processor = farl_hf.FaRLFaceImageProcessor.from_pretrained(folder)
        pixels = processor([photo], face_points=[faces.points + 0.5])["pixel_values"]
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        crop = ((pixels[0] * std + mean) * 255).round().byte().movedim(0, -1).numpy()
        model_class = farl_hf.FaRLForFaceParsing if task == "parsing" else farl_hf.FaRLForFaceAlignment
        with torch.no_grad():
            normalised = (torch.from_numpy(crop).movedim(-1, 0).float() / 255 - mean) / std
            expected = model_class.from_pretrained(folder)(normalised[None])[output][0].numpy()
        text = base64.b64encode(crop.tobytes()).decode()
        found = browser.evaluate(
            f"import('./browser.js').then((page) => page.predict('{task}', Uint8Array.from(atob('{text}'),"
            " (letter) => letter.charCodeAt(0)))).then((output) => [...output.data])"
        )
        found = np.array(found).reshape(expected.shape)
        if task == "parsing":
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
            assert (found.argmax(0) == expected.argmax(0)).mean() > 0.999
        else:
            assert np.abs(found - expected).max() < 0.01 / 448


def test_three_photos(browser, tmp_path):
    """No, one and several faces, upright ones; the whole way agrees with Python's."""
    none, one, _ = three_photos()
    wide = Image.new("RGB", (1100, 512), (120, 130, 140))
    wide.paste(one, (0, 0))
    wide.paste(one.resize((400, 400)), (600, 50))
    for photo, said in ((none, "No face was found"), (one, "One face"), (wide, "2 faces")):
        photo.save(tmp_path / "photo.png")
        browser.evaluate("document.querySelector('#message').textContent = ''")
        browser.choose_file("#file", tmp_path / "photo.png")
        browser.wait_for(f"document.querySelector('#message').textContent.startsWith('{said}, in')")
    photo = browser.evaluate(
        "import('./browser.js').then(async (page) => {"
        " const picture = document.querySelector('#stage img'); await picture.decode();"
        " const answer = await page.analyze(await createImageBitmap(picture));"
        " return JSON.stringify({...answer, labels: [...answer.labels]}); })"
    )
    answer = json.loads(photo)
    expected = farl_hf.analyze(wide, tasks=["parsing", "alignment"])
    assert len(answer["faces"]) == len(expected) == 2
    order = np.argsort([face["box"][0] for face in answer["faces"]])
    for i, j in zip(order, np.argsort(expected.boxes[:, 0]), strict=True):
        size = np.ptp(expected.landmarks[j], axis=0).max()
        # The detector's points differ a little: Python turns each face upright first.
        off = np.linalg.norm(np.array(answer["faces"][i]["landmarks"]) - expected.landmarks[j], axis=1).mean()
        assert off < 0.05 * size
    labels = np.array(answer["labels"]).reshape(wide.height, wide.width)
    either = (labels > 0) | (expected.label_map > 0)
    assert (labels == expected.label_map)[either].mean() > 0.85
    assert not browser.messages, "errors in the console"


def test_other_crops_are_refused(tmp_path, capsys):
    import build

    model = save_tiny_model(tmp_path / "warped", "parsing")
    assert build.main([str(tmp_path / "page"), "--parsing", model]) == 2
    assert "another crop" in capsys.readouterr().err
