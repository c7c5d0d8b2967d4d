"""Image-text data sets of the `datasets` library, both ways."""

import itertools
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets.distributed import split_dataset_by_node
from pretraining_cases import drawing, encode, served, tiny_config, write_shards
from torch.utils.data import DataLoader

from farl_hf import FaRLForPreTraining
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining.configuration import parse_arguments
from farl_hf.pretraining.faults import ShardError
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.laion_face import dataset_shards, load_laion_face, open_dataset
from farl_hf.pretraining.shards import read_shard
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


def pictures():
    for n in range(4):
        yield {"picture": drawing(n)[0], "alt": drawing(n)[1]}


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
    features = datasets.Features({"picture": datasets.Image(), "alt": datasets.Value("string")})
    made = datasets.IterableDataset.from_generator(pictures, features=features)  # nothing has encoded them yet
    assert numbers(dataset_shards(made, columns)) == [*range(4)]
    with pytest.raises(ValueError, match="say which one has the image"):
        dataset_shards(dataset)
    with pytest.raises(ValueError, match="Column image=photo: the data set has the columns picture, alt"):
        dataset_shards(dataset, {"image": "photo"})
    with pytest.raises(ValueError, match="choose one of its splits"):
        dataset_shards(datasets.DatasetDict({"train": fixed}))


def test_why_tars_are_read_by_ours(tmp_path):
    """
    What the tar reader of `datasets` does at damaged places, and ours: the day this fails because the library loses
    nothing any more, `shards._read_tar` can go.
    """

    def library(path) -> list[str]:
        rows = datasets.load_dataset("webdataset", data_files={"train": str(path)}, split="train", streaming=True)
        rows = rows.cast_column("jpg", datasets.Image(decode=False))
        found = []
        try:
            for row in rows:
                found.append(row["__key__"])
        except Exception as error:
            found.append(type(error).__name__)
        return found

    def ours(path) -> tuple[list[str], str | None]:
        found = []
        try:
            for sample in read_shard(str(path)):
                found.append(sample.key)
        except ShardError as error:
            return found, error.kind
        return found, None

    (path,) = write_shards(tmp_path, num_shards=1, samples_per_shard=12)
    everything = [f"{number:08d}" for number in range(12)]
    assert library(path) == ours(path)[0] == everything
    whole = Path(path).read_bytes()
    with tarfile.open(path) as tar:
        starts = {member.name: member.offset for member in tar.getmembers()}
    header = starts["00000008.jpg"]
    damaged = {
        "zeros": whole[:header] + bytes(512) + whole[header + 512 :],
        "header": whole[:header] + b"\xff" * 512 + whole[header + 512 :],
        "caption": whole.replace(b"number 8: ", b"number \xff: "),
    }
    for what, content in damaged.items():
        Path(path).write_bytes(content)
        # Four or five good samples fewer, for the damaged places without a word.
        assert library(path) == everything[:8] + (["UnicodeDecodeError"] if what == "caption" else []), what
        # Ours has them all, and the eighth for whoever judges captions and images.
        assert ours(path) == (everything, None if what == "caption" else "damaged_shard"), what


def write_sources(folder: Path) -> None:
    """The drawings 0 to 11 as three data sets that `datasets` opens: parquet files, tars, pictures with a table."""
    for name in ("parquet", "tars", "pictures"):
        (folder / name).mkdir()
    for part in range(3):
        numbers = range(4 * part, 4 * part + 4)
        images = [{"bytes": encode(drawing(n)[0]), "path": None} for n in numbers]
        table = pyarrow.table({"picture": images, "alt": [drawing(n)[1] for n in numbers]})
        pyarrow.parquet.write_table(table, folder / "parquet" / f"{part}.parquet")
    write_shards(folder / "tars", num_shards=3, samples_per_shard=4)
    rows = ["file_name,text"]
    for n in range(12):
        drawing(n)[0].save(folder / "pictures" / f"{n:02d}.jpg")
        rows.append(f"{n:02d}.jpg,{drawing(n)[1]}")
    (folder / "pictures" / "metadata.csv").write_text("\n".join(rows) + "\n")


def sources(folder: Path, address: str) -> dict[str, list[str]]:
    """Flags of `scripts/pretrain.py` for the same twelve drawings."""
    columns = ["--columns", "image=picture", "captions=alt"]
    return {
        "folder of parquet files": ["--train_dataset", str(folder / "parquet"), *columns],
        "folder of pictures": ["--train_dataset", str(folder / "pictures")],
        "parquet files behind an address": ["--train_dataset", f"{address}/parquet/{{0..2}}.parquet", *columns],
        "tars behind an address": ["--train_dataset", f"{address}/tars/{{00000..00002}}.tar"],
    }


def test_flags_name_a_data_set(tmp_path):
    write_sources(tmp_path)
    with served(tmp_path) as address:
        flags = sources(tmp_path, address)["parquet files behind an address"]
        config = parse_arguments(["--recipe", "demo", "--split", "train", *flags])
        dataset = open_dataset(config.train_dataset, config.train_dataset_config, config.split)
        columns = dict(column.split("=") for column in config.columns)
        assert numbers(dataset_shards(dataset, columns, config.train_dataset)) == [*range(12)]
    with pytest.raises(FileNotFoundError):
        open_dataset(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"test.*train"):
        open_dataset(str(tmp_path / "parquet"), split="test")


@pytest.mark.slow
def test_the_command_trains_on_a_data_set(tmp_path):
    write_sources(tmp_path)
    FaRLForPreTraining(tiny_config()).save_pretrained(tmp_path / "tiny")
    script = Path(__file__).parents[2] / "scripts" / "pretrain.py"
    with served(tmp_path) as address:
        for what, flags in sources(tmp_path, address).items():
            output = tmp_path / what.replace(" ", "_")
            command = [sys.executable, str(script), "--recipe", "demo", "--device", "cpu", "--split", "train", *flags]
            command += ["--init_from", str(tmp_path / "tiny"), "--output_dir", str(output), "--num_workers", "2"]
            command += ["--samples_per_epoch", "12", "--num_epochs", "2", "--batch_size", "4"]
            process = subprocess.run(command, capture_output=True, text=True)
            assert process.returncode == 0, process.stderr
            assert "6 steps, 24 samples, bad: none" in process.stdout, what
    command[command.index("--split") + 1] = "test"
    command[command.index("--train_dataset") + 1] = str(tmp_path / "parquet")
    process = subprocess.run([*command, "--output_dir", str(tmp_path / "none")], capture_output=True, text=True)
    assert process.returncode == 2 and "error: " in process.stderr and "Traceback" not in process.stderr
