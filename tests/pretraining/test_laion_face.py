"""Image-text data sets of the `datasets` library, both ways."""

import itertools
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets.distributed import split_dataset_by_node
from pretraining_cases import drawing, encode, write_shards
from torch.utils.data import DataLoader

from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.laion_face import dataset_shards, load_laion_face
from farl_hf.pretraining.stream import ImageTextLoader, ImageTextStream

TOKENIZER = build_clip_tokenizer()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"), num_shards=4, samples_per_shard=6)


def keys(dataset) -> list[int]:
    return [int(row["key"]) for row in dataset]


def test_rows(shards):
    dataset = load_laion_face(shards)
    assert dataset.n_shards == 4 and dataset.column_names == ["image", "captions", "faces", "json", "key"]
    row = next(iter(dataset))
    assert row["image"]["bytes"] == encode(drawing(0)[0]) and row["captions"] == [drawing(0)[1]]
    assert row["json"] == '{"number": 0}' and row["faces"] is None
    assert keys(dataset) == list(range(24))
    shuffled = keys(load_laion_face(shards, seed=1))
    assert sorted(shuffled) == list(range(24)) != shuffled
    assert shuffled == keys(load_laion_face(shards, seed=1)) != keys(load_laion_face(shards, seed=2))


@pytest.mark.parametrize("seed", [None, 3])
def test_goes_on_at_the_exact_sample(shards, seed):
    expected = keys(load_laion_face(shards, seed, shuffle_block=4))
    for stop in (0, 1, 5, 6, 13, 24):
        first = load_laion_face(shards, seed, shuffle_block=4)
        begun = [int(row["key"]) for row in itertools.islice(first, stop)]
        second = load_laion_face(shards, seed, shuffle_block=4)
        second.load_state_dict(first.state_dict())
        # And a second time, which the library's shuffle buffer does not survive.
        more = [int(row["key"]) for row in itertools.islice(second, 3)]
        third = load_laion_face(shards, seed, shuffle_block=4)
        third.load_state_dict(second.state_dict())
        assert begun + more + keys(third) == expected


def test_works_as_other_data_sets_do(shards):
    dataset = load_laion_face(shards, seed=0)
    for world_size in (2, 3):
        parts = [keys(split_dataset_by_node(dataset, rank, world_size)) for rank in range(world_size)]
        assert Counter(itertools.chain(*parts)) == dict.fromkeys(range(24), 1)
    assert sorted(
        int(key) for key in DataLoader(dataset.select_columns("key"), None, num_workers=2, collate_fn=key_of)
    ) == [*range(24)]
    even = dataset.filter(lambda row: int(row["key"]) % 2 == 0).map(lambda row: {"length": len(row["captions"][0])})
    assert [row["length"] for row in even.take(3)] == [len(drawing(key)[1]) for key in keys(even.take(3))]
    assert len(keys(even)) == 12


def key_of(row) -> str:
    return row["key"]


def numbers(shards, **settings) -> list[int]:
    stream = ImageTextStream(shards, TOKENIZER, ImageViews(32), 4, num_epochs=1, **settings)
    texts = [text for batch in ImageTextLoader(stream, settings.pop("num_workers", 0)) for text in batch["input_ids"]]
    texts = TOKENIZER.batch_decode(texts, skip_special_tokens=True)
    return sorted(int(text.split(":")[0].removeprefix("number").replace(" ", "")) for text in texts)


def test_pretraining_reads_any_data_set(tmp_path, shards):
    assert numbers(dataset_shards(load_laion_face(shards).filter(lambda row: row["key"] > "00000004"))) == [
        *range(5, 24)
    ]
    rows = {
        "picture": [{"bytes": encode(drawing(n)[0]), "path": None} for n in range(9)],
        "alt": [drawing(n)[1] for n in range(9)],
    }
    (tmp_path / "set").mkdir()
    for part in range(3):
        table = pyarrow.table({name: values[3 * part : 3 * part + 3] for name, values in rows.items()})
        pyarrow.parquet.write_table(table, tmp_path / "set" / f"{part}.parquet")
    dataset = datasets.load_dataset(str(tmp_path / "set"), split="train", streaming=True)
    columns = {"image": "picture", "captions": "alt"}
    found = dataset_shards(dataset, columns)
    assert len(found) == 3 and numbers(found) == [*range(9)]
    fixed = datasets.Dataset.from_list([{"picture": drawing(n)[0], "alt": drawing(n)[1]} for n in range(4)])
    assert numbers(dataset_shards(fixed, columns)) == [*range(4)]
    with pytest.raises(ValueError, match="say which one has the image"):
        dataset_shards(dataset)
    with pytest.raises(ValueError, match="Column image=photo: the data set has the columns picture, alt"):
        dataset_shards(dataset, {"image": "photo"})
    with pytest.raises(ValueError, match="choose one of its splits"):
        dataset_shards(datasets.DatasetDict({"train": fixed}))
