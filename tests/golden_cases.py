"""Official-format checkpoint files with seeded weights, and the original network's numbers for them."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import seedgen  # noqa: E402

MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
MEAN = torch.tensor(seedgen.CLIP_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(seedgen.CLIP_STD).view(1, 3, 1, 1)


def numbers(case: str) -> dict[str, np.ndarray]:
    """The original network's numbers of one case: `clip`, `parsing_lapa` or `align_ibug300w`."""
    return np.load(GOLDEN / f"{case}.npz")


def state_dict(spec: str) -> dict[str, torch.Tensor]:
    """The seeded official state dict of one spec of the manifest."""
    arrays = seedgen.state_dict(MANIFEST["specs"][spec], MANIFEST["seeds"][spec], MANIFEST["overrides"].get(spec))
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def stack(count: int, make) -> torch.Tensor:
    return torch.from_numpy(np.stack([make(i) for i in range(count)]))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] images to CLIP's `pixel_values`."""
    return (images - MEAN) / STD


def relative_error(got, want) -> float:
    """Largest difference, relative to the largest wanted number."""
    got = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    want = np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    return float(np.abs(got - want).max() / np.abs(want).max())


def write_trainer_state(path: Path, spec: str) -> Path:
    """The file that the original's trainer saves; only the averaged weights are meaningful."""
    averaged = state_dict(spec)
    raw = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in averaged.items()}
    networks = {"main": raw, "main_ema": averaged}
    torch.save({"epoch": 1, "global_step": 1, "losses": {}, "networks": networks, "optimizer": ({}, {})}, path)
    return path


def write_torchscript(path: Path, tensors: dict[str, torch.Tensor], extra_files: dict | None = None) -> Path:
    """A TorchScript package that carries `tensors` as the parameters and buffers of nested modules."""
    root = _Forward()
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        if leaf.startswith(("running_", "num_batches", "image_")):
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    torch.jit.save(torch.jit.script(root), str(path), _extra_files=extra_files or {})
    return path


def write_facer_alignment(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """facer's two-part alignment file: the heat-map head as TorchScript, the backbone as an extra file."""
    backbone = {
        name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")
    }
    prefix = "heatmap_head."
    head = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    buffer = io.BytesIO()
    torch.save(backbone, buffer)
    return write_torchscript(path, head, {"backbone": buffer.getvalue()})


class _Forward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
