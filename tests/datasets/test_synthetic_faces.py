"""Generated faces: labels and landmarks sit on what is drawn, captions are true, files have the official layouts."""

import csv
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from skimage.draw import polygon2mask

from farl_hf.datasets import synthetic_writers as writers
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.datasets.synthetic_faces import SyntheticFaceConfig, SyntheticFaces, render_face_sample

# Nothing in front of the face: plain views for the geometry.
PLAIN = SyntheticFaceConfig(nuisance=0.0, face_size=(0.5, 0.6))


@pytest.fixture(scope="module")
def samples():
    return [render_face_sample(seed, PLAIN) for seed in range(40)]


def test_same_seed_same_picture():
    first, second = (render_face_sample(7, SyntheticFaceConfig(image_size=96)) for _ in range(2))
    assert np.array_equal(first.image, second.image) and first.captions == second.captions
    assert not np.array_equal(first.image, render_face_sample(8, SyntheticFaceConfig(image_size=96)).image)


def test_geometry_is_the_same_on_every_machine():
    """Checksum of the rounded landmarks and attributes of version 1; change VERSION when it changes on purpose."""
    digest = hashlib.sha256()
    for seed in range(20):
        face = render_face_sample(seed, SyntheticFaceConfig(image_size=64)).faces[0]
        digest.update(np.round(face.landmarks[68]).astype(np.int16).tobytes())
        digest.update(json.dumps(face.attributes, sort_keys=True).encode())
    assert digest.hexdigest()[:16] == "2d89224f8351f6b9"


@pytest.mark.parametrize("size", [64, 224, 512])
def test_sizes(size):
    sample = render_face_sample(3, SyntheticFaceConfig(image_size=size, num_faces=(2, 3)))
    assert sample.image.shape == (size, size, 3) and sample.image.dtype == np.uint8
    assert sample.lapa_labels.shape == (size, size) and sample.lapa_labels.max() <= 10
    assert sample.celebamask_hq_labels.max() <= 18 and len(sample.faces) in (2, 3)


def on_canvas(points: np.ndarray, size: int = 224) -> np.ndarray:
    return ((points >= 0) & (points <= size - 1)).all(axis=1)


PARTS = {"nose": (6, 10), "eye_left": (4, 8), "eye_right": (5, 9), "upper_lip": (7, 13), "lower_lip": (9, 12)}


@pytest.mark.parametrize("part", PARTS)
def test_label_maps_equal_an_independent_rasterisation(samples, part):
    lapa_id, celeb_id = PARTS[part]
    overlaps = []
    for sample in samples:
        face = sample.faces[0]
        if face.attributes["Eyeglasses"] or face.attributes["Bangs"]:
            continue  # drawn over some parts of CelebAMask-HQ, or of both
        exact = polygon2mask((224, 224), face.outlines[part][:, ::-1])
        for labels, class_id in ((sample.lapa_labels, lapa_id), (sample.celebamask_hq_labels, celeb_id)):
            painted = labels == class_id
            if exact.sum() > 60:
                overlaps.append((painted & exact).sum() / (painted | exact).sum())
    assert len(overlaps) > 20 and min(overlaps) > 0.95


def test_lapa_sees_through_glasses():
    eyes = {"lapa": [], "celebamask_hq": []}
    for seed in range(60):
        sample = render_face_sample(seed, PLAIN)
        if sample.faces[0].attributes["Eyeglasses"] and not sample.faces[0].attributes["Bangs"]:
            eyes["lapa"].append((sample.lapa_labels == 4).sum())
            eyes["celebamask_hq"].append((sample.celebamask_hq_labels == 8).sum())
            assert (sample.celebamask_hq_labels == 15).any()
    assert len(eyes["lapa"]) > 3 and sum(eyes["celebamask_hq"]) < 0.05 * sum(eyes["lapa"]) and min(eyes["lapa"]) > 0


def distance_to_outline(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    start, end = outline, np.roll(outline, -1, axis=0)
    along = end - start
    share = ((points[:, None] - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@pytest.mark.parametrize(
    "layout, rows, part",
    [
        (68, slice(0, 17), "skin"),
        (98, slice(0, 33), "skin"),
        (106, slice(0, 33), "skin"),
        (68, slice(17, 22), "brow_left"),
        (98, slice(42, 51), "brow_right"),
        (68, slice(31, 36), "nose"),
        (106, slice(55, 66), "nose"),
        (68, slice(36, 42), "eye_left"),
        (98, slice(68, 76), "eye_right"),
        (106, slice(75, 83), "eye_right"),
        (68, slice(49, 54), "upper_lip"),
        (98, slice(83, 88), "lower_lip"),
        (106, slice(97, 100), "upper_lip"),
    ],
)
def test_landmarks_lie_on_the_edges_of_parts(samples, layout, rows, part):
    for sample in samples:
        face = sample.faces[0]
        assert distance_to_outline(face.landmarks[layout][rows], face.outlines[part]).max() < 1.5


def test_layouts_agree_with_each_other(samples):
    for sample in samples:
        points = sample.faces[0].landmarks
        assert {size: len(p) for size, p in points.items()} == {68: 68, 98: 98, 106: 106, 19: 19, 5: 5}
        # LaPa's five points: pupils, nose tip, mouth corners.
        assert np.array_equal(points[106][[104, 105, 54, 84, 90]], points[5])
        # Outer eye corners in every layout.
        assert np.array_equal(points[68][[36, 45]], points[98][[60, 72]])
        assert np.array_equal(points[68][[36, 45]], points[19][[6, 11]])
        # Rotated upright, the image's left side comes first.
        assert np.linalg.norm(points[5][0] - points[68][36]) < np.linalg.norm(points[5][0] - points[68][45])
        assert (points[5][0][0] < points[5][1][0]) or abs(sample.faces[0].pose[2]) > 60


def test_pupils_are_dark_and_inside_their_labels(samples):
    inside = []
    for sample in samples:
        x, y = np.round(sample.faces[0].landmarks[5][0]).astype(int)
        if not sample.faces[0].attributes["Bangs"] and 0 <= x < 224 and 0 <= y < 224:
            inside.append(sample.lapa_labels[y, x] in (0, 4))
    assert np.mean(inside) > 0.9


WORDS = {
    "glasses": "Eyeglasses",
    "eyeglasses": "Eyeglasses",
    "hat": "Wearing_Hat",
    "bangs": "Bangs",
    "bald": "Bald",
    "black hair": "Black_Hair",
    "brown hair": "Brown_Hair",
    "blond hair": "Blond_Hair",
    "grey hair": "Gray_Hair",
    "earrings": "Wearing_Earrings",
    "necklace": "Wearing_Necklace",
    "lipstick": "Wearing_Lipstick",
    "smiling": "Smiling",
    "happy": "Smiling",
    "goatee": "Goatee",
    "mustache": "Mustache",
    "young": "Young",
    "mouth open": "Mouth_Slightly_Open",
}


def test_captions_are_true_and_varied():
    captions = set()
    for seed in range(150):
        sample = render_face_sample(seed, SyntheticFaceConfig(image_size=64))
        attributes = sample.faces[0].attributes
        for caption in sample.captions:
            captions.add(caption)
            for word, attribute in WORDS.items():
                assert word not in caption or attributes[attribute], (caption, attribute)
            assert (" man" in caption) == attributes["Male"] and (" woman" in caption) != attributes["Male"]
            assert "serious" not in caption or not attributes["Smiling"]
    assert len(captions) > 250


def test_a_mean_shape_is_a_bad_guess(samples):
    """Landmarks vary enough that a fixed guess is far off: over a tenth of the eye distance in the face's own frame."""
    shapes = np.stack([sample.faces[0].landmarks[68] for sample in samples])
    centred = shapes - shapes.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(shapes[:, 36] - shapes[:, 45], axis=1)
    error = np.linalg.norm(centred - centred.mean(axis=0), axis=2).mean(axis=1) / scale
    assert error.mean() > 0.1


def test_seeds_and_bounds():
    faces = SyntheticFaces(3, SyntheticFaceConfig(image_size=64), seed=5)
    assert len(list(faces)) == 3
    expected = render_face_sample(5_000_002, SyntheticFaceConfig(image_size=64))
    assert np.array_equal(faces[2].image, expected.image)
    with pytest.raises(IndexError):
        faces[3]
    with pytest.raises(ValueError, match="64 to 1024"):
        SyntheticFaceConfig(image_size=32)
    with pytest.raises(ValueError, match="between 1 and 3"):
        SyntheticFaceConfig(num_faces=(0, 2))


# ------------------------------------------------------------------------------------------------------------ files

SMALL = SyntheticFaceConfig(image_size=64)


def test_webdataset(tmp_path):
    shards = writers.write_webdataset(tmp_path, 5, samples_per_shard=3, config=SMALL)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    with tarfile.open(shards[1]) as archive:
        assert archive.getnames() == [f"00001000{i}.{kind}" for i in range(2) for kind in ("jpg", "txt", "json")]
        description = json.loads(archive.extractfile("000010001.json").read())
        assert description["status"] == "success" and description["key"] == "000010001"
        assert archive.extractfile("000010001.txt").read().decode() == description["captions"][0]
        assert Image.open(io.BytesIO(archive.extractfile("000010000.jpg").read())).size == (64, 64)


def test_lapa(tmp_path):
    writers.write_lapa(tmp_path, {"train": 2, "test": 1}, SMALL)
    numbers = (tmp_path / "LaPa/test/landmarks/000000.txt").read_text().split()
    assert numbers[0] == "106" and len(numbers) == 1 + 212
    labels = np.array(Image.open(tmp_path / "LaPa/train/labels/000001.png"))
    assert np.array_equal(labels, SyntheticFaces(2, SMALL)[1].lapa_labels)
    assert (tmp_path / "LaPa/train/images/000000.jpg").exists()


def test_celebamask_hq(tmp_path):
    writers.write_celebamask_hq(tmp_path, {"train": 1, "val": 1, "test": 1}, SMALL)
    root = tmp_path / "CelebAMask-HQ"
    assert (root / "list_eval_partition.txt").read_text().split() == [
        "000001.jpg", "0", "000002.jpg", "1", "000003.jpg", "2"
    ]  # fmt: skip
    label = np.zeros((64, 64), np.uint8)
    for class_id, suffix in enumerate(writers.CELEBAMASK_HQ_SUFFIXES, start=1):
        path = root / f"CelebAMask-HQ-mask-anno/0/00000_{suffix}.png"
        if path.exists():
            label[np.array(Image.open(path)) > 0] = class_id
    assert np.array_equal(label, SyntheticFaces(1, SMALL)[0].celebamask_hq_labels)


def test_hrnet_layouts(tmp_path):
    writers.write_ibug300w(tmp_path, {"train": 1, "valid_common": 1, "valid_challenge": 1}, SMALL)
    writers.write_wflw(tmp_path, {"train": 1}, SMALL)
    face = SyntheticFaces(1, SMALL)[0].faces[0]
    for path, size, shift in (
        ("IBUG300W/face_landmarks_300w_train.csv", 68, 2.0),
        ("WFLW/face_landmarks_wflw_train.csv", 98, 0.0),
    ):
        with (tmp_path / path).open() as file:
            header, row = csv.reader(file)
        assert len(header) == len(row) == 4 + 2 * size
        points = np.array(row[4:], dtype=float).reshape(size, 2) - shift
        assert np.abs(points - face.landmarks[size]).max() < 1e-4
        half = 100 * float(row[1])
        centre = np.array(row[2:4], dtype=float) - shift
        assert ((points >= centre - half - 1e-3) & (points <= centre + half + 1e-3)).all()
    assert (tmp_path / "IBUG300W/ibug/image_0000_1.jpg").exists()


def test_aflw19(tmp_path):
    writers.write_aflw19(tmp_path, 2, 1, SMALL)
    content = loadmat(tmp_path / "AFLW-19/AFLWinfo_release.mat")
    assert content["bbox"].shape == (3, 4) and content["data"].shape == (3, 38) and content["mask_new"].shape == (3, 19)
    assert sorted(content["ra"][0].tolist()) == [1, 2, 3]
    points = np.stack([content["data"][0, :19], content["data"][0, 19:]], axis=1)
    assert np.abs(points - SyntheticFaces(1, SMALL)[0].faces[0].landmarks[19]).max() < 1e-3
    assert (tmp_path / "AFLW-19/data/flickr" / content["nameList"][1, 0][0]).exists()


def test_celeba(tmp_path):
    defined = writers.write_celeba(tmp_path, {"train": 1, "val": 1, "test": 1}, SMALL)
    count, names, *rows = (tmp_path / "celeba/list_attr_celeba.txt").read_text().splitlines()
    assert count == "3" and names.split() == CELEBA_ATTRIBUTES and len(rows) == 3
    signs = dict(zip(CELEBA_ATTRIBUTES, rows[0].split()[1:], strict=True))
    attributes = SyntheticFaces(1, SMALL)[0].faces[0].attributes
    assert set(defined) == set(attributes) and all((signs[name] == "1") == value for name, value in attributes.items())


def test_iterable_dataset():
    rows = list(writers.iterable_dataset(2, SMALL))
    assert rows[0]["image"].size == (64, 64) and len(rows[1]["faces"][0]["landmarks"]["98"]) == 98
