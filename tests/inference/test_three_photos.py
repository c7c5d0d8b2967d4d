"""Three photos, with no, one and several faces (the astronaut's and generated ones), say the same at every entry."""

import json

import numpy as np
import pytest
from inference_cases import astronaut, photo_without_faces
from PIL import Image

import farl_hf
from farl_hf.commands.main import main
from farl_hf.inference.serving import FaceService

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def photos() -> dict[str, Image.Image]:
    from farl_hf.synthetic.faces import render_faces

    several = Image.new("RGB", (512 + 2 * 256, 512), (120, 130, 140))
    several.paste(astronaut(), (0, 0))
    for i, sample in enumerate(render_faces(SEEDS)):
        several.paste(Image.fromarray(sample.image).resize((256, 256)), (512 + 256 * (i % 2), 256 * (i // 2)))
    return {"none": photo_without_faces(), "one": astronaut(), "several": several}


def test_every_entry_finds_the_same_faces(photos, tmp_path):
    for name, photo in photos.items():
        photo.save(tmp_path / f"{name}.png")
    pipeline = dict(zip(photos, farl_hf.analyze(list(photos.values())), strict=True))
    none, one, several = (len(faces) for faces in pipeline.values())
    assert (none, one) == (0, 1) and 3 <= several <= 1 + len(SEEDS), "YuNet does not take every generated face for one"
    output = tmp_path / "results"
    assert main(["analyze", *(str(tmp_path / f"{name}.png") for name in photos), "--output", str(output)]) == 0
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    service = FaceService()
    for (name, expected), line in zip(pipeline.items(), lines, strict=True):
        page = service.submit((tmp_path / f"{name}.png").read_bytes(), "everything").result()
        for faces in (line["faces"], page["faces"]):
            assert len(faces) == len(expected)
            for i, face in enumerate(faces):
                np.testing.assert_allclose(face["box"], expected.boxes[i], atol=1e-3)
                np.testing.assert_allclose(face["landmarks"], expected.landmarks[i], atol=1e-2)
                np.testing.assert_allclose(list(face["attributes"].values()), expected.attributes[i], atol=1e-4)
        with Image.open(output / f"labels/{name}.png.png") as labels:
            np.testing.assert_array_equal(np.asarray(labels), expected.label_map)
