"""
Checkpoints that a kill at any moment, a full disk or a damaged file cannot harm: written aside and in the background,
flushed to disk with their checksums, then renamed; checked before they are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_NAME = "checkpoint-"
_UNFINISHED = ".unfinished"
_ABANDONED = "abandoned-"
_MANIFEST = "manifest.json"


class Checkpoints:
    """
    The checkpoints of a run: `folder/checkpoint-STEP` with a model folder that every Auto class opens, `optimizer.pt`
    (or, under FSDP, what Accelerate saves, in `sharded`), `training_state.json` and `manifest.json`.

    Methods are called by all processes together; `folder` must be one that all of them see. A checkpoint is copied to
    the host's memory and written by a thread, while training goes on.

    Args:
        accelerator: Of the run.
        folder: Where the checkpoints lie.
        objective, optimizer: Prepared by the accelerator.
        model: Inside of the objective.
        processor: Saved beside the model.
        save_total_limit: Checkpoints to keep.
        keep_steps: Checkpoints at multiples of it are kept beside those.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        objective: nn.Module,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        processor: Any,
        save_total_limit: int = 2,
        keep_steps: int | None = None,
    ):
        self.accelerator, self.folder = accelerator, folder
        self.objective, self.model, self.optimizer, self.processor = objective, model, optimizer, processor
        self.save_total_limit, self.keep_steps = save_total_limit, keep_steps
        self.resumed_from: str | None = None
        self._sharded = accelerator.distributed_type == DistributedType.FSDP
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """
        Begins to save a checkpoint; `wait` ends it.

        Args:
            step: Of the checkpoint.
            state: Of the parts of the run; JSON's types.

        Raises:
            OSError: If this or the last checkpoint cannot be written. The last good one stays as it was.
        """
        self.wait()
        final = self.folder / f"{_NAME}{step:08d}"
        temporary = final.with_name(final.name + _UNFINISHED)
        weights = self.weights()
        main = self.accelerator.is_main_process
        if self._sharded:
            if main:
                _remove(temporary)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(temporary / "sharded"))
            self.accelerator.wait_for_everyone()
        if main:
            content = {"step": step, "resumed_from": self.resumed_from, **state}
            optimizer = None if self._sharded else _to_host(self.optimizer.state_dict())
            scaler = None if self.accelerator.scaler is None else dict(self.accelerator.scaler.state_dict())
            self._writing = self._writer.submit(
                self._write, final, temporary, _to_host(weights), {"optimizer": optimizer, "scaler": scaler}, content
            )

    def wait(self) -> None:
        """Until the last checkpoint is on disk. Raises what went wrong with it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def raise_failure(self) -> None:
        """Raises what went wrong with the last checkpoint, if that is known already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's weights under its own names, gathered where they are sharded."""
        gathered = self.accelerator.get_state_dict(self.objective)
        weights = {name.removeprefix("model."): value for name, value in gathered.items()}
        if "logit_scale" in weights:
            weights["logit_scale"] = weights["logit_scale"].reshape(())
        return weights

    def _write(
        self, final: Path, temporary: Path, weights: dict[str, torch.Tensor], training: dict[str, Any], state: dict
    ) -> None:
        try:
            if not self._sharded:
                _remove(temporary)
            temporary.mkdir(parents=True, exist_ok=True)
            self.model.save_pretrained(temporary, state_dict=weights)
            self.processor.save_pretrained(temporary)
            if not self._sharded:
                torch.save(training, temporary / "optimizer.pt")
            (temporary / "training_state.json").write_text(to_json(state))
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            manifest = {str(path.relative_to(temporary)): _checksum(path) for path in files}
            (temporary / _MANIFEST).write_text(json.dumps(manifest))
            for path in [*sorted(temporary.rglob("*")), temporary]:
                _flush(path)
            _remove(final)
            temporary.rename(final)
            _flush(self.folder)
            for old in self._superfluous():
                _remove(old)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            left = list_checkpoints(self.folder)
            last = f"the last good checkpoint is {left[-1]}" if left else "there is no checkpoint yet"
            raise OSError(f"{final.name} could not be saved ({error}); {last}.") from error

    def _superfluous(self) -> list[Path]:
        passing = [
            path
            for path in list_checkpoints(self.folder)
            if self.keep_steps is None or step_of(path) % self.keep_steps != 0
        ]
        return passing[: -self.save_total_limit]

    def find(self, resume: str) -> Path | None:
        """
        The checkpoint to go on from, the same in all processes.

        Args:
            resume: `"auto"`, the newest sound one; `"never"`; or a checkpoint's folder. Newer ones of this run are then
                set aside as `abandoned-STEP`, unless they are what became of that very folder in an earlier call.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If it is damaged, or if all checkpoints are.
        """
        answer: list[Any] = [None, None]
        if self.accelerator.is_main_process and resume != "never":
            try:
                answer[0] = self._find(resume)
            except (OSError, ValueError) as error:
                answer[1] = error
        if self.accelerator.num_processes > 1:
            broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def _find(self, resume: str) -> Path | None:
        checkpoints = list_checkpoints(self.folder)
        chosen = None
        if resume != "auto":
            chosen = Path(resume)
            if not chosen.is_dir():
                raise FileNotFoundError(f"There is no checkpoint {chosen}.")
            if (problem := damage_of(chosen)) is not None:
                raise ValueError(f"{chosen} is damaged ({problem}): name another one, or --resume auto.")
            if chosen.resolve().parent == self.folder.resolve():
                chosen = self.folder / chosen.name
            newest = checkpoints[-1] if checkpoints else None
            if newest and damage_of(newest) is None and _read_state(newest).get("resumed_from") == chosen.name:
                logger.info("%s came from %s in an earlier call.", newest, chosen)
                return newest
        else:
            for path in reversed(checkpoints):
                problem = damage_of(path)
                if problem is None:
                    chosen = path
                    break
                logger.warning("%s is damaged (%s): taking the one before.", path, problem)
            if checkpoints and chosen is None:
                problem = damage_of(checkpoints[-1])
                raise ValueError(
                    f"All checkpoints in {self.folder} are damaged, the newest because of {problem}: "
                    "choose another output_dir to start anew."
                )
        if chosen is not None and chosen.parent == self.folder:
            for newer in (path for path in checkpoints if step_of(path) > step_of(chosen)):
                aside = newer.with_name(f"{_ABANDONED}{step_of(newer):08d}")
                _remove(aside)
                newer.rename(aside)
                logger.warning("%s is set aside as %s.", newer.name, aside.name)
        return chosen

    def load(self, checkpoint: Path, resumed_explicitly: bool = False) -> dict[str, Any]:
        """
        Restores weights, optimizer and gradient scaler.

        Returns:
            The state of the other parts, and `step`.
        """
        state = _read_state(checkpoint)
        self.resumed_from = state.get("resumed_from")
        if resumed_explicitly:
            self.resumed_from = checkpoint.name
        if self._sharded:
            self.accelerator.load_state(str(checkpoint / "sharded"))
            return state
        weights = load_file(checkpoint / "model.safetensors")
        self.model.load_state_dict(weights, strict=True)
        training = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(training["optimizer"])
        if self.accelerator.scaler is not None and training["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        return state


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (path for path in folder.glob(f"{_NAME}*") if re.fullmatch(rf"{_NAME}\d+", path.name))
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 for a folder of another name."""
    match = re.fullmatch(rf"{_NAME}(\d+)", checkpoint.name)
    return int(match[1]) if match else -1


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or `None`. Reads all of them."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text())
        for name, checksum in manifest.items():
            if _checksum(checkpoint / name) != checksum:
                return f"{name} is not what was saved"
        _read_state(checkpoint)
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


def remove_unfinished(folder: Path) -> None:
    """Deletes what a kill in the middle of saving left."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_file_atomically(path: Path, text: str) -> None:
    """Replaces a small file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(path.name + _UNFINISHED)
    try:
        temporary.write_text(text)
        _flush(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {name: finite(entry) for name, entry in value.items()}
        return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value

    return json.dumps(finite(content), indent=indent, allow_nan=False)


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "training_state.json").read_text())


def _to_host(value: Any) -> Any:
    """A copy in the host's memory, which later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _to_host(entry) for name, entry in value.items()}
    return [_to_host(entry) for entry in value] if isinstance(value, list) else value


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()[:32]


def _remove(folder: Path) -> None:
    """Deletes a checkpoint; its name goes first, so that no half of it can be taken for a whole."""
    if folder.exists():
        doomed = folder.with_name(folder.name.removesuffix(_UNFINISHED) + _UNFINISHED)
        if doomed != folder:
            doomed = folder.with_name(f"old-{folder.name}{_UNFINISHED}")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
