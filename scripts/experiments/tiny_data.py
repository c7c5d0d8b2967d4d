"""
Generated faces as farl-tiny's training reads them: shards of small pictures with all their truth, drawn by several
processes, read while more of them are still being drawn.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from farl_hf.datasets.flips import flip_permutation
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.finetuning.augmentation import (
    SYNTHETIC_AUGMENTATION,
    AugmentationConfig,
    augment_colours,
    flip_label_map,
    flip_landmarks,
    sample_generator,
    sample_similarity,
)
from farl_hf.finetuning.joint import JointBatch
from farl_hf.models.geometry_farl import box_crop_matrix, face_align_matrix, photo_to_crop, warp_image
from farl_hf.pretraining.image_codebook import RandomProjectionCodebook
from farl_hf.pretraining.masking import BlockMaskGenerator
from farl_hf.synthetic import SyntheticFaceConfig, contradict_mood, render_face_sample

# A face in the middle with the room around it that a turned and shifted crop needs.
FACES = SyntheticFaceConfig(image_size=168, face_size=(0.44, 0.6), max_captions=10)
PICTURES_PER_SHARD = 256
# Captions of a face in a batch: texts are cheap beside pictures, and one caption tells little of a face.
_CAPTIONS = 4
# The five-point crop about which training crops vary; see `FACE_SCALES` of the finished models.
_FACE_SCALE = 1.1
# Share of crops that are squares about the box of the 68 points, for detectors that give no points, and their side over
# its longer side. Faces lie an eighth of the side higher there than in five-point crops, and are not turned upright.
_BOX_SHARE, _BOX_MARGIN = 0.4, 1.5
# Attribute -> its class in CelebAMask-HQ's label maps, for what a crop may leave out, and the pixels that it takes.
_WORN = {"Eyeglasses": 15, "Wearing_Hat": 16, "Wearing_Earrings": 17, "Wearing_Necklace": 18}
_SEEN_PIXELS = 6
_ARRAYS = ("images", "lapa", "celebamask_hq", "points_5", "points_68", "points_98", "attributes", "traits")


def draw_shard(folder: Path, number: int, seed: int, config: SyntheticFaceConfig, pictures: int) -> None:
    """
    Draws one shard unless it is there: `.npy` arrays and `captions.json` in a folder of its own. `traits` are male,
    age in years, and skin tone; a row of `attributes` is in the order of `attributes.json`.
    """
    target = folder / f"shard-{number:05d}"
    if target.is_dir():
        return
    rows: dict[str, list] = {name: [] for name in _ARRAYS}
    captions = []
    names: list[str] = []
    for i in range(pictures):
        sample = render_face_sample(seed * 1_000_000 + number * PICTURES_PER_SHARD + i, config)
        face = sample.faces[-1]
        names = names or [name for name in CELEBA_ATTRIBUTES if name in face.attributes]
        rows["images"].append(sample.image)
        rows["lapa"].append(sample.lapa_labels)
        rows["celebamask_hq"].append(sample.celebamask_hq_labels)
        for layout in (5, 68, 98):
            rows[f"points_{layout}"].append(face.landmarks[layout])
        rows["attributes"].append([bool(face.attributes[name]) for name in names])
        rows["traits"].append([float(face.person.male), face.person.age, face.person.skin_tone])
        captions.append(list(sample.captions))
    temporary = folder / f".{target.name}-{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    for name, values in rows.items():
        array = np.stack(values)
        np.save(temporary / f"{name}.npy", array.astype(np.float32) if array.dtype == np.float64 else array)
    (temporary / "captions.json").write_text(json.dumps(captions))
    (temporary / "attributes.json").write_text(json.dumps(names))
    temporary.rename(target)


def draw_faces(
    folder: str | Path, pictures: int, seed: int, style: str = "train", part: int = 0, parts: int = 1
) -> None:
    """
    Draws `pictures` faces into `folder`; what is there already is kept. Of several processes each draws a `part` of
    `parts`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-pictures // PICTURES_PER_SHARD)
    config = replace(FACES, style=style)
    for number in tqdm(range(part, shards, parts), desc=f"Drawing {style} faces", unit="shard", mininterval=30):
        count = min(PICTURES_PER_SHARD, pictures - number * PICTURES_PER_SHARD)
        draw_shard(folder, number, seed, config, count)


@dataclass
class Shard:
    """
    One shard, its arrays mapped from disk, its captions as token ids (captions, length) per picture, and pairs of token
    ids of those that tell a mood: as it is, and another.
    """

    arrays: dict[str, np.ndarray]
    tokens: list[list[list[int]]]
    contrary: list[list[tuple[list[int], list[int]]]]
    captions: list[list[str]]


class DrawnFaces:
    """
    The shards of a folder; [`refresh`] takes up new ones.

    Args:
        folder: Of [`draw_faces`].
        tokenizer: For the captions.
    """

    def __init__(self, folder: str | Path, tokenizer: CLIPTokenizer):
        self.folder, self.tokenizer = Path(folder), tokenizer
        self.shards: dict[str, Shard] = {}
        self.rows: list[tuple[str, int]] = []
        self.attributes: list[str] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self.rows)

    def refresh(self) -> None:
        """Takes up shards that were finished since."""
        for path in sorted(self.folder.glob("shard-*")):
            if path.name in self.shards:
                continue
            arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
            captions = json.loads((path / "captions.json").read_text())
            tokens = self._tokenise(captions)
            rng = np.random.default_rng(len(self.shards))
            false = self._tokenise([[contradict_mood(rng, caption) or "" for caption in group] for group in captions])
            # What tells no mood is left with its two special tokens.
            contrary = [
                [(a, b) for a, b in zip(*pair, strict=True) if len(b) > 2] for pair in zip(tokens, false, strict=True)
            ]
            self.shards[path.name] = Shard(arrays, tokens, contrary, captions)
            self.rows += [(path.name, i) for i in range(len(captions))]
            self.attributes = json.loads((path / "attributes.json").read_text())

    def _tokenise(self, captions: list[list[str]]) -> list[list[list[int]]]:
        ids = iter(self.tokenizer([c for group in captions for c in group], truncation=True)["input_ids"])
        return [[next(ids) for _ in group] for group in captions]

    def contrary(self, index: int) -> list[tuple[list[int], list[int]]]:
        """Of one picture, see [`Shard`]."""
        shard, i = self.rows[index]
        return self.shards[shard].contrary[i]

    def row(self, index: int) -> tuple[dict[str, np.ndarray], list[list[int]]]:
        """Arrays and tokenised captions of one picture."""
        shard, i = self.rows[index]
        found = self.shards[shard]
        return {name: np.array(found.arrays[name][i]) for name in _ARRAYS}, found.tokens[i]

    def column(self, name: str) -> np.ndarray:
        """One array of all pictures, in the order of the rows."""
        return np.concatenate([shard.arrays[name] for shard in self.shards.values()])


class JointBatches:
    """
    Batches of augmented crops. Every random number follows from (seed, step), so a run that goes on reads what it would
    have read, as long as the shards are the same.

    Args:
        faces: The pictures.
        size: Side of the crops in pixels.
        patch_size, vocab_size: Of the model, and its number of visual codes.
        batch_size: Faces per batch.
        masked_share: Share of the batch that has a masked copy.
        seed: Of choice and augmentation.
        augmentation: What is done to the crops.
    """

    def __init__(
        self,
        faces: DrawnFaces,
        size: int,
        patch_size: int,
        vocab_size: int,
        batch_size: int,
        masked_share: float,
        seed: int,
        augmentation: AugmentationConfig = SYNTHETIC_AUGMENTATION,
    ):
        self.faces, self.size, self.batch_size, self.seed = faces, size, batch_size, seed
        self.augmentation, self.masked = augmentation, round(batch_size * masked_share)
        self.mask = BlockMaskGenerator.for_grid(size // patch_size)
        self.codebook = RandomProjectionCodebook(vocab_size, size, patch_size, seed=0)

    def batch(self, step: int) -> JointBatch:
        """The batch of one step."""
        rng = sample_generator(self.seed, step, 0)
        rows, captions, contrary, contrary_rows, matrices = [], [], [], [], []
        for index in rng.integers(len(self.faces), size=self.batch_size):
            row, tokens = self.faces.row(int(index))
            rows.append(row)
            captions.append([tokens[i] for i in rng.integers(len(tokens), size=_CAPTIONS)])
            if pairs := self.faces.contrary(int(index)):
                contrary.append(pairs[int(rng.integers(len(pairs)))])
                contrary_rows.append(len(rows) - 1)
            matrices.append(self._matrix(row, rng))
        matrix = torch.stack(matrices)
        images = _stack(rows, "images").permute(0, 3, 1, 2).float() / 255
        crops = crop_smoothly(images, matrix, self.size)
        labels = torch.stack([_stack(rows, "lapa"), _stack(rows, "celebamask_hq")], dim=1).float()
        labels = warp_image(labels, matrix.float(), self.size, mode="nearest").long()
        landmarks = {
            n: (photo_to_crop(_stack(rows, f"points_{n}").double() + 0.5, matrix, self.size) / self.size).float()
            for n in (68, 98)
        }
        attributes = attributes_in_crop(_stack(rows, "attributes"), self.faces.attributes, labels[:, 1])
        pixels = torch.empty_like(crops)
        for i in range(self.batch_size):
            crop = augment_colours(crops[i], self.augmentation, rng)
            if rng.random() < self.augmentation.flip:
                crop = crop.flip(-1)
                for channel, layout in enumerate(("lapa", "celebamask_hq")):
                    labels[i, channel] = flip_label_map(labels[i, channel], flip_permutation(layout))
                for n, points in landmarks.items():
                    points[i] = flip_landmarks(points[i], flip_permutation(n))
            pixels[i] = crop
        masked = pixels[: self.masked]
        mask_rng = random.Random(int(rng.integers(2**32)))
        masks = [self.mask(mask_rng) for _ in range(self.masked)]
        return JointBatch(
            pixel_values=normalise(pixels),
            input_ids=_pad(captions, self.faces.tokenizer.eos_token_id),
            contrary_ids=_pad(contrary, self.faces.tokenizer.eos_token_id),
            contrary_rows=torch.tensor(contrary_rows, dtype=torch.long),
            lapa_labels=labels[:, 0],
            celebamask_hq_labels=labels[:, 1],
            landmarks=landmarks,
            attributes=attributes.float(),
            bool_masked_pos=torch.from_numpy(np.array(masks).reshape(self.masked, self.mask.grid**2)),
            mim_targets=self.codebook(masked) if self.masked else torch.zeros(0, self.mask.grid**2, dtype=torch.long),
        )

    def _matrix(self, row: dict[str, np.ndarray], rng: np.random.Generator) -> torch.Tensor:
        if rng.random() < _BOX_SHARE:
            crop = box_matrix(torch.from_numpy(row["points_68"]).double() + 0.5, self.size, _BOX_MARGIN)
        else:
            crop = face_align_matrix(torch.from_numpy(row["points_5"]).double() + 0.5, self.size, _FACE_SCALE)
        to_indices = torch.eye(3, dtype=torch.float64)
        to_indices[:2, 2] = -0.5
        jitter = sample_similarity(self.augmentation, self.size, rng)
        return torch.linalg.inv(to_indices) @ jitter @ to_indices @ crop


def box_matrix(points: torch.Tensor, size: int, margin: float) -> torch.Tensor:
    """
    Matrix (3, 3) of the square crop about the box of `points` (n, 2), `margin` times as long as its longer side; the
    centre of the first pixel is at 0.5 in both.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    middle, half = (low + high) / 2, (high - low).max() / 2
    matrix = box_crop_matrix(torch.cat([middle - half, middle + half]), size, 1 / margin)
    matrix[:2, 2] += 0.5
    return matrix


def attributes_in_crop(attributes: torch.Tensor, names: Sequence[str], labels: torch.Tensor) -> torch.Tensor:
    """
    Attributes (batch, names) of pictures, bool, as their crops show them: what is worn outside of a crop does not hold.

    Args:
        attributes: Of the pictures.
        names: Of the attributes.
        labels: (batch, height, width) of CelebAMask-HQ's classes, of the crops.
    """
    seen = attributes.bool().clone()
    for name, label in _WORN.items():
        if name in names:
            seen[:, list(names).index(name)] &= (labels == label).sum(dim=(1, 2)) >= _SEEN_PIXELS
    return seen


def crop_smoothly(images: torch.Tensor, matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Crops (batch, 3, size, size) without the aliasing of a bilinear look-up: drawn at twice the size and averaged."""
    twice = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=matrix.dtype))
    return torch.nn.functional.avg_pool2d(warp_image(images, (twice @ matrix).float(), 2 * size), 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """RGB in [0, 1] with CLIP's mean and standard deviation."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (pixels - mean) / std


def _stack(rows: list[dict[str, np.ndarray]], name: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([row[name] for row in rows]))


def _pad(captions: Sequence[Sequence[list[int]]], value: int) -> torch.Tensor:
    """(captions, pictures, length) of each picture's captions."""
    if not captions:
        return torch.zeros(0, 0, 0, dtype=torch.long)
    length = max(len(ids) for group in captions for ids in group)
    padded = [[ids + [value] * (length - len(ids)) for ids in group] for group in captions]
    return torch.tensor(padded).transpose(0, 1)
