"""Miniature copies of the benchmarks in their official on-disk layouts, with random pictures."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES


def picture(path: Path, size: tuple[int, int] = (40, 32), seed: int = 0) -> None:
    """A smooth random JPEG of `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def grey(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def face_points(count: int, seed: int, size: tuple[int, int] = (40, 32)) -> np.ndarray:
    """(count, 2) distinct points inside of the picture."""
    return np.random.default_rng(seed).uniform(6, min(size) - 6, (count, 2)).round(3)


def make_lapa(folder: Path, counts: dict[str, int]) -> Path:
    for split, count in counts.items():
        root = folder / "LaPa" / split
        for i in range(count):
            picture(root / f"images/{i}_face.jpg", seed=i)
            grey(root / f"labels/{i}_face.png", np.random.default_rng(i).integers(0, 11, (32, 40)))
            points = face_points(106, i)
            (root / "landmarks").mkdir(exist_ok=True)
            text = "\n".join(["106", *(f"{x} {y}" for x, y in points)])
            (root / f"landmarks/{i}_face.txt").write_text(text + "\n")
    return folder


def make_celebamask_hq(folder: Path, splits: list[int]) -> Path:
    """One face per entry of `splits`, CelebA's partition number of it. HQ index i is CelebA file 100 - i."""
    root = folder / "CelebAMask-HQ"
    mapping, partition = ["idx\torig_idx\torig_file"], []
    for i, split in enumerate(splits):
        picture(root / f"CelebA-HQ-img/{i}.jpg", (64, 64), seed=i)
        skin, hair, neck = np.zeros((3, 32, 32))
        neck[10:], skin[8:20, 4:28], hair[:10] = 255, 255, 255
        for suffix, mask in (("skin", skin), ("hair", hair), ("neck", neck)):
            grey(root / f"CelebAMask-HQ-mask-anno/0/{i:05d}_{suffix}.png", mask)
        mapping.append(f"{i:<8d}{99 - i:<8d}{100 - i:06d}.jpg")
        partition.append(f"{100 - i:06d}.jpg {split}")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(sorted(partition)) + "\n")
    return folder


def hrnet_line(path: str, points: np.ndarray, scale: float = 0.15, centre: tuple[float, float] = (20, 16)) -> str:
    return ",".join([path, str(scale), *map(str, centre), *(str(v) for v in points.flatten().tolist())])


def make_ibug300w(folder: Path, counts: dict[str, int]) -> Path:
    root = folder / "IBUG300W"
    for split, count in counts.items():
        lines = ["image_name,scale,center_w,center_h,original_0_x"]
        for i in range(count):
            name = "ibug/image_092_01.jpg" if split == "valid_challenge" and i == 0 else f"helen/{split}/{i}.jpg"
            picture(root / name.replace("092_01", "092 _01"), seed=i)
            lines.append(hrnet_line(name, face_points(68, i)))
        (root / f"face_landmarks_300w_{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_wflw(folder: Path, num_train: int, num_test: int, subsets: dict[str, list[int]]) -> Path:
    """`subsets`: name such as `blur` -> indices of its test faces."""
    root = folder / "WFLW"
    lines = {"train": [], "test": []}
    for split, count in (("train", num_train), ("test", num_test)):
        for i in range(count):
            name = f"{i}--{split}/picture_{i}.jpg"
            picture(root / "WFLW_images" / name, seed=i)
            lines[split].append(hrnet_line(name, face_points(98, i)))
    lines |= {f"test_{name}": [lines["test"][i] for i in indices] for name, indices in subsets.items()}
    for split, rows in lines.items():
        text = "\n".join(["image_name,scale,center_w,center_h,original_0_x", *rows])
        (root / f"face_landmarks_wflw_{split}.csv").write_text(text + "\n")
    return folder


def make_aflw19(folder: Path, count: int) -> Path:
    root = folder / "AFLW-19"
    rng = np.random.default_rng(0)
    names = [f"{(0, 2, 3)[i % 3]}/image{i:05d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(root / "data/flickr" / name, seed=i)
    points = np.stack([face_points(19, i) for i in range(count)])
    visible = np.ones((count, 19), dtype=np.uint8)
    visible[::2, 3] = 0
    content = {
        "bbox": np.tile([4.0, 36.0, 2.0, 30.0], (count, 1)),
        "data": np.concatenate([points[..., 0], points[..., 1]], axis=1),
        "mask_new": visible,
        "nameList": np.array(names, dtype=object)[:, None],
        "ra": (rng.permutation(count) + 1)[None].astype(np.uint16),
    }
    savemat(root / "AFLWinfo_release.mat", content)
    return folder


def make_celeba(folder: Path, splits: list[int]) -> Path:
    root = folder / "celeba"
    rng = np.random.default_rng(0)
    attributes, landmarks, partition = [], [], []
    five = "14 12 26 12 20 17 15 22 25 22"
    for i, split in enumerate(splits):
        name = f"{i + 1:06d}.jpg"
        picture(root / "img_align_celeba" / name, seed=i)
        attributes.append(" ".join([name, *rng.choice(["1", "-1"], 40)]))
        landmarks.append(f"{name}  {five}")
        partition.append(f"{name} {split}")
    header = [str(len(splits)), " ".join(CELEBA_ATTRIBUTES)]
    (root / "list_attr_celeba.txt").write_text("\n".join([*header, *attributes]) + "\n")
    (root / "list_landmarks_align_celeba.txt").write_text("\n".join([header[0], "lefteye_x ...", *landmarks]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return folder


def make_own(folder: Path, counts: dict[str, int], kind: str) -> Path:
    """
    Own data as a folder with a subfolder per split, pictures of 40 x 32 pixels and one kind of truth: `labels` (grey
    PNG of the classes 0 to 2), `landmarks.csv` (with boxes), `landmarks.pts`, `keypoints.json` (68 points each), or
    `attributes.csv` (two of them).
    """
    for split, count in counts.items():
        root = folder / split
        names = [f"face{i}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            picture(root / "images" / name, seed=i)
        points = [face_points(68, i) for i in range(count)]
        if kind == "labels":
            for i in range(count):
                grey(root / f"labels/face{i}.png", np.random.default_rng(i).integers(0, 3, (32, 40)))
        elif kind == "landmarks.csv":
            header = ["image", "box_x1", "box_y1", "box_x2", "box_y2", *(f"{a}{i}" for i in range(68) for a in "xy")]
            faces = zip(names, points, strict=True)
            lines = [",".join([name, "4", "2", "36", "30", *map(str, p.flatten())]) for name, p in faces]
            (root / "landmarks.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
        elif kind == "landmarks.pts":
            (root / "landmarks").mkdir()
            for i, p in enumerate(points):
                # They count from 1.
                text = "\n".join(["version: 1", "n_points: 68", "{", *(f"{x + 1} {y + 1}" for x, y in p), "}"])
                (root / f"landmarks/face{i}.pts").write_text(text + "\n")
        elif kind == "keypoints.json":
            images = [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)]
            annotations = [
                {"image_id": 10 + i, "keypoints": np.c_[p, np.full(68, 2)].flatten().tolist(), "bbox": [4, 2, 32, 28]}
                for i, p in enumerate(points)
            ]
            (root / "keypoints.json").write_text(json.dumps({"images": images, "annotations": annotations}))
        else:
            lines = [f"{name},{i % 2},{-1 if i % 3 else 1}" for i, name in enumerate(names)]
            (root / "attributes.csv").write_text("\n".join(["image,Smiling,Young", *lines]) + "\n")
    return folder
