"""Checkpoints that a kill at any moment cannot harm: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

_NAME = "checkpoint-"
_UNFINISHED = ".unfinished"


def save_checkpoint(
    accelerator: Accelerator, folder: Path, step: int, state: dict[str, Any], data_state: dict[str, Any], keep: int
) -> Path:
    """
    Saves `folder/checkpoint-STEP`: model, optimizer, gradient scaler and random states through Accelerate,
    `training_state.json`, and one position in the data per process. Older checkpoints than the newest `keep` go.

    Called by all processes; `folder` must be one that all of them see.
    """
    final = folder / f"{_NAME}{step:08d}"
    temporary = final.with_name(final.name + _UNFINISHED)
    if accelerator.is_main_process:
        _remove(temporary)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    _write_json(temporary / f"data_state_{accelerator.process_index}.json", data_state)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_json(temporary / "training_state.json", {"step": step, **state})
        for path in sorted(temporary.rglob("*")):
            _flush(path)
        _flush(temporary)
        _remove(final)
        temporary.rename(final)
        _flush(folder)
        for old in list_checkpoints(folder)[:-keep]:
            _remove(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Restores what `save_checkpoint` saved.

    Returns:
        The training state and this process's position in the data.

    Raises:
        ValueError: If it was saved by another number of processes.
    """
    positions = len(list(checkpoint.glob("data_state_*.json")))
    if positions != accelerator.num_processes:
        raise ValueError(
            f"{checkpoint} was saved by {positions} processes and cannot be taken up by {accelerator.num_processes}: "
            "start the same number."
        )
    accelerator.load_state(str(checkpoint))
    state = json.loads((checkpoint / "training_state.json").read_text())
    return state, json.loads((checkpoint / f"data_state_{accelerator.process_index}.json").read_text())


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{_NAME}*") if re.fullmatch(rf"{_NAME}\d+", path.name))


def remove_unfinished(folder: Path) -> None:
    """Deletes what a kill in the middle of saving left."""
    for path in folder.glob(f"{_NAME}*{_UNFINISHED}"):
        shutil.rmtree(path)


def write_file_atomically(path: Path, text: str) -> None:
    """Replaces a small file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(path.name + _UNFINISHED)
    temporary.write_text(text)
    _flush(temporary)
    temporary.replace(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _remove(folder: Path) -> None:
    """Deletes a checkpoint; its name goes first, so that no half of it can be taken for a whole."""
    if folder.exists():
        doomed = folder.with_name(folder.name.removesuffix(_UNFINISHED) + _UNFINISHED)
        if doomed != folder:
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
