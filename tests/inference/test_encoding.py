"""Embeddings of faces and words: what the encoder itself says of the crops, shares of labels, mistakes."""

import numpy as np
import pytest
import torch
from inference_cases import astronaut, photo_with_faces, save_tiny_model

import farl_hf
from farl_hf import Faces
from farl_hf.inference.encoding import FACE_SCALE, FaceEncoder

BOXES = np.array([[179, 68, 271, 176], [150, 40, 300, 200], [0, 0, 60, 60]], dtype=np.float32)


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    return FaceEncoder(device="cpu")


@pytest.fixture
def faces() -> Faces:
    return Faces((512, 512), BOXES)


def test_embeddings_are_the_encoders_of_upright_squares(encoder, faces):
    found = encoder.embed_faces(astronaut(), faces, batch_size=2)
    model = farl_hf.FaRLModel.from_pretrained(farl_hf.pretrained("farl-tiny")).float().eval()
    processor = farl_hf.FaRLProcessor.from_pretrained(farl_hf.pretrained("farl-tiny"))
    crops = faces.crop(astronaut(), model.config.vision_config.image_size, FACE_SCALE)
    with torch.no_grad():
        outputs = model(
            **processor(images=crops, text=["a face", "a photo of a man with a hat"], padding=True, return_tensors="pt")
        )
    assert np.allclose(found, outputs.image_embeds.numpy(), atol=1e-4)
    texts = encoder.embed_texts(["a face", "a photo of a man with a hat"])
    assert np.allclose(texts, outputs.text_embeds.numpy(), atol=1e-4)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5) and found.dtype == np.float32


def test_shares_are_the_softmax_of_the_models_logits(encoder, faces):
    labels = ["a smiling man", "a woman with glasses", "a child"]
    described = encoder.describe(astronaut(), faces, labels)
    assert described.attribute_names == tuple(labels) and described.attributes.shape == (3, 3)
    assert np.allclose(described.attributes.sum(axis=1), 1, atol=1e-5)
    texts = encoder.embed_texts([f"a photo of {label}" for label in labels])
    logits = encoder.model.logit_scale.exp().item() * described.embeddings @ texts.T
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(described.attributes, expected / expected.sum(axis=1, keepdims=True), atol=1e-4)
    # In any order; a prompt changes them.
    turned = encoder.describe(astronaut(), faces, labels[::-1])
    assert np.allclose(turned.attributes[:, ::-1], described.attributes, atol=1e-5)
    assert not np.allclose(encoder.describe(astronaut(), faces, labels, "{}").attributes, described.attributes)


def test_turned_faces_are_seen_upright(encoder):
    """By their five points: the embedding of a turned photo's face is nearly that of the photo's."""
    points = np.array([[204, 104], [244, 104], [221, 127], [204, 144], [240, 144]], dtype=float)
    upright = Faces((512, 512), BOXES[:1], points[None])
    turned_points = np.stack([points[:, 1], 511 - points[:, 0]], axis=1)
    box = [BOXES[0][1], 511 - BOXES[0][2], BOXES[0][3], 511 - BOXES[0][0]]
    turned = Faces((512, 512), np.array([box]), turned_points[None])
    a = encoder.embed_faces(astronaut(), upright)[0]
    b = encoder.embed_faces(astronaut().rotate(90), turned)[0]
    sideways = encoder.embed_faces(astronaut().rotate(90), turned.replace(points=None))[0]
    assert a @ b > 0.98 and a @ b > a @ sideways


def test_nobody_and_mistakes(encoder, tmp_path):
    nobody = encoder.describe(photo_with_faces(1), Faces.empty((400, 300)), ["a", "b"])
    assert nobody.embeddings.shape == (0, encoder.model.config.projection_dim) and nobody.attributes.shape == (0, 2)
    with pytest.raises(ValueError, match="two labels or more"):
        encoder.describe(astronaut(), Faces.empty((512, 512)), ["a"])
    with pytest.raises(ValueError, match="no dual encoder"):
        FaceEncoder(save_tiny_model(tmp_path, "parsing"))
