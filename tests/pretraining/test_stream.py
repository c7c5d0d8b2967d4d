"""Reading of shards: order, splitting, resuming, faults, views."""

import io
import itertools
import json
import os
import random
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageOps
from pretraining_cases import (
    SAMPLE_FAULTS,
    damage,
    drawing,
    encode,
    sample_members,
    write_faulty_shards,
    write_shards,
    write_tar,
)

import farl_hf.pretraining.stream as stream_module
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining.faults import FAULTS, SampleFault, ShardError
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.masking import BlockMaskGenerator
from farl_hf.pretraining.samples import clean_caption, codes_path
from farl_hf.pretraining.shards import count_samples, expand_shards, read_shard
from farl_hf.pretraining.stream import ImageTextLoader, ImageTextStream, Processes

TOKENIZER = build_clip_tokenizer()


def stream(shards, batch_size=4, **kwargs) -> ImageTextStream:
    views = kwargs.pop("views", ImageViews(image_size=32))
    return ImageTextStream(shards, TOKENIZER, views, batch_size, **kwargs)


def numbers(batch) -> list[int]:
    """The numbers of the samples, which their captions name."""
    texts = TOKENIZER.batch_decode(batch["input_ids"], skip_special_tokens=True)
    return [int(text.split(":")[0].removeprefix("number").replace(" ", "")) for text in texts]


def read_all(reader) -> list[int]:
    return [number for batch in reader for number in numbers(batch)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"))


def test_a_batch(shards):
    reader = ImageTextLoader(stream(shards, mask_generator=BlockMaskGenerator.for_grid(4)))
    batch = next(iter(reader))
    assert batch["pixels"].shape == (4, 32, 32, 3) and batch["pixels"].dtype == torch.uint8
    assert batch["bool_masked_pos"].shape == (4, 16) and batch["bool_masked_pos"].dtype == torch.bool
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["input_ids"].shape[0] == 4
    # The pixels are those of the drawing that the caption names: same colour in the middle of the mass.
    for number, pixels in zip(numbers(batch), batch["pixels"].numpy(), strict=True):
        whole = np.asarray(drawing(number)[0].resize((32, 32))).astype(float)
        assert np.abs(whole.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 25


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_sample_once_per_epoch_in_a_new_order(shards, num_workers):
    epochs = [read_all(ImageTextLoader(stream(shards, num_epochs=n, seed=5), num_workers)) for n in (1, 2)]
    assert sorted(epochs[0]) == list(range(32))
    assert Counter(epochs[1]) == dict.fromkeys(range(32), 2)
    assert epochs[0] != sorted(epochs[0])
    assert epochs[1][:32] == epochs[0] and epochs[1][32:] != epochs[0]
    readers = [ImageTextLoader(stream(shards, seed=seed, open_shards=1, num_epochs=1)) for seed in range(6)]
    first = [numbers(next(iter(reader)))[0] // 8 for reader in readers]
    assert len(set(first)) > 1, "shards are permuted, not only the samples of each"


def test_captions_are_cut_and_padded_as_by_the_tokenizer(tmp_path):
    captions = {"0": b"number 0: a photo", "1": b"number 1: " + b"very " * 200 + b"long"}
    write_tar(tmp_path / "a.tar", {key: {**sample_members(int(key)), "txt": text} for key, text in captions.items()})
    (batch,) = ImageTextLoader(stream([str(tmp_path / "a.tar")], num_epochs=1))
    texts = [captions[str(number)].decode() for number in numbers(batch)]
    expected = TOKENIZER(texts, padding="longest", truncation=True, max_length=77, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 77) and torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_order_is_a_function_of_the_seed(shards):
    first, second, other = (read_all(ImageTextLoader(stream(shards, num_epochs=1, seed=s))) for s in (1, 1, 2))
    assert first == second != other


def test_blocks_bound_the_shuffle(shards):
    order = read_all(ImageTextLoader(stream(shards[:1], num_epochs=1, shuffle_block=4)))
    assert sorted(order[:4]) == [0, 1, 2, 3] and sorted(order[4:]) == [4, 5, 6, 7]


class ThreadedProcesses(Processes):
    """Processes of a run as threads of this one."""

    def __init__(self, rank: int, slots: list, barrier: threading.Barrier):
        self.rank, self.slots, self.barrier = rank, slots, barrier

    def gather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait(60)
        values = list(self.slots)
        self.barrier.wait(60)
        return values

    def minimum(self, values):
        return [min(column) for column in zip(*self.gather(values), strict=True)]


def flat(lists) -> list:
    return list(itertools.chain.from_iterable(lists))


def run_processes(world_size: int, work) -> list:
    """What `work(rank, processes)` gives in each of several processes that run together."""
    slots, barrier = [None] * world_size, threading.Barrier(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        tasks = [pool.submit(work, rank, ThreadedProcesses(rank, slots, barrier)) for rank in range(world_size)]
        return [task.result() for task in tasks]


def global_batches(paths, world_size, num_workers, batch=12, start=None, stop=None, **settings) -> tuple[list, dict]:
    """The numbers in each global batch, sorted, and the state at the end."""

    def work(rank, processes):
        part = stream(paths, batch // world_size, rank=rank, world_size=world_size, **settings)
        reader = ImageTextLoader(part, num_workers, processes=processes)
        if start is not None:
            reader.load_state_dict(json.loads(json.dumps(start)))
        batches = [numbers(batch) for batch in itertools.islice(reader, stop)]
        return batches, reader.state_dict()

    results = run_processes(world_size, work)
    assert all(state == results[0][1] for _, state in results)
    sizes = [{len(part) for part in parts} for parts in zip(*(batches for batches, _ in results), strict=True)]
    assert all(len(size) == 1 for size in sizes), "equal shares"
    return [sorted(flat(parts)) for parts in zip(*(batches for batches, _ in results), strict=True)], results[0][1]


@pytest.mark.parametrize(
    ("num_shards", "world_size", "num_workers"), [(4, 2, 2), (4, 3, 1), (1, 2, 2), (3, 2, 1), (4, 4, 0)]
)
def test_global_batches_do_not_depend_on_processes_and_workers(shards, num_shards, world_size, num_workers):
    expected, state = global_batches(shards[:num_shards], 1, 0, num_epochs=3)
    assert Counter(flat(expected)) == dict.fromkeys(range(num_shards * 8), 3)
    assert (expected, state) == global_batches(shards[:num_shards], world_size, num_workers, num_epochs=3)


def test_uneven_shards_are_read_once_and_used_to_the_end(tmp_path, monkeypatch):
    sizes = [1, 2, 3, 30, 5, 7, 2]
    paths, first = [], 0
    for index, size in enumerate(sizes):
        paths.append(str(tmp_path / f"{index}.tar"))
        write_tar(Path(paths[-1]), {f"{n:04d}": sample_members(n) for n in range(first, first + size)})
        first += size
    opened = Counter()
    original = stream_module.read_shard
    monkeypatch.setattr(stream_module, "read_shard", lambda shard: opened.update([shard]) or original(shard))
    batches, _ = global_batches(paths, 2, 0, batch=4, num_epochs=1, open_shards=3)
    assert sorted(flat(batches)) == list(range(first)) and {len(batch) for batch in batches[:-1]} == {4}
    assert opened == dict.fromkeys(paths, 1)


def test_goes_on_with_other_numbers_of_workers_and_processes(tmp_path):
    paths, _, faults = write_faulty_shards(tmp_path, num_shards=5, samples_per_shard=11, num_faults=8)
    settings = {"num_epochs": 2, "shuffle_block": 4, "open_shards": 3}
    expected, end = global_batches(paths, 1, 0, **settings)
    assert end["faults"] == {kind: 2 * count for kind, count in faults.items()}
    begun, state = global_batches(paths, 3, 1, stop=2, **settings)
    middle, state = global_batches(paths, 2, 2, start=state, stop=2, **settings)
    last, state = global_batches(paths, 1, 2, start=state, **{**settings, "open_shards": 7})
    assert begun + middle + last == expected and state == end


def test_a_batch_mixes_open_shards(shards):
    batch = read_all(itertools.islice(ImageTextLoader(stream(shards, batch_size=8)), 1))
    assert Counter(number // 8 for number in batch) == dict.fromkeys(range(4), 2)


def test_the_list_of_shards_is_part_of_the_position(tmp_path, caplog):
    paths = write_shards(tmp_path / "a", num_shards=4, samples_per_shard=8)
    whole, _ = global_batches(paths, 1, 0, batch=8, num_epochs=1)
    begun, state = global_batches(paths, 1, 0, batch=8, stop=1, num_epochs=1)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = [path.replace("/a/", "/b/") for path in paths]
    assert begun + global_batches(moved, 1, 0, batch=8, start=state, num_epochs=1)[0] == whole
    # A shard that is gone counts as missing, and leaves the others' samples alone; a new one waits for a new run.
    write_tar(tmp_path / "b" / "new.tar", {"0": sample_members(99)})
    changed = [*moved[:1], *moved[2:], str(tmp_path / "b" / "new.tar")]
    rest, end = global_batches(changed, 1, 0, batch=8, start=state, num_epochs=1)
    seen = Counter(flat(begun + rest))
    assert max(seen.values()) == 1 and set(range(32)) - set(seen) <= set(range(8, 16)) and 99 not in seen
    assert end["faults"] == {"missing_shard": 1} and "00001.tar" in caplog.text and "new.tar" in caplog.text
    with pytest.raises(ValueError, match="None of the 1 shards"):
        ImageTextLoader(stream([str(tmp_path / "other.tar")])).load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_anywhere_with_equal_batches(tmp_path, num_workers):
    paths, _, faults = write_faulty_shards(tmp_path, num_shards=3, samples_per_shard=11, num_faults=8)
    settings = {"num_epochs": 2, "shuffle_block": 4, "mask_generator": BlockMaskGenerator.for_grid(4)}
    whole = ImageTextLoader(stream(paths, **settings), num_workers)
    expected = list(whole)
    for stop in range(0, len(expected), 1 if num_workers == 0 else 7):
        first = ImageTextLoader(stream(paths, **settings), num_workers)
        begun = list(itertools.islice(first, stop))
        second = ImageTextLoader(stream(paths, **settings), num_workers)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        batches = begun + list(second)
        assert len(batches) == len(expected)
        for ours, theirs in zip(batches, expected, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert second.faults == whole.faults == {kind: 2 * count for kind, count in faults.items()}
        assert second.state_dict() == whole.state_dict()


def test_ten_epochs_with_faults_of_ten_kinds(tmp_path):
    # 16 of 332 samples are bad, which is 5 %; one shard is cut in half and one has vanished.
    paths, good, faults = write_faulty_shards(tmp_path, num_shards=8, samples_per_shard=40, num_faults=16)
    assert len(faults) == 10 and faults.keys() <= FAULTS.keys()
    reader = ImageTextLoader(stream(paths, num_epochs=10, batch_size=16), num_workers=2)
    assert Counter(read_all(reader)) == dict.fromkeys(good, 10)
    assert reader.faults == {kind: 10 * count for kind, count in faults.items()}
    assert reader.good == 10 * len(good)


@pytest.mark.parametrize("kind", SAMPLE_FAULTS)
def test_each_fault_alone(tmp_path, kind):
    write_tar(
        tmp_path / "a.tar", {"0": sample_members(0), "1": damage(kind, sample_members(1)), "2": sample_members(2)}
    )
    reader = ImageTextLoader(stream([str(tmp_path / "a.tar")], num_epochs=1))
    assert sorted(read_all(reader)) == [0, 2] and reader.faults == {kind: 1}


def test_nothing_usable_is_an_error_where_there_is_no_end(tmp_path):
    write_tar(tmp_path / "a.tar", {"0": damage("not_an_image", sample_members(0))})
    with pytest.raises(ValueError, match=r"no usable sample.*not_an_image"):
        next(iter(ImageTextLoader(stream([str(tmp_path / "a.tar")]))))
    assert read_all(ImageTextLoader(stream([str(tmp_path / "a.tar")], num_epochs=1))) == []


def test_tar_dialects_and_cuts(tmp_path):
    path = tmp_path / "a.tar"
    long_key = "folder/" + "k" * 180
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        key = long_key if dialect != tarfile.USTAR_FORMAT else "folder/" + "k" * 80
        with tarfile.open(path, "w", format=dialect) as tar:
            for extension, content in sample_members(3).items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        samples = list(read_shard(str(path)))
        assert [sample.key for sample in samples] == [key] and count_samples(str(path)) == 1
    whole = path.read_bytes()
    for length in (0, 100, 512, 1000, 2000):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError) as error:
            list(read_shard(str(path)))
        assert error.value.kind == "truncated_shard"
    path.write_bytes(b"<html>" * 1000)
    with pytest.raises(ShardError) as error:
        list(read_shard(str(path)))
    assert error.value.kind == "unreadable_shard"


def test_parquet(tmp_path):
    path = tmp_path / "part.parquet"
    images = [encode(drawing(number)[0]) for number in range(3)]
    table = {
        "image": [{"bytes": image, "path": None} for image in images],
        "caption": [["number 0: one", "number 0: other"], ["number 1: only"], None],
        "key": ["a", "b", "c"],
        "faces": [json.dumps([[[1, 1, 9, 9], [], 0.9]])] * 3,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert count_samples(str(path)) == 3
    reader = ImageTextLoader(stream([str(path)], num_epochs=1))
    assert sorted(read_all(reader)) == [0, 1] and reader.faults == {"missing_caption": 1}
    path.write_bytes(path.read_bytes()[:-20])
    reader = ImageTextLoader(stream([str(path)], num_epochs=1))
    assert read_all(reader) == [] and reader.faults == {"unreadable_shard": 1}


def test_several_captions_are_chosen_anew_each_epoch(tmp_path):
    members = sample_members(0)
    members["json"] = json.dumps({"captions": ["number 1: x", "number 2: x", "number 3: x", " "]}).encode()
    write_tar(tmp_path / "a.tar", {"0": members})
    seen = Counter(read_all(ImageTextLoader(stream([str(tmp_path / "a.tar")], num_epochs=60, batch_size=1))))
    assert seen.keys() == {1, 2, 3} and min(seen.values()) > 5


def test_expand_shards(tmp_path):
    for name in ("a-00.tar", "a-01.tar", "b.parquet", "notes.txt"):
        (tmp_path / name).touch()
    names = [os.path.basename(path) for path in expand_shards(str(tmp_path))]
    assert names == ["a-00.tar", "a-01.tar", "b.parquet"]
    assert expand_shards(f"{tmp_path}/a-*.tar") == [f"{tmp_path}/a-00.tar", f"{tmp_path}/a-01.tar"]
    assert expand_shards("x/{008..010}.{tar,parquet}") == [
        f"x/{number}.{end}" for number in ("008", "009", "010") for end in ("parquet", "tar")
    ]
    assert expand_shards("https://host/{0..1}.tar") == ["https://host/0.tar", "https://host/1.tar"]
    with pytest.raises(FileNotFoundError, match="No shard matches"):
        expand_shards(f"{tmp_path}/c-*.tar")


def test_remote_shards(tmp_path):
    import fsspec

    path = write_shards(tmp_path, num_shards=1, samples_per_shard=3)[0]
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/00000.tar", Path(path).read_bytes())
    reader = ImageTextLoader(stream(["memory://set/00000.tar", "memory://set/00001.tar"], num_epochs=1))
    assert sorted(read_all(reader)) == [0, 1, 2] and reader.faults == {"missing_shard": 1}


def test_stored_codes_come_with_their_crops(tmp_path):
    path = write_shards(tmp_path, num_shards=1, samples_per_shard=3)[0]
    codes = np.arange(32, dtype=np.uint16).reshape(2, 16)
    boxes = np.array([[0, 0, 1, 1], [0.5, 0, 1, 1]], dtype=np.float32)
    np.savez(codes_path(path), keys=np.array(["00000000", "00000002"]), codes=codes, boxes=boxes)
    reader = ImageTextLoader(stream([path], num_epochs=1, stored_codes=True))
    (batch,) = reader
    assert reader.faults == {"missing_codes": 1}
    order = numbers(batch)
    assert sorted(order) == [0, 2] and torch.equal(batch["mim_targets"][order.index(2)], torch.arange(16, 32))
    image = Image.open(io.BytesIO(sample_members(2)["jpg"]))
    right_half = image.crop((24, 0, 48, 40)).resize((32, 32), Image.Resampling.BICUBIC)
    difference = batch["pixels"][order.index(2)].numpy().astype(float) - np.asarray(right_half)
    assert np.abs(difference).mean() < 2


def test_views_are_the_same_crop():
    gradient = np.zeros((100, 160, 3), dtype=np.uint8)
    gradient[..., 0], gradient[..., 1] = np.arange(160), np.arange(100)[:, None]
    views = ImageViews(image_size=64, codebook_size=32, crop_scale=(0.3, 0.6), flip=True)
    data = encode(Image.fromarray(gradient), "PNG")
    mirrored = 0
    for number in range(20):
        model_view, codebook_view = views(data, random.Random(number), {})
        assert model_view.shape == (64, 64, 3) and codebook_view.shape == (32, 32, 3)
        half = model_view.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(half - codebook_view).max() < 3
        mirrored += model_view[0, 0, 0] > model_view[0, -1, 0]
        share = float(np.ptp(model_view[..., 0])) * float(np.ptp(model_view[..., 1])) / (160 * 100)
        assert 0.25 < share < 0.65
    assert 3 < mirrored < 17


def test_views_are_resampled_as_in_beit():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8))
    views = ImageViews(image_size=64, codebook_size=32)
    model_view, codebook_view = views(encode(photo, "PNG"), random.Random(0), {}, (0.0, 0.0, 1.0, 1.0))
    assert np.array_equal(model_view, np.asarray(photo.resize((64, 64), Image.Resampling.BICUBIC)))
    assert np.array_equal(codebook_view, np.asarray(photo.resize((32, 32), Image.Resampling.LANCZOS)))


def test_reduced_decoding_is_the_same_picture():
    large = Image.effect_noise((640, 480), 80).resize((1280, 960), Image.Resampling.BICUBIC).convert("RGB")
    view = ImageViews(image_size=64)(encode(large), random.Random(0), {}, (0.0, 0.0, 1.0, 1.0))[0]
    full = np.asarray(large.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(view.astype(float) - full).mean() < 4


def test_exif_orientation():
    image = drawing(0)[0]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif, quality=95)
        view = ImageViews(image_size=32)(buffer.getvalue(), random.Random(0), {}, (0.0, 0.0, 1.0, 1.0))[0]
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).resize((32, 32))
        assert np.abs(view.astype(float) - np.asarray(expected)).mean() < 1


def test_face_crops():
    photo = np.zeros((200, 300, 3), dtype=np.uint8)
    photo[60:100, 200:240] = 255
    data = encode(Image.fromarray(photo), "PNG")
    views = ImageViews(image_size=40, face_crop_scale=(2.0, 2.0))
    # The detection is in pixels of the original, which was twice as large.
    metadata = {"faces": [[[400, 120, 480, 200], [], 0.99]], "original_width": 600}
    view = views(data, random.Random(0), metadata)[0]
    assert view[12:28, 12:28].min() > 200 and view[:8].max() < 50 and view[:, :8].max() < 50
    assert views(data, random.Random(0), {})[0].mean() < 60, "without detections the plain crop"
    with pytest.raises(SampleFault, match="bad_metadata"):
        views(data, random.Random(0), {"faces": [[["x"]]]})


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("  two\n lines\t", "two lines"),
        ("&nbsp;", ""),
    ],
)
def test_clean_caption(raw, clean):
    assert clean_caption(raw) == clean


def test_unmended_text_is_mended_on_request():
    pytest.importorskip("ftfy")
    assert clean_caption("cafÃ©", fix_text=True) == "café" and clean_caption("cafÃ©") == "cafÃ©"
