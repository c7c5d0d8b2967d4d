"""Faces and words in the joint space of the dual encoder: embeddings, and attributes described in your own words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from .default_models import default_model
from .results import Faces

# Share of the encoder's picture that a face's box takes: captions of faces tell of hair, hats and necks too.
FACE_SCALE = 0.55
PROMPT = "a photo of {}"


class FaceEncoder:
    """
    The dual encoder for faces in photos.

    ```python
    >>> encoder = FaceEncoder("farl-base")
    >>> faces = encoder.describe(photo, faces, ["a smiling man", "a woman with glasses"])
    >>> faces.attributes  # (faces, 2), adds up to one over the labels
    ```

    Args:
        model: Folder or Hub name of a dual encoder; the package's own small one by default.
        device: Where it runs; a GPU if there is one by default.

    Raises:
        ValueError: If the model is no dual encoder.
        FileNotFoundError: If no model is named and the package was installed without its weights.
    """

    def __init__(self, model: str | None = None, device: str | torch.device | None = None):
        folder = model or default_model("zero-shot")
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).float().eval()
        if not hasattr(self.model, "logit_scale") or not hasattr(self.processor, "tokenizer"):
            raise ValueError(f"{folder} is no dual encoder of images and words: convert ep64, for example.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device)

    def crop(self, image: Image.Image | np.ndarray, faces: Faces) -> list[Image.Image]:
        """The upright squares around the faces of a photo that the encoder sees."""
        return faces.crop(image, self.model.config.vision_config.image_size, FACE_SCALE)

    def embed_faces(self, image: Image.Image | np.ndarray, faces: Faces, batch_size: int = 8) -> np.ndarray:
        """(faces, size) float32 of length one, of upright squares around the faces of a photo."""
        return self.embed_crops(self.crop(image, faces), batch_size)

    @torch.no_grad()
    def embed_crops(self, crops: Sequence[Image.Image], batch_size: int = 8) -> np.ndarray:
        """(crops, size) float32 of length one, of pictures that [`crop`] has made."""
        found = [np.zeros((0, self.model.config.projection_dim), dtype=np.float32)]
        for start in range(0, len(crops), batch_size):
            inputs = self.processor(images=list(crops[start : start + batch_size]), return_tensors="pt").to(self.device)
            found.append(_unit_length(self.model.get_image_features(**inputs)))
        return np.concatenate(found)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, size) float32 of length one."""
        inputs = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        return _unit_length(self.model.get_text_features(**inputs))

    def describe(
        self, image: Image.Image | np.ndarray, faces: Faces, labels: Sequence[str], prompt: str = PROMPT
    ) -> Faces:
        """
        The faces with `embeddings`, and with `attributes`: how well each label fits, as shares of one.

        Args:
            image: The photo that the faces are of.
            faces: With boxes.
            labels: Descriptions, two or more.
            prompt: What they are put into, at `{}`.
        """
        if len(labels) < 2:
            raise ValueError("Give two labels or more: each is judged against the others.")
        texts = self.embed_texts([prompt.format(label) for label in labels])
        embeddings = self.embed_faces(image, faces)
        logits = torch.from_numpy(embeddings @ texts.T) * self.model.logit_scale.exp().cpu()
        return faces.replace(
            embeddings=embeddings, attributes=logits.softmax(dim=-1).detach().numpy(), attribute_names=tuple(labels)
        )


def _unit_length(features: Any) -> np.ndarray:
    if not isinstance(features, torch.Tensor):
        features = features.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


__all__ = ["FACE_SCALE", "PROMPT", "FaceEncoder"]
