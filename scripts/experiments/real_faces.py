"""
How the farl-tiny family does on real photos with truth, from two public GitHub repositories: landmarks on
`udacity/P1_Facial_Keypoints` (770 video frames) and label maps on `massimomauro/FASSEG-repository` (portraits). For
evaluation only: nothing of them is trained on, stored or shown.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS
from farl_hf.inference.detection import YuNetDetector
from farl_hf.metrics import FaceParsingF1
from farl_hf.models.geometry_farl import crop_to_photo, face_align_matrix, photo_to_crop, warp_image_smoothly
from farl_hf.models.image_processing_farl import FaRLFaceImageProcessor, to_rgb_tensor

from .tiny_data import box_matrix
from .tiny_scores import normalise, predict_landmarks, predict_logits

# Side of the square crop over the longer side of the points' box, of the protocol.
_BOX_MARGIN = 1.5
# Colours of FASSEG's maps, whose borders are anti-aliased: the nearest one counts. Brows have the hair's colour.
FASSEG_CLASSES = ("background", "skin", "hair", "eyes", "nose", "mouth")
_FASSEG_COLOURS = ((255, 0, 0), (255, 255, 0), (127, 0, 0), (0, 0, 255), (0, 255, 255), (0, 255, 0))
# Classes of CelebAMask-HQ that are not background, hair, eyes, nose or mouth there.
_AS_SKIN = (
    "neck",
    "skin",
    "right ear",
    "left ear",
    "right eyebrow",
    "left eyebrow",
    "eyeglasses",
    "earring",
    "necklace",
)
_AS = {
    **dict.fromkeys(_AS_SKIN, "skin"),
    "hair": "hair",
    "right eye": "eyes",
    "left eye": "eyes",
    "nose": "nose",
    "inner mouth": "mouth",
    "upper lip": "mouth",
    "lower lip": "mouth",
}


def keypoint_frames(repository: Path, split: str = "test") -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Photos and their 68 points (x, y) in pixel indices, of a checkout of udacity/P1_Facial_Keypoints."""
    with (repository / "data" / f"{split}_frames_keypoints.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    folder = repository / "data" / ("test" if split == "test" else "training")
    for name, *values in tqdm(rows, desc="Video frames", leave=False):
        yield Image.open(folder / name).convert("RGB"), np.array(values, dtype=np.float32).reshape(68, 2)


@torch.no_grad()
def score_keypoints(model: PreTrainedModel, repository: Path, face_scale: float, flip: bool = False) -> dict:
    """
    NME by the outer eye corners, in percent: `box` on the protocol's crop (a square about the points' box, 1.5 times
    its longer side), `aligned` with a second pass on the five-point crop that follows from the first, `mirrored` with
    a third that is averaged with its mirror image, and the `mean_shape` of all crops, which does not look. `flip`
    averages all of them so.

    `shift` is how far to the right of what they mark the annotations lie, in percent of the same distance, and
    `shift_error` its standard error: half of the difference between what a frame and its mirror image are off by, in
    which the model's own leaning cancels. `unshifted` is `aligned` without it.
    """
    passes = {"box": flip, "aligned": flip, "mirrored": True}
    distances: dict[str, list[np.ndarray]] = {name: [] for name in passes}
    shapes, spans, offsets, shifts = [], [], [], []
    for image, points in keypoint_frames(repository):
        pixels, truth = to_rgb_tensor(image), torch.from_numpy(points).double() + 0.5
        span = float((truth[36] - truth[45]).norm())
        matrix = box_matrix(truth, model.config.image_size, _BOX_MARGIN)
        shapes.append(photo_to_crop(truth, matrix, model.config.image_size))
        spans.append(span * float(matrix[0, 0]))
        found = _look_again(model, pixels, truth, face_scale, list(passes.values()))
        for name, one in zip(passes, found, strict=True):
            distances[name].append(((one - truth).norm(dim=-1) / span).numpy())
        mirrored_truth = truth * torch.tensor([-1.0, 1.0]) + torch.tensor([float(image.width), 0.0])
        mirrored = _look_again(model, pixels.flip(-1), mirrored_truth, face_scale, [flip, flip])[1]
        offsets.append((found[1] - truth) / span)
        # Means of all points, so their order does not matter.
        shifts.append(float(((mirrored - mirrored_truth) - (found[1] - truth)).mean(dim=0)[0] / span / 2))
    shapes = torch.stack(shapes)
    never = (shapes - shapes.mean(dim=0)).norm(dim=-1).mean(dim=-1) / torch.tensor(spans)
    by_part = {
        name: {part: 100 * float(np.stack(distances[name])[:, rows].mean()) for part, rows in _PARTS.items()}
        for name in passes
    }
    shift = torch.tensor([float(np.mean(shifts)), 0.0])
    return {
        **{name: 100 * float(np.mean(values)) for name, values in distances.items()},
        "shift": 100 * float(shift[0]),
        "shift_error": 100 * float(np.std(shifts)) / len(shifts) ** 0.5,
        "unshifted": 100 * float((torch.stack(offsets) + shift).norm(dim=-1).mean()),
        "mean_shape": 100 * float(never.mean()),
        "by_part": by_part,
        "frames": len(spans),
    }


def _look_again(
    model: PreTrainedModel, pixels: torch.Tensor, truth: torch.Tensor, face_scale: float, flips: list[bool]
) -> list[torch.Tensor]:
    """Landmarks of one pass for each of `flips`, the first on the protocol's crop, the others on five-point crops."""
    size, passes = model.config.image_size, []
    matrix = box_matrix(truth, size, _BOX_MARGIN)
    for flip in flips:
        crop = normalise(warp_image_smoothly(pixels, matrix[None].float(), size))
        found = crop_to_photo(predict_landmarks(model, crop, flip)[0].double() * size, matrix, size)
        passes.append(found)
        matrix = face_align_matrix(five_points(found), size, face_scale)
    return passes


_PARTS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}


def five_points(landmarks: torch.Tensor) -> torch.Tensor:
    """Eyes, nose tip and mouth corners (5, 2) of 68 landmarks."""
    eyes = landmarks[36:42].mean(dim=0), landmarks[42:48].mean(dim=0)
    return torch.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def fasseg_photos(repository: Path, version: str) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """
    Photos and their class ids in `FASSEG_CLASSES`, of a checkout of massimomauro/FASSEG-repository: `V2` is its 50
    frontal test faces, `V3` its test faces in several poses that have a map.
    """
    pairs = {"V2": ("V2/Test_RGB", "V2/Test_Labels"), "V3": ("V3/Test_RGB", "V3/Test_labels")}
    photos, maps = (repository / folder for folder in pairs[version])
    colours = np.array(_FASSEG_COLOURS, dtype=np.float32)
    for path in tqdm(sorted(maps.rglob("*.bmp")), desc=f"FASSEG {version}", leave=False):
        photo = Image.open(photos / path.relative_to(maps)).convert("RGB")
        # A few maps are some pixels smaller or larger than their photos.
        coloured = Image.open(path).convert("RGB").resize(photo.size, Image.NEAREST)
        coloured = np.asarray(coloured, dtype=np.float32)
        yield photo, np.square(coloured[:, :, None] - colours).sum(axis=-1).argmin(axis=-1)


@torch.no_grad()
def score_fasseg(
    model: PreTrainedModel, processor: FaRLFaceImageProcessor, repository: Path, version: str, flip: bool = False
) -> dict:
    """
    F1 per class and their mean, in percent, of a model with CelebAMask-HQ's classes on faces that the detector finds; a
    photo in which it finds none counts as background. `frequent_class` is the most frequent class per place.
    """
    detector = YuNetDetector()
    metric, misses, small = FaceParsingF1(FASSEG_CLASSES), 0, []
    table = np.array([FASSEG_CLASSES.index(_AS.get(name, "background")) for name in CELEBAMASK_HQ_LABELS])
    for photo, truth in fasseg_photos(repository, version):
        faces = detector.detect(photo)
        small.append(np.asarray(Image.fromarray(truth.astype(np.uint8)).resize((96, 128), Image.NEAREST)))
        if not len(faces):
            misses += 1
            metric.update(np.zeros_like(truth), truth)
            continue
        inputs = processor(photo, face_points=faces.points[:1] + 0.5)
        logits = predict_logits(model, inputs["pixel_values"], "celebamask_hq", flip)
        outputs = type("Outputs", (), {"logits": logits})
        (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
        metric.update(table[labels.numpy()], truth)
    small = np.stack(small)
    counts = np.stack([(small == i).sum(axis=0) for i in range(len(FASSEG_CLASSES))])
    never = FaceParsingF1(FASSEG_CLASSES)
    never.update(np.broadcast_to(counts.argmax(axis=0), small.shape).copy(), small)
    percent = {name: 100 * value for name, value in metric.compute().items()}
    return {**percent, "frequent_class": 100 * never.compute()["fg_mean"], "photos": len(small), "no_face": misses}
