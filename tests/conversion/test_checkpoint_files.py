import io
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from farl_hf.conversion import checkpoint_files
from farl_hf.conversion.checkpoint_files import CheckpointError, read_tensors, read_tensors_from_bytes


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.low_precision = nn.Parameter(torch.randn(2, 3).half())
        self.register_buffer("image_mean", torch.randn(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x - self.image_mean))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), nn.Conv2d(4, 2, 1))
        self.tied = nn.Linear(4, 2, bias=False)
        self.tied.weight = nn.Parameter(torch.randn(4, 2).t())  # a view with other strides
        self.shared = nn.Linear(4, 2, bias=False)
        self.shared.weight = nn.Parameter(self.tied.weight.detach()[:1])
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("not_persistent", torch.ones(2), persistent=False)
        self.device = torch.device("cpu")
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_names_and_values_without_running_it(tmp_path, how):
    torch.manual_seed(0)
    network = Network().eval()
    with torch.no_grad():
        module = torch.jit.script(network) if how == "script" else torch.jit.trace(network, torch.randn(1, 3, 5, 5))
    buffer = io.BytesIO()
    torch.save({"visual.proj": torch.eye(3)}, buffer)
    torch.jit.save(module, str(tmp_path / "net.pt"), _extra_files={"backbone": buffer.getvalue()})
    expected = torch.jit.load(str(tmp_path / "net.pt")).state_dict()

    file = read_tensors(tmp_path / "net.pt")
    assert file.content.keys() == expected.keys()
    for name, value in expected.items():
        assert file.content[name].dtype == value.dtype and torch.equal(file.content[name], value), name
    assert "blocks.0.bn.num_batches_tracked" in expected and expected["empty"].shape == (0, 3)
    assert file.content["tied.weight"].data_ptr() == file.content["shared.weight"].data_ptr()  # one storage, not two
    backbone = read_tensors_from_bytes(file.extra["backbone"], "backbone").content
    assert torch.equal(backbone["visual.proj"], torch.eye(3))


def test_torchscript_attributes_that_are_tensors(tmp_path):
    """TorchScript's own `state_dict` leaves these out, see `read_tensors`."""
    module = nn.Linear(2, 1)
    module.scale = torch.ones(2)
    torch.jit.save(torch.jit.script(module), str(tmp_path / "net.pt"))
    assert read_tensors(tmp_path / "net.pt").content.keys() == {"weight", "bias", "scale"}


def repack(source: Path, target: Path, replaced: dict[str, bytes], folder: str = "net") -> None:
    """Copies a PyTorch archive with other records, `None` leaves one out, and another name of the folder in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            record = name.split("/", 1)[1]
            if (data := replaced.get(record, old.read(name))) is not None:
                new.writestr(f"{folder}/{record}", data)


CYCLE = b"c__torch__\nM\n)\x81q\x00}U\x01ah\x00sb."  # a module that is its own submodule


@pytest.mark.parametrize(
    "replaced, message",
    [
        ({"data.pkl": b"cos\nsystem\n(S'true'\ntR."}, r"os\.system.*could run code"),
        ({"data.pkl": b"c__torch__\nM\n)\x81}U\x01acbuiltins\neval\n(U\x011tRsb."}, r"builtins\.eval.*could run code"),
        ({"data.pkl": CYCLE}, "damaged"),
        ({"data.pkl": b"\x80\x02}q"}, "damaged"),
        ({"data.pkl": None}, "not one that PyTorch wrote"),
        ({"data.pkl": b""}, "damaged"),
        ({"data/0": None}, "damaged"),
        ({"data/0": b""}, "damaged"),  # there, and empty
        ({"data/0": b"\0\0\0\0"}, "damaged"),  # fewer bytes than the tensor's shape needs
    ],
)
def test_torchscript_that_is_wrong_inside(tmp_path, replaced, message):
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), str(tmp_path / "net.pt"))
    repack(tmp_path / "net.pt", tmp_path / "bad.pt", replaced)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_tensors(tmp_path / "bad.pt")
    assert str(tmp_path / "bad.pt") in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "size, stride, offset", [((10**13,), (1,), 0), ((10**13,), (0,), 0), ((3, 2), (2, 1), 1), ((-1,), (1,), 0)]
)
def test_torchscript_tensors_stay_in_their_storage(size, stride, offset):
    """A crafted file asks for a tensor that its numbers do not fill: nothing is allocated for it."""
    storage = torch.arange(6.0).untyped_storage(), torch.float32
    good = checkpoint_files._TensorUnpickler.rebuild_tensor(storage, 0, (3, 2), (1, 3))
    assert torch.equal(good, torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    second = checkpoint_files._TensorUnpickler.rebuild_tensor(storage, 2, (3,), (1,))
    assert second.tolist() == [2, 3, 4]
    with pytest.raises(pickle.UnpicklingError, match="storage of 6 numbers"):
        checkpoint_files._TensorUnpickler.rebuild_tensor(storage, offset, size, stride)


def test_torchscript_with_another_folder_name(tmp_path):
    module = torch.jit.script(nn.Linear(3, 2))
    torch.jit.save(module, str(tmp_path / "net.pt"))
    repack(tmp_path / "net.pt", tmp_path / "other.pt", {}, folder="archive v2")
    read = read_tensors(tmp_path / "other.pt").content
    assert all(torch.equal(read[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("kind", ["torchscript", "zip", "legacy", "safetensors"])
def test_damage_anywhere_is_one_error(tmp_path, kind):
    """Cut or with flipped bytes, a file either reads or raises CheckpointError, whatever the damaged part says."""
    path, tensors = tmp_path / "file", {"w": torch.arange(50.0), "b": torch.zeros(3)}
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), str(path))
    elif kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    good = path.read_bytes()
    generator = random.Random(0)
    damaged = [good[: len(good) * i // 40] for i in range(40)]
    for _ in range(60):
        flipped = bytearray(good)
        for _ in range(3):
            flipped[generator.randrange(len(good))] = generator.randrange(256)
        damaged.append(bytes(flipped))
    errors = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            read_tensors(path)
        except CheckpointError:
            errors += 1
    assert errors >= 40  # every cut file


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(tmp_path, zipped):
    content = {"networks": {"main_ema": {"w": torch.arange(6.0)}}, "epoch": 3}
    torch.save(content, tmp_path / "state.pth", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "state.pth").content
    assert read["epoch"] == 3 and torch.equal(read["networks"]["main_ema"]["w"], torch.arange(6.0))


def test_safetensors(tmp_path):
    save_file({"w": torch.arange(6.0)}, tmp_path / "w.safetensors")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.safetensors").read_bytes())  # known by content
    for name in ("w.safetensors", "w.pth"):
        assert torch.equal(read_tensors(tmp_path / name).content["w"], torch.arange(6.0))


def test_torch_save_is_mapped_into_memory(tmp_path):
    """The weights stay on disk until they are used: what is read sees a later change of the file."""
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "w.pth")
    weights = read_tensors(tmp_path / "w.pth").content["w"]
    data = (tmp_path / "w.pth").read_bytes()
    with (tmp_path / "w.pth").open("r+b") as file:
        file.seek(data.index(bytes(4096)) + 4096)
        file.write(b"\xff" * 4096)
    assert weights.isnan().any()


def bad_file(path, kind: str) -> None:
    good = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, good)
    if kind == "pickle with code":
        torch.save({"w": torch.zeros(3), "hook": shutil.rmtree}, path)
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("photo.txt", "hello")
    elif kind == "safetensors":
        save_file({"w": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind != "missing":
        contents = {
            "empty": b"",
            "truncated zip": good.getvalue()[:2000],
            "web page": b"\n<html><title>404</title></html>",
            "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "noise": bytes(range(256)) * 10,
        }
        path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("other zip", "not one that PyTorch wrote"),
        ("empty", "is empty"),
        ("truncated zip", "cut short"),
        ("web page", "web page"),
        ("lfs pointer", "git lfs pull"),
        ("noise", "damaged"),
        ("pickle with code", r"shutil\.rmtree.*could run code"),
        ("list", "holds a list"),
        ("safetensors", "no readable safetensors"),
    ],
)
def test_bad_files(tmp_path, kind, message):
    path = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pth")
    bad_file(path, kind)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_tensors(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
