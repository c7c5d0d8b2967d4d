import io
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from farl_hf.checkpoint_files import CheckpointError, read_tensors, read_tensors_from_bytes


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
    backbone = read_tensors_from_bytes(file.extra["backbone"], "backbone").content
    assert torch.equal(backbone["visual.proj"], torch.eye(3))


def test_torchscript_with_a_foreign_class_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "net.pt"))
    with zipfile.ZipFile(tmp_path / "net.pt") as source, zipfile.ZipFile(tmp_path / "bad.pt", "w") as target:
        for name in source.namelist():
            data = b"cos\nsystem\n(S'true'\ntR." if name.endswith("/data.pkl") else source.read(name)
            target.writestr(name, data)
    with pytest.raises(CheckpointError, match=r"os\.system.*could run code"):
        read_tensors(tmp_path / "bad.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(tmp_path, zipped):
    content = {"networks": {"main_ema": {"w": torch.arange(6.0)}}, "epoch": 3}
    torch.save(content, tmp_path / "state.pth", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "state.pth").content
    assert read["epoch"] == 3 and torch.equal(read["networks"]["main_ema"]["w"], torch.arange(6.0))


def test_safetensors(tmp_path):
    save_file({"w": torch.arange(6.0)}, tmp_path / "w.safetensors")
    assert torch.equal(read_tensors(tmp_path / "w.safetensors").content["w"], torch.arange(6.0))


def bad_file(path, kind: str) -> None:
    good = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, good)
    if kind == "pickle with code":
        torch.save({"w": torch.zeros(3), "hook": shutil.rmtree}, path)
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
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
