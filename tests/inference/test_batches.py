"""The analysis as a function of a batch: `datasets.map`, and what Ray Data asks of it: plain batches, pickling."""

import json
import pickle

import datasets
import numpy as np
import pytest
from inference_cases import FixedDetector, save_tiny_model

from farl_hf.inference.batches import AnalyzeBatch


@pytest.fixture(scope="module")
def function(tmp_path_factory) -> AnalyzeBatch:
    folder = save_tiny_model(tmp_path_factory.mktemp("model"), "alignment")
    detector = FixedDetector((0.2, 0.2, 0.7, 0.8))
    return AnalyzeBatch(tasks=["alignment"], models={"alignment": folder}, detector=detector, device="cpu")


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)


def test_datasets_map(function):
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": list(photos(5)), "name": list("abcde")}, features=features)
    mapped = data.map(function, batched=True, batch_size=2)
    assert mapped["name"][:] == list("abcde") and len(mapped) == 5
    faces = json.loads(mapped[4]["faces"])["faces"]
    assert len(faces) == 1 and np.shape(faces[0]["landmarks"]) == (68, 2)


def test_photos_that_cannot_be_used_are_told_of(function):
    batch = {"image": [photos(1)[0], "no-such-file.jpg", np.full((9, 9, 3), np.nan)]}
    found = [json.loads(text) for text in function(batch)["faces"]]
    assert len(found[0]["faces"]) == 1 and "no-such-file.jpg" in found[1]["error"] and "not finite" in found[2]["error"]


def test_it_can_be_sent_to_other_processes(function):
    function({"image": photos(1)})
    text = pickle.dumps(function)
    assert len(text) < 2_000, "without the networks"
    assert list(pickle.loads(text)({"image": photos(1)})["faces"]) == list(function({"image": photos(1)})["faces"])
