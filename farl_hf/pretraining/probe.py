"""Zero-shot test during pre-training: which class's caption is an image most similar to?"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from .objective import clip_normalised, scaled_pixels
from .shards import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)


class ZeroShotProbe:
    """
    Accuracy on a folder with one sub-folder of images per class; a class's name is its folder's, underscores for
    spaces.

    Args:
        folder: The folder.
        template: Caption of a class, with `{}` for its name.
        tokenizer: CLIP's.
        image_size: Side of the model's input in pixels; the shorter side is resized to it, the centre is taken.
        batch_size: Images at a time.

    Images that cannot be read are left out with a warning.

    Raises:
        FileNotFoundError: If there are no two sub-folders with images.
    """

    def __init__(
        self, folder: str | Path, template: str, tokenizer: CLIPTokenizer, image_size: int, batch_size: int = 64
    ):
        self.image_size, self.batch_size = image_size, batch_size
        folders = sorted(path for path in Path(folder).glob("*") if path.is_dir())
        self.images = [
            (path, label)
            for label, class_folder in enumerate(folders)
            for path in sorted(class_folder.rglob("*"))
            if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and self._is_readable(path)
        ]
        if len({label for _, label in self.images}) < 2:
            raise FileNotFoundError(f"The probe folder {folder} has no two sub-folders with images, one per class.")
        captions = [template.format(path.name.replace("_", " ")) for path in folders]
        self.captions = dict(tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="pt"))

    @torch.no_grad()
    def __call__(self, accelerator: Accelerator, objective: nn.Module) -> float:
        """Share of images whose class is the most similar one. Called by all processes, which share the images."""
        objective.eval()
        rank, world_size = accelerator.process_index, accelerator.num_processes
        captions = {name: value.to(accelerator.device) for name, value in self.captions.items()}
        own = self.images[rank::world_size]
        correct = 0
        # All processes make equally many passes, as FSDP needs.
        for start in range(0, -(-len(self.images) // world_size), self.batch_size):
            part = own[start : start + self.batch_size]
            pixels = np.stack([self._load(path) for path, _ in part or self.images[:1]])
            pixel_values = clip_normalised(scaled_pixels(torch.from_numpy(pixels).to(accelerator.device)))
            features = objective({"pixel_values": pixel_values, **captions}, features_only=True)
            predicted = (features["image_embeds"].float() @ features["text_embeds"].float().T).argmax(dim=1).tolist()
            correct += sum(label == guess for (_, label), guess in zip(part, predicted, strict=False))
        objective.train()
        total = accelerator.reduce(torch.tensor(correct, device=accelerator.device), reduction="sum")
        return int(total) / len(self.images)

    def _is_readable(self, path: Path) -> bool:
        """Decodes an image once, before the run, and not in the middle of it for the first time."""
        try:
            self._load(path)
        except Exception as error:  # Pillow's readers raise many classes on broken files
            logger.warning("The probe leaves out %s, which cannot be read: %s", path, error)
            return False
        return True

    def _load(self, path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        size = (self.image_size, self.image_size)
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))
