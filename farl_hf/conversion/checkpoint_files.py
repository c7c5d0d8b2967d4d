"""
Tensors out of checkpoint files, without running any code that a file may carry.

Pickles are read with PyTorch's restricted loader, safetensors as they are, and TorchScript packages through a
restricted unpickler of our own that knows tensors and modules and nothing else.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


class CheckpointError(ValueError):
    """A checkpoint file that cannot be read or does not hold what it should."""


@dataclass
class CheckpointFile:
    """
    Content of a checkpoint file.

    Attributes:
        content: Names to tensors, or nested dicts of them as they were saved. CPU tensors, mapped from the file where
            the format allows.
        extra: Extra files of a TorchScript package by name.
    """

    content: dict[str, Any]
    extra: dict[str, bytes] = field(default_factory=dict)


def read_tensors(path: str | Path) -> CheckpointFile:
    """
    Reads a `torch.save` file (zip or legacy), a safetensors file or a TorchScript package.

    The names of a TorchScript package are those of `torch.jit.load(path).state_dict()`, and of tensors that are plain
    attributes of a module, neither parameter nor buffer, which the package does not tell apart in its data.

    Raises:
        CheckpointError: If the file is missing, empty, cut short, a web page or a Git-LFS pointer in disguise, of an
            unknown format, or a pickle that holds more than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {problem}: give the path of a checkpoint file or the name of a release.")
    with path.open("rb") as file:
        start = file.read(512)
    _refuse_disguises(start, str(path))
    # A safetensors file starts with the length of its JSON header in eight bytes.
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return CheckpointFile(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is no readable safetensors file ({error}): fetch it again.") from error
    if start[:2] == b"PK":
        return _read_zip(path)
    return _read_pickle(path, str(path), mmap=False)


def read_tensors_from_bytes(data: bytes, name: str) -> CheckpointFile:
    """Reads `torch.save`d bytes; `name` stands for them in messages. Errors as in [`read_tensors`]."""
    _refuse_disguises(data[:512], name)
    return _read_pickle(io.BytesIO(data), name, mmap=False)


def _refuse_disguises(start: bytes, name: str) -> None:
    text = start.lstrip().lower()
    if not start:
        raise CheckpointError(f"{name} is empty: fetch it again.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{name} is a web page, not a checkpoint: the download went to an error or login page.")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{name} is a Git-LFS pointer, not the file itself: run `git lfs pull`.")


def _damaged(name: str) -> CheckpointError:
    return CheckpointError(f"{name} is damaged or cut short, or no checkpoint at all: fetch it again.")


def _refusal(name: str, class_name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} holds {class_name}, which is neither a tensor nor a plain container: refused, because loading it "
        "could run code (save the state dict alone, where you trust the file)."
    )


def _read_pickle(file: Path | BinaryIO, name: str, mmap: bool) -> CheckpointFile:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            raise _refusal(name, str(error).split("GLOBAL ")[1].split(" ")[0]) from error
        raise _damaged(name) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(name) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not named tensors.")
    return CheckpointFile(content)


def _read_zip(path: Path) -> CheckpointFile:
    try:
        with zipfile.ZipFile(path) as archive:
            # The folder in the archive is named after the file it was first saved to.
            folders = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
            if not folders:
                raise CheckpointError(f"{path} is a zip archive, but not one that PyTorch wrote: give a checkpoint.")
            if f"{folders[0]}/constants.pkl" in archive.namelist():
                return _read_torchscript(archive, folders[0])
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise _damaged(str(path)) from error
    return _read_pickle(path, str(path), mmap=True)


# ------------------------------------------------------------------------------------------------------ TorchScript


def _read_torchscript(archive: zipfile.ZipFile, folder: str) -> CheckpointFile:
    # Read whole, so that its checksum is verified first: a damaged pickle can ask for any amount of memory.
    data = archive.read(f"{folder}/data.pkl")
    root = _TensorUnpickler(io.BytesIO(data), archive, folder).load()
    tensors: dict[str, torch.Tensor] = {}
    _collect_tensors(root, "", tensors)
    prefix = f"{folder}/extra/"
    extra = {name.removeprefix(prefix): archive.read(name) for name in archive.namelist() if name.startswith(prefix)}
    return CheckpointFile(tensors, extra)


_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class _Module:
    """A TorchScript module as data: its attributes and submodules, nothing that runs."""

    def __setstate__(self, state: dict):
        self.attributes = state


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles TorchScript data into `_Module` trees; any other global is refused."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return self.rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if module == "torch.jit._pickle" and name == "restore_type_tag":
            return lambda value, _: value
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        if (module, name) == ("torch", "device"):
            return str
        raise _refusal(str(self.archive.filename), f"{module}.{name}")

    def persistent_load(self, persistent_id: tuple) -> tuple[torch.UntypedStorage, torch.dtype]:
        kind, storage_type, key, _, _ = persistent_id
        if kind != "storage":
            raise pickle.UnpicklingError(f"no storage: {kind!r}")
        dtype = _STORAGE_DTYPES[storage_type]
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}/data/{key}"))
            # `frombuffer` refuses an empty buffer.
            storage = torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)
            self.storages[key] = storage
        return self.storages[key], dtype

    @staticmethod
    def rebuild_tensor(storage: tuple, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
        data, dtype = storage
        # `set_` would enlarge a storage that is too small, with whatever memory holds, by as much as a file asks for.
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        most = data.nbytes() // dtype.itemsize
        if min((offset, *size, *stride)) < 0 or math.prod(size) > most or (math.prod(size) and last >= most):
            raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} in a storage of {most} numbers")
        return torch.empty(0, dtype=dtype).set_(data, offset, tuple(size), tuple(stride))


def _collect_tensors(module: _Module, prefix: str, tensors: dict[str, torch.Tensor]) -> None:
    """Fills `tensors` with the parameters, buffers and tensor attributes of a module tree, under dotted names."""
    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Module):
            _collect_tensors(value, f"{prefix}{name}.", tensors)
