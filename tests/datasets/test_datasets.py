import logging

import datasets
import numpy as np
import pytest
from dataset_cases import (
    face_points,
    make_aflw19,
    make_celeba,
    make_celebamask_hq,
    make_ibug300w,
    make_lapa,
    make_wflw,
    picture,
)
from PIL import Image
from scipy.io import loadmat

from farl_hf.datasets.aflw19 import load_aflw19
from farl_hf.datasets.celeba import load_celeba
from farl_hf.datasets.celebamask_hq import load_celebamask_hq, resize_image
from farl_hf.datasets.files import jpeg_round_trip
from farl_hf.datasets.ibug300w import load_ibug300w
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.datasets.lapa import load_lapa
from farl_hf.datasets.own_data import load_own_data
from farl_hf.datasets.wflw import load_wflw


def test_lapa(tmp_path):
    make_lapa(tmp_path, {"train": 3, "val": 1, "test": 2})
    rows = load_lapa(tmp_path, "train")
    assert rows["name"][:] == ["train.0_face", "train.1_face", "train.2_face"]
    expected = np.random.default_rng(1).integers(0, 11, (32, 40))
    assert (np.asarray(rows[1]["labels"]) == expected).all() and rows[1]["image"].size == (40, 32)
    points = face_points(106, 1).astype(np.float32)
    assert np.allclose(rows[1]["landmarks"], points)
    assert np.allclose(rows[1]["face_points"], points[[104, 105, 54, 84, 90]])
    assert len(load_lapa(tmp_path / "LaPa", "test")) == 2


def test_lapa_errors(tmp_path, caplog):
    make_lapa(tmp_path, {"train": 3})
    with pytest.raises(ValueError, match=r"has 3 samples, the official set 18,176"):
        load_lapa(tmp_path, "train", strict=True)
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        load_lapa(tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match=r"LaPa/val is missing. Get LaPa from https"):
        load_lapa(tmp_path, "val")
    (tmp_path / "LaPa/train/landmarks/1_face.txt").write_text("106\n1 2\n")
    with pytest.raises(ValueError, match=r"1_face.txt: 3 numbers"):
        load_lapa(tmp_path, "train")
    (tmp_path / "LaPa/train/labels/0_face.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0_face.png is missing"):
        load_lapa(tmp_path, "train")
    with caplog.at_level(logging.WARNING):
        assert load_lapa(tmp_path, "train", skip_bad=True)["name"][:] == ["train.2_face"]
    assert "skipped 2 bad samples, the first:" in caplog.text
    path = tmp_path / "LaPa/train/landmarks/2_face.txt"
    path.write_text(path.read_text().replace(str(face_points(106, 2)[5, 1]), "nan"))
    with pytest.raises(ValueError, match="has no samples"):
        load_lapa(tmp_path, "train", skip_bad=True)
    for i in (0, 1):
        (tmp_path / f"LaPa/train/images/{i}_face.jpg").unlink()
    with pytest.raises(ValueError, match=r"2_face.txt: landmark 5 is not finite"):
        load_lapa(tmp_path, "train")


def test_celebamask_hq(tmp_path):
    make_celebamask_hq(tmp_path, [0, 0, 1, 2, 0])
    rows = load_celebamask_hq(tmp_path, "train")
    # In the order of CelebA's partition, as the original's, on which its few-shot subsets depend: 96, 99, 100.
    assert rows["name"][:] == ["4", "1", "0"] and load_celebamask_hq(tmp_path, "val")[0]["name"] == "2"
    row = rows[0]
    labels = np.asarray(row["labels"])
    # Neck (1) below skin (2) below hair (14): the order of class ids.
    assert labels[25, 0] == 1 and labels[15, 10] == 2 and labels[9, 10] == 14 and labels[9, 0] == 14
    assert row["image"].size == (32, 32)
    source = np.asarray(Image.open(row["file"])).astype(float)
    blocks = source.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(row["image"]) - blocks).max() <= 0.5
    assert rows.features["masks"].feature["label"].names[14] == "hair"


def test_celebamask_hq_errors(tmp_path):
    make_celebamask_hq(tmp_path, [0, 0])
    root = tmp_path / "CelebAMask-HQ"
    mapping = root / "CelebA-HQ-to-CelebA-mapping.txt"
    mapping.write_text(mapping.read_text() + "2 1\n")
    with pytest.raises(ValueError, match=r"mapping.txt, line 4"):
        load_celebamask_hq(tmp_path, "train")
    assert len(load_celebamask_hq(tmp_path, "train", skip_bad=True)) == 2
    (root / "CelebA-HQ-img/1.jpg").unlink()
    assert len(load_celebamask_hq(tmp_path, "train", skip_bad=True)) == 1
    Image.new("L", (16, 16)).save(root / "CelebAMask-HQ-mask-anno/0/00000_hair.png")
    with pytest.raises(ValueError, match="masks of one face have different sizes"):
        load_celebamask_hq(tmp_path, "train", skip_bad=True)[0]
    (root / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition.txt is missing.*CelebA.html"):
        load_celebamask_hq(tmp_path, "train")


def test_ibug300w(tmp_path):
    make_ibug300w(tmp_path, {"train": 2, "valid_common": 3, "valid_challenge": 2})
    train = load_ibug300w(tmp_path, "train")
    assert train["name"][:] == ["helen_train_0", "helen_train_1"]
    # Points and box move by -2 together.
    assert np.allclose(train[1]["landmarks"], face_points(68, 1) - 2, atol=1e-5)
    assert np.allclose(train[0]["box"], [20 - 2 - 15, 16 - 2 - 15, 20 - 2 + 15, 16 - 2 + 15])
    test = load_ibug300w(tmp_path, "test")
    assert [row["subsets"] for row in test] == [["test_common"]] * 3 + [["test_challenging"]] * 2
    assert test[3]["file"].endswith("ibug/image_092 _01.jpg") and test[3]["name"] == "ibug_image_092_01"
    assert len(load_ibug300w(tmp_path, "test_challenging")) == 2


def test_hrnet_errors(tmp_path):
    make_ibug300w(tmp_path, {"train": 4})
    path = tmp_path / "IBUG300W/face_landmarks_300w_train.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0]
    lines[3] = lines[3].rsplit(",", 1)[0] + ",nan"
    lines.insert(1, "# a comment")
    path.write_text("\n".join([*lines, "", ""]))
    with pytest.raises(ValueError, match=r"train.csv, line 4: 139 fields where 140 are needed"):
        load_ibug300w(tmp_path, "train")
    assert load_ibug300w(tmp_path, "train", skip_bad=True)["name"][:] == ["helen_train_0", "helen_train_3"]
    lines[3] = lines[2]
    path.write_text("\n".join([lines[0], lines[4]]))
    with pytest.raises(ValueError, match=r"line 2: a number is not finite"):
        load_ibug300w(tmp_path, "train")
    path.write_text(lines[0] + "\n" + lines[5])
    (tmp_path / "IBUG300W/helen/train/3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/3.jpg is missing.*resources/300-W"):
        load_ibug300w(tmp_path, "train")


def test_wflw(tmp_path, caplog):
    make_wflw(tmp_path, 2, 4, {"blur": [0, 3], "makeup": [3]})
    with caplog.at_level(logging.WARNING):
        test = load_wflw(tmp_path, "test")
    assert [row["subsets"] for row in test] == [["test_blur"], [], [], ["test_makeup", "test_blur"]]
    assert "no figures for test_largepose" in caplog.text
    # No shift here.
    assert np.allclose(test[2]["landmarks"], face_points(98, 2), atol=1e-5)
    x, y = face_points(98, 2).astype(np.float32).mean(axis=0)
    assert test[2]["name"].startswith("2--test.picture_2.jpg_")
    assert np.allclose([float(v) for v in test[2]["name"].split("_")[-2:]], [x, y], atol=1e-3)
    assert load_wflw(tmp_path, "test_blur")["file"][:] == [test[0]["file"], test[3]["file"]]


def test_aflw19(tmp_path):
    make_aflw19(tmp_path, 11)
    content = loadmat(tmp_path / "AFLW-19/AFLWinfo_release.mat")
    order = content["ra"].ravel() - 1
    train, test = load_aflw19(tmp_path, "train"), load_aflw19(tmp_path, "test")
    assert len(train) == 9 and len(test) == 2
    for split, offset in ((train, 0), (test, 9)):
        for position, row in enumerate(split):
            i = order[offset + position]
            assert row["name"] == str(position) and row["file"].endswith(f"image{i:05d}.jpg")
            assert np.allclose(row["landmarks"], face_points(19, i), atol=1e-5)
            assert row["box"] == [4, 2, 36, 30]
    frontal = [row["name"] for row in test if row["subsets"] == ["test_frontal"]]
    assert frontal == [str(p) for p in range(2) if order[9 + p] % 2 == 1]
    (tmp_path / "AFLW-19/AFLWinfo_release.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match=r"is not AFLWinfo_release.mat"):
        load_aflw19(tmp_path, "train")


def test_celeba(tmp_path):
    make_celeba(tmp_path, [0, 1, 2, 0])
    rows = load_celeba(tmp_path, "train")
    assert rows["name"][:] == ["000001.jpg", "000004.jpg"]
    assert list(rows.features["attributes"]) == CELEBA_ATTRIBUTES
    lines = (tmp_path / "celeba/list_attr_celeba.txt").read_text().splitlines()
    assert list(rows[1]["attributes"].values()) == [value == "1" for value in lines[5].split()[1:]]
    assert rows[0]["face_points"][2] == [20, 17]
    lines[3] = lines[3].replace(" 1", " 2", 1)
    (tmp_path / "celeba/list_attr_celeba.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt, line 4: 40 values of 1 or -1"):
        load_celeba(tmp_path, "train")


def test_own_folder_and_columns(tmp_path):
    for i in range(3):
        picture(tmp_path / f"pairs/train/images/{i}.jpg")
        (tmp_path / "pairs/train/labels").mkdir(exist_ok=True)
        Image.new("L", (40, 32), i).save(tmp_path / f"pairs/train/labels/{i}.png")
    rows = load_own_data(tmp_path / "pairs", "train")
    assert np.asarray(rows[2]["labels"]).max() == 2
    (tmp_path / "pairs/train/labels/1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels/1.png is missing"):
        load_own_data(tmp_path / "pairs", "train")
    assert len(load_own_data(tmp_path / "pairs", "train", skip_bad=True)) == 2

    table = datasets.Dataset.from_dict({"photo": [str(tmp_path / "pairs/train/images/0.jpg")], "kp": [[[1.0, 2.0]]]})
    table = table.cast_column("photo", datasets.Image())
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    rows = load_own_data(tmp_path / "saved", "train", {"image": "photo", "landmarks": "kp"})
    assert rows[0]["landmarks"] == [[1, 2]] and rows[0]["image"].size == (40, 32)
    with pytest.raises(ValueError, match="no column 'points', but photo, kp"):
        load_own_data(tmp_path / "saved", "train", {"landmarks": "points"})
    with pytest.raises(ValueError, match="no column 'image'"):
        load_own_data(tmp_path / "saved", "train")


def test_images_are_read_lazily_and_upright(tmp_path):
    make_lapa(tmp_path, {"train": 2})
    path = tmp_path / "LaPa/train/images/0_face.jpg"
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(path, exif=exif)
    (tmp_path / "LaPa/train/images/1_face.jpg").write_bytes(b"broken")
    rows = load_lapa(tmp_path, "train")
    assert rows[0]["image"].size == (32, 40)
    with pytest.raises(OSError):
        rows[1]


def test_round_trip_and_resize():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    again = jpeg_round_trip(image)
    assert (
        again.size == image.size and again.format == "JPEG" and np.abs(np.asarray(again) - np.asarray(image)).max() > 0
    )
    assert resize_image(image, (16, 16)) is image
