"""Tokenizer and processor against open_clip, OpenAI's transform and Transformers' common processor tests."""

import unittest

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPTokenizer
from transformers.image_utils import load_image
from transformers_tests.test_processing_common import ProcessorTesterMixin

from farl_hf import FaRLImageProcessor, FaRLImageProcessorPil, FaRLProcessor
from farl_hf.models.tokenization import build_clip_tokenizer, build_processor

CAPTIONS = [
    "a photo of a face",
    "Portrait of an OLD man, 1930s!!! (black & white)",
    "a smiling young woman with long blond hair and glasses",
    "café naïve — 😀 it's the actor's",
    "日本語のキャプション 顔 текст Ελληνικά עברית",
    "3.14159 e-mail@example.org #hash_tag",
    "word " * 100,
    "x" * 400,
    "",
    "tabs\tand\nnew lines   and   spaces",
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_clip_tokenizer()


def test_token_ids_equal_open_clip(tokenizer):
    reference = open_clip.get_tokenizer("ViT-B-16")
    for caption in CAPTIONS:
        expected = reference([caption])[0].tolist()
        expected = expected[: expected.index(49407) + 1]
        assert tokenizer(caption, truncation=True).input_ids == expected, caption


def test_vocabulary_equals_open_clip(tokenizer):
    vocabulary = {id: token for token, id in tokenizer.get_vocab().items()}
    reference = open_clip.get_tokenizer("ViT-B-16").encoder
    assert len(vocabulary) == len(reference) == 49408
    # The two special tokens are spelt differently.
    assert all(vocabulary[id] == token for token, id in reference.items() if id < 49406)


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(again) == 49408 and again.model_max_length == 77
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (49406, 49407, 49407)
    batch = {"padding": True, "truncation": True}
    assert again(CAPTIONS, **batch).input_ids == tokenizer(CAPTIONS, **batch).input_ids


def image_files(folder) -> dict[str, str]:
    """A picture in every kind of file that users have."""
    y, x = np.mgrid[0:90, 0:120]
    rgb = np.stack([x * 2, y * 2, (x + y) % 256], axis=-1).astype(np.uint8)
    image = Image.fromarray(rgb)
    grey16 = Image.fromarray((y * 700).astype(np.uint16))
    rgba = image.copy()
    rgba.putalpha(Image.fromarray((x * 2).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    images = {
        "rgb.png": image,
        "grey.png": image.convert("L"),
        "palette.png": image.convert("P"),
        "alpha.png": rgba,
        "16bit.png": grey16,
        "cmyk.jpg": image.convert("CMYK"),
        "exif.jpg": image,
    }
    for name, picture in images.items():
        picture.save(folder / name, **({"exif": exif} if name == "exif.jpg" else {}))
    return {name: str(folder / name) for name in images}


def test_pixel_values_equal_clip_on_every_kind_of_file(tmp_path):
    for name, path in image_files(tmp_path).items():
        for source in (path, load_image(path), Image.open(path)):
            ours = FaRLImageProcessor()(source, return_tensors="pt").pixel_values
            theirs = CLIPImageProcessor()(source, return_tensors="pt").pixel_values
            assert ours.shape == (1, 3, 224, 224) and torch.equal(ours, theirs), name


def test_pil_backend_equals_openai_transform(tmp_path):
    reference = open_clip.image_transform(224, is_train=False)
    for name, path in image_files(tmp_path).items():
        image = load_image(path)
        ours = FaRLImageProcessorPil()(image, return_tensors="pt").pixel_values[0]
        assert (ours - reference(image)).abs().max() < 1e-6, name


def test_processor_makes_model_inputs():
    processor = build_processor(96)
    inputs = processor(
        images=[Image.new("RGB", (100, 50)), Image.new("L", (30, 40))],
        text=["a", "two words"],
        padding=True,
        return_tensors="pt",
    )
    assert inputs.pixel_values.shape == (2, 3, 96, 96)
    assert inputs.input_ids.tolist() == [[49406, 320, 49407, 49407], [49406, 1237, 2709, 49407]]
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


class FaRLProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = FaRLProcessor

    @classmethod
    def _setup_image_processor(cls):
        return FaRLImageProcessor()

    @classmethod
    def _setup_tokenizer(cls):
        return build_clip_tokenizer()
