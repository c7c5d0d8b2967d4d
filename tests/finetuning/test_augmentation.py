"""Training pictures against an independent reference in NumPy and SciPy, and the photometric changes one by one."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from dataset_cases import face_points, make_ibug300w, make_lapa
from PIL import Image
from scipy.ndimage import map_coordinates

from farl_hf.finetuning import BENCHMARKS
from farl_hf.finetuning.augmentation import (
    ALIGNMENT_AUGMENTATION,
    NO_AUGMENTATION,
    PARSING_AUGMENTATION,
    augment_colours,
    box_blur,
    sample_generator,
)
from farl_hf.finetuning.faces import FaceRows, TrainingFaces

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


# ------------------------------------------------------------------------------------------------------------ geometry


def jitter(seed: int, index: int, epoch: int, gaussian: bool, mean: float, shift: float, rotation: float) -> np.ndarray:
    """The matrix that a sample's random numbers stand for: shift, then angle, then scale are drawn."""
    rng = np.random.default_rng([seed, epoch, index])
    moved = rng.uniform(-shift, shift, 2) * 512
    if gaussian:
        angle, scale = rng.normal(0, rotation), rng.normal(1, 0.1)
    else:
        angle, scale = rng.uniform(-rotation, rotation), rng.uniform(-0.1, 0.1)
        scale = (mean + scale) / mean
    rotation_scale = np.eye(3)
    rotation_scale[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_middle, back = np.eye(3), np.eye(3)
    to_middle[:2, 2], back[:2, 2] = -255.5, 255.5 + moved
    return back @ rotation_scale @ to_middle


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares for x' = a x - b y + c, y' = b x + a y + d."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d], [0, 0, 1]])


def unwarp(n: np.ndarray, f: float) -> np.ndarray:
    """Of one normalised coordinate, as the original writes it."""
    if f == 0:
        return n
    start, result = 1 - f, n.copy()
    high, low = n > start, n < -start
    result[high] = np.arctanh(np.clip((n[high] - start) / f, -0.999, 0.999)) * f + start
    result[low] = np.arctanh(np.clip((n[low] + start) / f, -0.999, 0.999)) * f - start
    return result


def sampling_points(matrix: np.ndarray, f: float) -> np.ndarray:
    """(2, 512, 512): y and x of the photo that each pixel of the crop shows."""
    y, x = np.mgrid[:512, :512].astype(np.float64)
    x, y = ((unwarp(2 * v / 512 - 1, f) + 1) / 2 * 512 for v in (x, y))
    x, y, _ = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
    return np.stack([y, x])


def warped(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    channels = np.moveaxis(image.astype(np.float64) / 255, -1, 0)
    return np.stack([map_coordinates(channel, points, order=1, mode="grid-constant") for channel in channels])


def pixels_of(sample: dict[str, torch.Tensor]) -> np.ndarray:
    return sample["pixel_values"].double().numpy() * STD[:, None, None] + MEAN[:, None, None]


def test_parsing_crops_are_the_references(tmp_path):
    make_lapa(tmp_path, {"train": 2})
    benchmark = BENCHMARKS["lapa"]
    # At 512 px the network's own resize is the identity.
    faces = FaceRows(benchmark.load(tmp_path, "train"), benchmark.task, benchmark.processor(512, "farl"))
    config = replace(PARSING_AUGMENTATION, grey=0.0, gamma=False, blur=0.0)
    training = TrainingFaces(faces, config, seed=7)
    training.epoch.fill_(3)
    standard = np.array([[196, 226], [316, 226], [256, 286], [220, 360.4], [292, 360.4]])
    for index in range(2):
        row = faces.rows[index]
        align = similarity(np.asarray(row["face_points"]), (standard / 256 - 1 + 1) * 511 / 2)
        matrix = jitter(7, index, 3, True, 1.0, 0.01, 0.314) @ align
        points = sampling_points(matrix, 0.8)
        difference = np.abs(pixels_of(training[index]) - warped(np.asarray(row["image"]), points))
        assert np.quantile(difference, 0.999) < 2e-3
        labels = map_coordinates(np.asarray(row["labels"]), points, order=0, mode="grid-constant")
        # Rounding decides at the borders of pixels.
        assert (training[index]["labels"].numpy() == labels).mean() > 0.999
        assert set(np.unique(training[index]["labels"])) <= set(range(11))


@pytest.mark.parametrize("mean", (0.8, 1.0))
def test_alignment_crops_are_the_references(tmp_path, mean):
    make_ibug300w(tmp_path, {"train": 2})
    benchmark = BENCHMARKS["ibug300w"]
    faces = FaceRows(benchmark.load(tmp_path, "train"), benchmark.task, benchmark.processor(512, "farl", mean))
    config = replace(
        ALIGNMENT_AUGMENTATION, scale_mean=mean, occlusion=False, noise=0.0, grey=0.0, gamma=False, blur=0.0
    )
    training = TrainingFaces(faces, config, seed=7)
    for index in range(2):
        row = faces.rows[index]
        x1, y1, x2, y2 = row["box"]
        crop = np.array([[512 / (x2 - x1), 0, 0], [0, 512 / (y2 - y1), 0], [0, 0, 1]])
        crop[:2, 2] = -crop[0, 0] * x1 - 0.5, -crop[1, 1] * y1 - 0.5
        about_middle = np.array([[mean, 0, 255.5 * (1 - mean)], [0, mean, 255.5 * (1 - mean)], [0, 0, 1]])
        matrix = jitter(7, index, 0, False, mean, 0.05, 0.174) @ about_middle @ crop
        difference = np.abs(pixels_of(training[index]) - warped(np.asarray(row["image"]), sampling_points(matrix, 0)))
        assert np.quantile(difference, 0.999) < 2e-3
        landmarks = np.c_[face_points(68, index) - 2, np.ones(68)] @ matrix.T
        assert np.allclose(training[index]["labels"].numpy(), (landmarks[:, :2] + 0.5) / 512, atol=1e-4)


def test_crops_are_resized_to_the_networks_input(tmp_path):
    make_lapa(tmp_path, {"train": 1})
    benchmark = BENCHMARKS["lapa"]
    rows = benchmark.load(tmp_path, "train")
    large, small = (
        TrainingFaces(FaceRows(rows, benchmark.task, benchmark.processor(size, "farl")), NO_AUGMENTATION, 0)[0]
        for size in (512, 448)
    )
    # OpenCV's bilinear resize has no antialias.
    expected = cv2.resize(large["pixel_values"].permute(1, 2, 0).numpy(), (448, 448), interpolation=cv2.INTER_LINEAR)
    assert np.allclose(small["pixel_values"].permute(1, 2, 0).numpy(), expected, atol=1e-4)
    # The truth stays at the crop's size.
    assert torch.equal(small["labels"], large["labels"])


@pytest.mark.parametrize("dataset, partners", [("ibug300w", None), ("lapa", {2: 3, 4: 5})])
def test_mirrored_faces(tmp_path, dataset, partners):
    """The sample that would be, mirrored, with left and right parts in each other's place."""
    {"ibug300w": make_ibug300w, "lapa": make_lapa}[dataset](tmp_path, {"train": 1})
    benchmark = BENCHMARKS[dataset]
    faces = FaceRows(benchmark.load(tmp_path, "train"), benchmark.task, benchmark.processor(64, "facer"))
    plain, mirrored = (TrainingFaces(faces, replace(benchmark.augmentation, flip=p), seed=0)[0] for p in (0.0, 1.0))
    assert torch.equal(mirrored["pixel_values"], plain["pixel_values"].flip(-1))
    if partners is None:
        for one, other in ((0, 16), (36, 45), (31, 35), (48, 54), (17, 26), (60, 64), (8, 8), (27, 27)):
            x, y = plain["labels"][other].tolist()
            assert mirrored["labels"][one].tolist() == pytest.approx([1 - x, y], abs=1e-6)
    else:
        names = torch.arange(11)
        for one, other in partners.items():
            names[one], names[other] = other, one
        assert torch.equal(mirrored["labels"], names[plain["labels"].flip(-1)])
    count = 200
    flips = TrainingFaces(faces, replace(NO_AUGMENTATION, flip=0.3), seed=0, epoch_length=count)
    still = TrainingFaces(faces, NO_AUGMENTATION, seed=0)[0]["pixel_values"]
    share = np.mean([not torch.equal(flips[i]["pixel_values"], still) for i in range(count)])
    assert 0.2 < share < 0.4


# --------------------------------------------------------------------------------------------------------- photometric


def changed(image: torch.Tensor, count: int, **changes) -> list[torch.Tensor]:
    """The picture after the given changes alone, with `count` seeds."""
    config = replace(NO_AUGMENTATION, **changes)
    return [augment_colours(image, config, sample_generator(0, 0, i)) for i in range(count)]


def test_grey():
    red = torch.zeros(3, 4, 4)
    red[0] = 1
    pictures = changed(red, 2000, grey=0.1)
    grey = [picture for picture in pictures if not torch.equal(picture, red)]
    assert 0.08 < len(grey) / 2000 < 0.12
    # OpenCV's RGB2GRAY, not BGR2GRAY.
    assert all(torch.allclose(picture, torch.tensor(0.299)) for picture in grey)
    (blue,) = changed(torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 2, 2), 1, grey=1.0)
    assert torch.allclose(blue, torch.tensor(0.114))


def test_gamma():
    values = [float(picture.mean()) for picture in changed(torch.full((3, 2, 2), 0.25), 3000, gamma=True)]
    for power in (0.5, 0.25, 0.0625):
        assert np.isclose(values, power).mean() == pytest.approx(1 / 3, abs=0.03)


def test_blur():
    """A box filter of 0 to 5 pixels at 512, as OpenCV has it, of even sizes too."""
    point = torch.zeros(3, 32, 32)
    point[:, 16, 16] = 1
    # The same share of pixels as 0.01 of 512.
    sizes = [round(int((picture[0] > 0).sum()) ** 0.5) for picture in changed(point, 1000, blur=0.16)]
    # int(512 * U(0, 0.01)) is 0 to 5; 0 and 1 change nothing, and 5 is rare.
    assert np.bincount(sizes, minlength=6)[1:] / 1000 == pytest.approx([0.39, 0.195, 0.195, 0.195, 0.023], abs=0.05)
    assert max(sizes) == 5
    image = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    for size in range(6):
        expected = cv2.blur(image, (size, size)) if size > 1 else image
        got = box_blur(torch.from_numpy(image).permute(2, 0, 1), size).permute(1, 2, 0)
        assert np.allclose(got, expected, atol=1e-6)


def test_noise():
    pictures = changed(torch.zeros(3, 32, 32), 1000, noise=0.5)
    noisy = [picture for picture in pictures if picture.any()]
    assert 0.45 < len(noisy) / 1000 < 0.55
    # (1 - a) image + a noise: on black, uniform from 0 to a, and a uniform up to a half.
    weights = np.array([float(picture.max()) for picture in noisy])
    assert weights.max() == pytest.approx(0.5, abs=0.01) and weights.mean() == pytest.approx(0.25, abs=0.02)
    assert all(
        float(picture.mean()) == pytest.approx(a / 2, rel=0.1) for picture, a in zip(noisy, weights, strict=True)
    )
    assert not torch.equal(noisy[0][0], noisy[0][1])
    white = changed(torch.ones(3, 32, 32), 50, noise=1.0)
    assert all(float(picture.min()) >= 0.5 for picture in white)


def test_occluder():
    """A fifth to four fifths of half the side high, and as wide, give or take a fifth of it."""
    side, heights, widths, middles = 160, [], [], []
    for picture in changed(torch.ones(3, side, side), 400, occlusion=True):
        black = picture == 0
        assert (black[0] == black[1]).all() and (picture[~black] == 1).all()
        rows, columns = black[0].any(1).nonzero()[:, 0], black[0].any(0).nonzero()[:, 0]
        if len(rows) == 0:
            # Of no width.
            continue
        assert black[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        if rows[0] > 0 and rows[-1] < side - 1 and columns[0] > 0 and columns[-1] < side - 1:
            heights.append(len(rows))
            widths.append(len(columns))
        middles.append((float(columns.float().mean()), float(rows.float().mean())))
    assert 0.08 * side < min(heights) < 0.12 * side and 0.36 * side < max(heights) <= 0.4 * side
    assert min(widths) < 0.08 * side and 0.4 * side < max(widths) <= 0.5 * side
    difference = np.abs(np.array(widths) - heights)
    assert 0.08 * side < difference.max() <= 0.1 * side + 2
    assert len(middles) > 380
    assert np.min(middles, axis=0).max() < 0.12 * side and np.max(middles, axis=0).min() > 0.88 * side


def test_order_of_the_changes():
    """Noise falls on the occluder too, grey comes after the noise, and nothing leaves [0, 1] or touches its input."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    config = replace(NO_AUGMENTATION, occlusion=True, noise=1.0)
    assert all((augment_colours(image, config, sample_generator(0, 0, i)) > 0).all() for i in range(20))
    for picture in changed(image, 20, occlusion=True, noise=1.0, grey=1.0, gamma=True, blur=0.1):
        assert torch.equal(picture[0], picture[1]) and torch.equal(picture[1], picture[2])
        assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(image, before)


def test_labels_are_read_at_the_nearest_pixel(tmp_path):
    """Between classes 1 and 9 there is no class 5."""
    make_lapa(tmp_path, {"train": 1})
    halves = np.ones((32, 40), dtype=np.uint8)
    halves[:, 20:] = 9
    Image.fromarray(halves).save(tmp_path / "LaPa/train/labels/0_face.png")
    benchmark = BENCHMARKS["lapa"]
    faces = FaceRows(benchmark.load(tmp_path, "train"), benchmark.task, benchmark.processor(64, "farl"))
    for index in range(3):
        labels = TrainingFaces(faces, PARSING_AUGMENTATION, seed=index)[0]["labels"]
        # Outside of the image is background.
        assert set(labels.unique().tolist()) <= {0, 1, 9}
