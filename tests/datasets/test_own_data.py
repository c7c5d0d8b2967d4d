"""Own data: label maps and annotation files in the forms that people have, and what is said of bad ones."""

import json
import re

import datasets
import numpy as np
import pytest
from dataset_cases import face_points, make_own, picture
from PIL import Image

from farl_hf.datasets.files import BadSamples
from farl_hf.datasets.flips import class_flip_permutation, flip_permutation
from farl_hf.datasets.label_maps import parse_colours, read_label_map
from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_FACER_NAMES, LAPA_FARL_NAMES, LAPA_LABELS
from farl_hf.datasets.own_data import load_own_data, own_splits
from farl_hf.datasets.own_files import read_attribute_csv, read_coco_keypoints, read_landmark_csv, read_pts

IDS = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)


def strict() -> BadSamples:
    return BadSamples(skip=False, what="test")


# ---------------------------------------------------------------------------------------------------------- label maps


def saved(image: Image.Image, path) -> Image.Image:
    image.save(path)
    return Image.open(path)


def test_label_maps_of_every_kind_give_their_ids(tmp_path):
    palette = Image.fromarray(IDS).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    table = parse_colours(["000000", "#ff0000", "0000FF"])
    kinds = {
        "grey": (Image.fromarray(IDS), None),
        "palette": (palette, None),
        "grey saved as RGB": (Image.fromarray(np.repeat(IDS[..., None], 3, axis=2)), None),
        "16 bit": (Image.fromarray(IDS.astype(np.uint16)), None),
        "colours": (Image.fromarray(colours[IDS]), table),
        "colours with alpha": (Image.fromarray(np.dstack([colours[IDS], np.full((2, 3), 255, np.uint8)])), table),
    }
    for kind, (image, given) in kinds.items():
        assert (read_label_map(saved(image, tmp_path / "map.png"), given) == IDS).all(), kind
    # Of a 1-bit image the foreground is class 1, not 255.
    bits = saved(Image.fromarray(IDS > 0), tmp_path / "bits.png")
    assert bits.mode == "1" and read_label_map(bits).tolist() == [[0, 1, 1], [1, 1, 0]]
    # 255 stays: such pixels do not count.
    assert 255 in read_label_map(Image.fromarray(np.where(IDS == 2, 255, IDS).astype(np.uint8)))


def test_label_maps_that_say_nothing_are_refused():
    red = Image.new("RGB", (3, 2), (255, 0, 0))
    with pytest.raises(ValueError, match="is in colours: say which class"):
        read_label_map(red)
    with pytest.raises(ValueError, match=re.escape("has the colour ff0000 at (0, 0), which stands for no class")):
        read_label_map(red, parse_colours(["000000", "00ff00"]))
    with pytest.raises(ValueError, match="'red' is not six hexadecimal digits"):
        parse_colours(["red"])
    with pytest.raises(ValueError, match="stands for two classes"):
        parse_colours(["ff0000", "#FF0000"])


# --------------------------------------------------------------------------------------------------------------- files


def test_landmark_csv(tmp_path):
    path = tmp_path / "landmarks.csv"
    path.write_text("image,box_x1,box_y1,box_x2,box_y2,x0,y0,x1,y1\n0001.jpg,40,52,168,180,83.5,101.0,127.5,100.2\n")
    (face,) = read_landmark_csv(path, strict())
    assert face.image == "0001.jpg" and face.box == (40, 52, 168, 180)
    assert np.allclose(face.landmarks, [[83.5, 101], [127.5, 100.2]])
    path.write_text("image,a,b\n1.jpg,3,4\n2.jpg,,4\n")
    with pytest.raises(ValueError, match=r"landmarks.csv, line 3: could not convert"):
        read_landmark_csv(path, strict())
    (face,) = read_landmark_csv(path, BadSamples(True, ""))
    assert face.box is None and face.landmarks.tolist() == [[3, 4]]
    for text, message in (("image,a\n1.jpg,3\n", "even number"), ("photo,a,b\n1.jpg,3,4\n", "no column 'image'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_landmark_csv(path, strict())


def test_pts(tmp_path):
    path = tmp_path / "face.pts"
    path.write_text("version: 1\nn_points: 2\n{\n84.5 102.0\n128.5 101.2\n}\n")
    # iBUG's files count pixels from 1.
    assert np.allclose(read_pts(path), [[83.5, 101], [127.5, 100.2]])
    for text in ("", "n_points: 3\n{\n1 2\n}", "version: 1\n{\n1 2\n}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"face.pts is no .pts file"):
            read_pts(path)


def test_coco_keypoints(tmp_path):
    path = tmp_path / "keypoints.json"
    face = {"image_id": 1, "keypoints": [83.5, 101, 2, 127.5, 100.2, 1], "bbox": [40, 52, 128, 128]}
    content = {"images": [{"id": 1, "file_name": "0001.jpg"}], "annotations": [face, {**face, "bbox": None}]}
    path.write_text(json.dumps(content))
    with_box, without = read_coco_keypoints(path, strict())
    assert with_box.image == "0001.jpg" and with_box.box == (40, 52, 168, 180) and without.box is None
    assert np.allclose(with_box.landmarks, [[83.5, 101], [127.5, 100.2]])
    face["keypoints"] = [83.5, 101, 2, 0, 0, 0]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 0: keypoint 1 is not labelled"):
        read_coco_keypoints(path, strict())
    assert len(read_coco_keypoints(path, BadSamples(True, ""))) == 1
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no COCO file"):
        read_coco_keypoints(path, strict())


def test_attribute_csv(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("image,Smiling,Eyeglasses\n0001.jpg,1,0\n0002.jpg,-1,true\n0003.jpg,No,YES\n")
    names, answers = read_attribute_csv(path, strict())
    assert names == ["Smiling", "Eyeglasses"]
    assert answers == {"0001.jpg": [True, False], "0002.jpg": [False, True], "0003.jpg": [False, True]}
    path.write_text("image,Smiling\n0001.jpg,maybe\n")
    with pytest.raises(ValueError, match="line 2: Smiling is 'maybe', not 1 or 0"):
        read_attribute_csv(path, strict())


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", ("landmarks.csv", "landmarks.pts", "keypoints.json"))
def test_landmarks_of_a_folder(tmp_path, kind):
    make_own(tmp_path, {"train": 3, "val": 1, "test": 2}, kind)
    assert sorted(own_splits(tmp_path)) == ["test", "train", "val"]
    rows = load_own_data(tmp_path, "train", truth="landmarks")
    assert rows["name"][:] == ["face0", "face1", "face2"] and rows[1]["image"].size == (40, 32)
    assert np.allclose(rows[2]["landmarks"], face_points(68, 2), atol=1e-4)
    assert ("box" in rows.column_names) == (kind != "landmarks.pts")
    if kind != "landmarks.pts":
        assert rows[0]["box"] == [4, 2, 36, 30]
    (tmp_path / "train/images/face1.jpg").unlink()
    if kind != "landmarks.pts":
        with pytest.raises(FileNotFoundError, match=r"train/images/face1.jpg is missing"):
            load_own_data(tmp_path, "train", truth="landmarks")
    rows = load_own_data(tmp_path, "train", truth="landmarks", skip_bad=True)
    assert rows["name"][:] == ["face0", "face2"]
    with pytest.raises(FileNotFoundError, match=r"no labels beside them. Give a folder with"):
        load_own_data(tmp_path, "train", truth="labels")


def test_attributes_of_a_folder(tmp_path):
    make_own(tmp_path, {"train": 3}, "attributes.csv")
    rows = load_own_data(tmp_path, "train")
    assert [row["attributes"] for row in rows] == [
        {"Smiling": False, "Young": True},
        {"Smiling": True, "Young": False},
        {"Smiling": False, "Young": False},
    ]


def test_faces_with_other_numbers_of_landmarks_are_bad(tmp_path):
    make_own(tmp_path, {"train": 3}, "landmarks.pts")
    (tmp_path / "train/landmarks/face1.pts").write_text("n_points: 1\n{\n1 2\n}")
    with pytest.raises(ValueError, match=r"face1.jpg has 1 landmarks, other faces have 68"):
        load_own_data(tmp_path, "train")
    assert load_own_data(tmp_path, "train", skip_bad=True)["name"][:] == ["face0", "face2"]


def test_missing_splits_are_named(tmp_path):
    table = datasets.Dataset.from_dict({"image": [1]})
    datasets.DatasetDict(train=table, dev=table).save_to_disk(tmp_path / "saved")
    table.save_to_disk(tmp_path / "single")
    make_own(tmp_path / "folder", {"train": 1, "dev": 1}, "labels")
    for name in ("saved", "folder"):
        assert sorted(own_splits(tmp_path / name)) == ["dev", "train"]
        with pytest.raises(ValueError, match=r"has no split 'test', but (train, dev|dev, train)"):
            load_own_data(tmp_path / name, "test")
    assert own_splits(tmp_path / "single") == ["train"] and len(load_own_data(tmp_path / "single", "train")) == 1
    with pytest.raises(FileNotFoundError, match=r"nothing is missing. Give a folder"):
        own_splits(tmp_path / "nothing")


def test_image_folders_of_the_datasets_library(tmp_path):
    for split in ("train", "validation"):
        picture(tmp_path / split / "a.jpg")
        (tmp_path / split / "metadata.jsonl").write_text('{"file_name": "a.jpg", "points": [[1.0, 2.0]]}\n')
    assert own_splits(tmp_path) == ["train", "validation"]
    rows = load_own_data(tmp_path, "validation", {"landmarks": "points"})
    assert rows[0]["landmarks"] == [[1, 2]] and rows[0]["image"].size == (40, 32)


# --------------------------------------------------------------------------------------------------------------- flips


def test_known_class_names_have_their_flip_table():
    for names in (LAPA_LABELS, LAPA_FARL_NAMES, LAPA_FACER_NAMES, [name.upper() for name in LAPA_LABELS]):
        assert class_flip_permutation(names) == flip_permutation("lapa") == [0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10]
    assert class_flip_permutation(CELEBAMASK_HQ_LABELS) == flip_permutation("celebamask_hq")
    assert flip_permutation("celebamask_hq")[4:10] == [5, 4, 7, 6, 9, 8]


def test_other_class_names_swap_their_sides():
    assert class_flip_permutation(["background", "skin", "hair"]) == [0, 1, 2]
    assert class_flip_permutation(["background", "Left eye", "right eye"]) == [0, 2, 1]
    assert class_flip_permutation(["l_ear", "r_ear", "u_lip", "l_lip"]) == [1, 0, 2, 3]
