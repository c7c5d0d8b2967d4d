"""Generated faces as a `datasets` data set."""

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from synthetic_cases import make_sample, make_samples
from torch.utils.data import DataLoader

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.synthetic import SyntheticFaceConfig, load_synthetic, loading

SMALL = SyntheticFaceConfig(image_size=48, num_faces=(1, 2))


@pytest.fixture(autouse=True)
def no_rendering(monkeypatch):
    monkeypatch.setattr(loading, "render_faces", make_samples)


def test_rows_are_the_samples():
    stream = load_synthetic(18, SMALL, seed=2)
    rows = list(stream)
    assert len(rows) == 18 and set(rows[0]) == set(stream.features)
    for i in (0, 17):
        sample, row = make_sample(2_000_000 + i, SMALL), rows[i]
        for column, expected in (("image", sample.image), ("lapa_labels", sample.lapa_labels)):
            assert np.array_equal(np.asarray(row[column]), expected)
        assert np.array_equal(np.asarray(row["celebamask_hq_labels"]), sample.celebamask_hq_labels)
        assert row["captions"] == sample.captions and len(row["faces"]) == len(sample.faces)
        for face, expected in zip(row["faces"], sample.faces, strict=True):
            for layout, points in expected.landmarks.items():
                assert np.array_equal(np.float32(face["landmarks"][str(layout)]), points)
                assert face["visibility"][str(layout)] == expected.visibility[layout].tolist()
            assert list(face["attributes"]) == CELEBA_ATTRIBUTES
            assert {name: v for name, v in face["attributes"].items() if v is not None} == expected.attributes
            assert face["box"] == pytest.approx(expected.box) and face["pose"] == pytest.approx(expected.pose)


def test_workers_and_nodes_divide_the_shards():
    stream = load_synthetic(40, SMALL)
    assert stream.num_shards == 3
    captions = [row["captions"] for row in stream]
    parts = [[row["captions"] for row in split_dataset_by_node(stream, rank, 3)] for rank in range(3)]
    assert [len(part) for part in parts] == [16, 16, 8] and [*parts[0], *parts[1], *parts[2]] == captions
    loaded = DataLoader(stream.select_columns("captions"), batch_size=None, num_workers=2)
    assert sorted(map(str, (row["captions"] for row in loaded))) == sorted(map(str, captions))


def test_drawn_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    faces = load_synthetic(3, SMALL, streaming=False)
    assert len(faces) == 3
    assert np.array_equal(np.asarray(faces[2]["lapa_labels"]), make_sample(2, SMALL).lapa_labels)


def test_bad_settings():
    with pytest.raises(ValueError, match="length is 0: 1 to a million"):
        load_synthetic(0)
    with pytest.raises(ValueError, match="num_proc is for streaming=False"):
        load_synthetic(1, num_proc=2)


def test_depth_and_normals_on_request(monkeypatch):
    def with_maps(seeds, config):
        samples = make_samples(seeds, config)
        for sample in samples:
            ramp = np.linspace(0.3, 2, 48 * 48, dtype=np.float32).reshape(48, 48)
            sample.depth = np.where(ramp > 1.5, np.float32(np.inf), ramp)
            sample.normals = np.stack([0 * ramp, 0 * ramp, -np.ones_like(ramp)], axis=2)
        return samples

    monkeypatch.setattr(loading, "render_faces", with_maps)
    config = SyntheticFaceConfig(image_size=48, depth=True, normals=True)
    (row,) = load_synthetic(1, config).with_format("numpy")
    (sample,) = with_maps([0], config)
    assert np.array_equal(row["depth"], sample.depth) and np.array_equal(row["normals"], sample.normals)
    assert not {"depth", "normals"} & set(load_synthetic(1, SMALL).features)
