"""Generated faces as files: image-caption shards, and folders in the official layouts of the benchmarks."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .labels import CELEBA_ATTRIBUTES
from .synthetic_faces import SyntheticFaceConfig, SyntheticFaces, SyntheticFaceSample

# File name endings of CelebAMask-HQ's annotations by class id (`datasets/celebamask_hq.py` of the FaRL repository).
CELEBAMASK_HQ_SUFFIXES = (  # noqa: SIM905
    "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat ear_r neck_l"
).split()
# The HRNet files of 300W count from one and a half pixels further; the FaRL repository subtracts 2 when it reads them.
IBUG300W_SHIFT = 2.0


def iterable_dataset(length: int, config: SyntheticFaceConfig | None = None, seed: int = 0):
    """A `datasets.IterableDataset` with columns `image`, `captions`, `lapa_labels`, `celebamask_hq_labels`, `faces`."""
    from datasets import IterableDataset

    return IterableDataset.from_generator(
        _rows, gen_kwargs={"length": length, "config": config or SyntheticFaceConfig(), "seed": seed}
    )


def _rows(length: int, config: SyntheticFaceConfig, seed: int) -> Iterator[dict]:
    for sample in SyntheticFaces(length, config, seed):
        faces = [
            {
                "landmarks": {str(size): points.tolist() for size, points in face.landmarks.items()},
                "box": list(face.box),
                "attributes": face.attributes,
            }
            for face in sample.faces
        ]
        yield {
            "image": Image.fromarray(sample.image),
            "captions": sample.captions,
            "lapa_labels": Image.fromarray(sample.lapa_labels),
            "celebamask_hq_labels": Image.fromarray(sample.celebamask_hq_labels),
            "faces": faces,
        }


def _samples(count: int, config: SyntheticFaceConfig | None, seed: int, what: str) -> Iterator[SyntheticFaceSample]:
    return iter(tqdm(SyntheticFaces(count, config, seed), desc=what, unit="face"))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_webdataset(
    folder: str | Path,
    num_samples: int,
    samples_per_shard: int = 1000,
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
) -> list[Path]:
    """
    Tar shards as img2dataset writes them, `00000.tar` and on: one `.jpg`, `.txt` (the first caption) and
    `.json` (key, caption, captions, size, attributes of the first face) per sample. Returns the shards' paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    samples = _samples(num_samples, config, seed, f"shards in {folder.name}")
    shards = []
    for shard, start in enumerate(range(0, num_samples, samples_per_shard)):
        shards.append(folder / f"{shard:05d}.tar")
        with tarfile.open(shards[-1], "w") as archive:
            for i in range(min(samples_per_shard, num_samples - start)):
                sample, key = next(samples), f"{shard:05d}{i:04d}"
                height, width = sample.image.shape[:2]
                description = {
                    "key": key,
                    "caption": sample.captions[0],
                    "captions": sample.captions,
                    "status": "success",
                    "width": width,
                    "height": height,
                    "attributes": sample.faces[0].attributes,
                }
                _add_file(archive, f"{key}.jpg", _jpeg(sample.image))
                _add_file(archive, f"{key}.txt", sample.captions[0].encode())
                _add_file(archive, f"{key}.json", json.dumps(description).encode())
    return shards


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_lapa(
    folder: str | Path, counts: dict[str, int], config: SyntheticFaceConfig | None = None, seed: int = 0
) -> None:
    """`LaPa/{train,val,test}/{images,labels,landmarks}`; `counts` gives the samples of each split."""
    for offset, (split, count) in enumerate(counts.items()):
        root = Path(folder) / "LaPa" / split
        for name in ("images", "labels", "landmarks"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for i, sample in enumerate(_samples(count, config, seed + offset, f"LaPa {split}")):
            (root / f"images/{i:06d}.jpg").write_bytes(_jpeg(sample.image))
            Image.fromarray(sample.lapa_labels).save(root / f"labels/{i:06d}.png")
            points = sample.faces[-1].landmarks[106]
            rows = [f"{x:.6f} {y:.6f}" for x, y in points]
            (root / f"landmarks/{i:06d}.txt").write_text("\n".join(["106", *rows]) + "\n")


def write_celebamask_hq(
    folder: str | Path, counts: dict[str, int], config: SyntheticFaceConfig | None = None, seed: int = 0
) -> None:
    """
    `CelebAMask-HQ` with `CelebA-HQ-img`, `CelebAMask-HQ-mask-anno`, the mapping to CelebA and its partition; `counts`
    has the keys `train`, `val` and `test`.
    """
    root = Path(folder) / "CelebAMask-HQ"
    (root / "CelebA-HQ-img").mkdir(parents=True, exist_ok=True)
    mapping, partition, index = ["idx orig_idx orig_file"], [], 0
    for offset, (split, count) in enumerate(counts.items()):
        for sample in _samples(count, config, seed + offset, f"CelebAMask-HQ {split}"):
            (root / f"CelebA-HQ-img/{index}.jpg").write_bytes(_jpeg(sample.image))
            masks = root / "CelebAMask-HQ-mask-anno" / str(index // 2000)
            masks.mkdir(parents=True, exist_ok=True)
            for class_id, suffix in enumerate(CELEBAMASK_HQ_SUFFIXES, start=1):
                mask = sample.celebamask_hq_labels == class_id
                if mask.any():
                    Image.fromarray((mask * 255).astype(np.uint8)).save(masks / f"{index:05d}_{suffix}.png")
            mapping.append(f"{index} {index} {index + 1:06d}.jpg")
            partition.append(f"{index + 1:06d}.jpg {('train', 'val', 'test').index(split)}")
            index += 1
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")


def _write_hrnet_csv(path: Path, rows: list[list]) -> None:
    points = (len(rows[0]) - 4) // 2
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header = [f"original_{i}_{axis}" for i in range(points) for axis in "xy"]
        writer.writerow(["image_name", "scale", "center_w", "center_h", *header])
        writer.writerows(rows)


def _hrnet_row(name: str, box: tuple[float, float, float, float], points: np.ndarray, shift: float) -> list:
    # The box is the centre and 100 * scale to either side.
    scale = max(box[2] - box[0], box[3] - box[1]) / 200
    centre = ((box[0] + box[2]) / 2 + shift, (box[1] + box[3]) / 2 + shift)
    return [name, f"{scale:.6f}", *(f"{c:.6f}" for c in centre), *(f"{v + shift:.6f}" for v in points.flatten())]


def _landmark_box(points: np.ndarray) -> tuple[float, float, float, float]:
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def write_ibug300w(
    folder: str | Path, counts: dict[str, int], config: SyntheticFaceConfig | None = None, seed: int = 0
) -> None:
    """`IBUG300W` with `face_landmarks_300w_{train,valid_common,valid_challenge}.csv`, the keys of `counts`."""
    root = Path(folder) / "IBUG300W"
    for offset, (split, count) in enumerate(counts.items()):
        part = {"train": "helen/trainset", "valid_common": "helen/testset", "valid_challenge": "ibug"}[split]
        (root / part).mkdir(parents=True, exist_ok=True)
        rows = []
        for i, sample in enumerate(_samples(count, config, seed + offset, f"300W {split}")):
            name, points = f"{part}/image_{i:04d}_1.jpg", sample.faces[-1].landmarks[68]
            (root / name).write_bytes(_jpeg(sample.image))
            rows.append(_hrnet_row(name, _landmark_box(points), points, IBUG300W_SHIFT))
        _write_hrnet_csv(root / f"face_landmarks_300w_{split}.csv", rows)


def write_wflw(
    folder: str | Path, counts: dict[str, int], config: SyntheticFaceConfig | None = None, seed: int = 0
) -> None:
    """`WFLW` with `WFLW_images` and `face_landmarks_wflw_{split}.csv` for every key of `counts`."""
    root = Path(folder) / "WFLW"
    (root / "WFLW_images").mkdir(parents=True, exist_ok=True)
    for offset, (split, count) in enumerate(counts.items()):
        rows = []
        for i, sample in enumerate(_samples(count, config, seed + offset, f"WFLW {split}")):
            name, points = f"{split}_{i:05d}.jpg", sample.faces[-1].landmarks[98]
            (root / "WFLW_images" / name).write_bytes(_jpeg(sample.image))
            rows.append(_hrnet_row(name, _landmark_box(points), points, shift=0.0))
        _write_hrnet_csv(root / f"face_landmarks_wflw_{split}.csv", rows)


def write_aflw19(
    folder: str | Path, num_train: int, num_test: int, config: SyntheticFaceConfig | None = None, seed: int = 0
) -> None:
    """`AFLW-19` with `data/flickr` and `AFLWinfo_release.mat`, whose permutation `ra` has the training images first."""
    from scipy.io import savemat

    root, count = Path(folder) / "AFLW-19", num_train + num_test
    (root / "data/flickr/0").mkdir(parents=True, exist_ok=True)
    boxes, data, frontal, names = [], [], [], []
    for i, sample in enumerate(_samples(count, config, seed, "AFLW-19")):
        name, points = f"0/image{i:05d}.jpg", sample.faces[-1].landmarks[19]
        (root / "data/flickr" / name).write_bytes(_jpeg(sample.image))
        x1, y1, x2, y2 = _landmark_box(points)
        boxes.append([x1, x2, y1, y2])
        data.append([*points[:, 0], *points[:, 1]])
        frontal.append(np.full(19, abs(sample.faces[-1].pose[0]) < 15))
        names.append(name)
    order = np.random.default_rng(seed).permutation(count) + 1
    content = {
        "bbox": np.array(boxes),
        "data": np.array(data),
        "mask_new": np.array(frontal, dtype=np.uint8),
        "nameList": np.array(names, dtype=object)[:, None],
        "ra": order[None].astype(np.uint16),
    }
    savemat(root / "AFLWinfo_release.mat", content)


def write_celeba(
    folder: str | Path, counts: dict[str, int], config: SyntheticFaceConfig | None = None, seed: int = 0
) -> list[str]:
    """
    `celeba` with `img_align_celeba`, `list_attr_celeba.txt`, `list_landmarks_align_celeba.txt` and
    `list_eval_partition.txt`; `counts` has the keys `train`, `val` and `test`. Attributes that a drawing does not
    define are -1 throughout; those that it defines are returned.
    """
    root = Path(folder) / "celeba"
    (root / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    attributes, landmarks, partition, defined = [], [], [], []
    for offset, (split, count) in enumerate(counts.items()):
        for sample in _samples(count, config, seed + offset, f"CelebA {split}"):
            name = f"{len(attributes) + 1:06d}.jpg"
            face = sample.faces[-1]
            (root / "img_align_celeba" / name).write_bytes(_jpeg(sample.image))
            defined = [attribute for attribute in CELEBA_ATTRIBUTES if attribute in face.attributes]
            signs = ["1" if face.attributes.get(attribute) else "-1" for attribute in CELEBA_ATTRIBUTES]
            attributes.append(" ".join([name, *signs]))
            landmarks.append(" ".join([name, *(str(round(v)) for v in face.landmarks[5].flatten().tolist())]))
            partition.append(f"{name} {('train', 'val', 'test').index(split)}")
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    header = [str(len(attributes)), " ".join(CELEBA_ATTRIBUTES)]
    (root / "list_attr_celeba.txt").write_text("\n".join([*header, *attributes]) + "\n")
    (root / "list_landmarks_align_celeba.txt").write_text("\n".join([header[0], points, *landmarks]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return defined
