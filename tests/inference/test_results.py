"""`Faces`: slicing, joining, plain types, crops."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from farl_hf import Faces


def three_faces(**fields) -> Faces:
    rows = np.arange(3, dtype=np.float32)
    values = {
        "boxes": np.stack([rows * 10, rows * 10, rows * 10 + 8, rows * 10 + 8], axis=1),
        "points": np.ones((3, 5, 2)) * rows[:, None, None],
        "scores": 0.9 - rows / 10,
        "landmarks": np.ones((3, 68, 2)) * rows[:, None, None],
        "label_maps": [np.full((4, 4), i + 1, dtype=np.uint8) for i in range(3)],
        "label_boxes": [[2 * i, 2 * i, 2 * i + 4, 2 * i + 4] for i in range(3)],
        "attributes": np.full((3, 2), 0.25),
        "attribute_names": ["Smiling", "Young"],
    }
    return Faces((30, 40), **(values | fields))


def test_slicing_keeps_every_row_together():
    faces = three_faces()
    for index, kept in ((1, [1]), (-1, [2]), (slice(1, None), [1, 2]), ([2, 0], [2, 0]), (faces.scores > 0.75, [0, 1])):
        part = faces[index]
        assert part.boxes[:, 0].tolist() == [10.0 * i for i in kept]
        assert part.landmarks[:, 0, 0].tolist() == kept and len(part) == len(kept)
        assert [int(m[0, 0]) for m in part.label_maps] == [i + 1 for i in kept]
    assert len(faces[[]]) == 0 and faces[[]].landmarks.shape == (0, 68, 2)
    assert [len(face) for face in faces] == [1, 1, 1]
    with pytest.raises(IndexError, match="no face 3"):
        faces[3]


def test_concatenation():
    faces = three_faces()
    joined = Faces.concatenate([Faces.empty((30, 40)), faces[:1], faces[1:]])
    assert joined.to_dict() == faces.to_dict()
    assert len(Faces.concatenate([Faces.empty((3, 4))] * 2)) == 0
    with pytest.raises(ValueError, match="landmarks"):
        Faces.concatenate([faces[:1], faces[1:].replace(landmarks=None)])
    with pytest.raises(ValueError, match="image_size"):
        Faces.concatenate([faces, three_faces().replace(image_size=(30, 41))])
    with pytest.raises(ValueError, match="nothing"):
        Faces.concatenate([])


def test_the_more_certain_face_is_on_top_and_background_covers_nothing():
    top = np.ones((4, 4), dtype=np.uint8)
    top[0] = 0
    merged = three_faces(label_maps=[top, *three_faces().label_maps[1:]], label_boxes=[[2, 2, 6, 6]] * 3).label_map
    assert merged.shape == (30, 40) and merged[2, 2] == 2 and merged[3:6, 2:6].min() == 1 and merged[6, 6] == 0
    assert Faces.empty((2, 2)).label_map is None


def test_plain_types():
    faces = three_faces(head_pose=np.array([[1.5, np.nan, 0.1]] * 3), track_ids=[7, 8, 9])
    content = json.loads(faces.to_json())
    assert content["image_size"] == [30, 40] and len(content["faces"]) == 3
    face = content["faces"][1]
    assert face["box"] == [10, 10, 18, 18] and face["score"] == pytest.approx(0.8) and face["track_id"] == 8
    assert face["head_pose"] == [1.5, None, 0.1] and face["attributes"] == {"Smiling": 0.25, "Young": 0.25}
    png = Image.open(io.BytesIO(base64.b64decode(face["labels"]["png"])))
    assert (np.asarray(png) == 2).all() and png.size == (4, 4) and face["labels"]["box"] == [2, 2, 6, 6]
    assert "labels" not in faces.to_dict(label_maps=False)["faces"][0]
    assert Faces.empty((5, 6)).to_dict() == {"image_size": [5, 6], "faces": []}


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"scores": np.zeros(2)}, "2 rows for 3 faces"),
        ({"points": np.zeros((3, 4, 2))}, r"points has shape \(3, 4, 2\): it must be \(faces, 5, 2\)"),
        ({"landmarks": np.zeros((3, 68))}, "landmarks has shape"),
        ({"boxes": np.zeros((3, 5))}, "boxes has shape"),
    ),
)
def test_wrong_shapes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        three_faces(**fields)


@pytest.mark.parametrize("turn", (0, 90, 180, 270))
def test_crops_are_upright(turn):
    """A face drawn with red eyes and a blue mouth comes out the same however the photo is turned."""
    photo = Image.new("RGB", (600, 400), "white")
    points = np.array([[260, 160], [340, 160], [300, 200], [270, 240], [330, 240]], dtype=float)
    photo.paste((255, 0, 0), (220, 140, 380, 180))
    photo.paste((0, 0, 255), (220, 220, 380, 260))
    box = np.array([[200.0, 100.0], [400.0, 300.0]])
    for _ in range(turn // 90):  # a quarter counter-clockwise: (x, y) -> (y, width - 1 - x)
        points, box = ([a[:, 1], photo.width - 1 - a[:, 0]] for a in (points, box))
        points, box = np.stack(points, axis=1), np.stack(box, axis=1)
        photo = photo.transpose(Image.Transpose.ROTATE_90)
    box = np.concatenate([box.min(axis=0), box.max(axis=0)])
    faces = Faces((photo.height, photo.width), [box], [points], [1.0])
    (crop,) = faces.crop(photo, size=100, face_scale=0.8)
    pixels = np.asarray(crop).astype(int)
    assert crop.size == (100, 100)
    assert np.abs(pixels[34, 50] - (255, 0, 0)).max() < 8 and np.abs(pixels[66, 50] - (0, 0, 255)).max() < 8
    with pytest.raises(ValueError, match="pixels"):
        faces.crop(Image.new("RGB", (10, 10)))


def test_supervision_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        three_faces().to_supervision()


def test_to_supervision():
    supervision = pytest.importorskip("supervision")
    detections = three_faces(track_ids=[4, 5, 6]).to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert detections.tracker_id.tolist() == [4, 5, 6] and detections[1].data["landmarks"].shape == (1, 68, 2)
