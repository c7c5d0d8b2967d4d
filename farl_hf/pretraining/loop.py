"""The pre-training loop: `pretrain(config)` from shards to a folder that every Auto class loads."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from tqdm.auto import tqdm

from ..allocation import keep_freed_memory
from ..models.tokenization import build_processor
from .building import build_model, parameter_groups
from .checkpointing import Checkpoints, list_checkpoints, remove_unfinished, to_json, write_file_atomically
from .configuration import PretrainConfig
from .fault_account import FaultAccount
from .image_codebook import load_image_codebook
from .image_views import ImageViews
from .laion_face import dataset_shards, open_dataset
from .masking import BlockMaskGenerator
from .objective import PretrainingObjective, backward, split_batch
from .probe import ZeroShotProbe
from .records import Records
from .schedule import plan_schedule
from .shards import expand_shards
from .stability import Stability
from .stopping import RunStopped, StopRequest
from .stream import Batch, ImageTextLoader, ImageTextStream, Processes, Shard
from .throughput import codebook_flops, peak_flops, training_flops

logger = logging.getLogger(__name__)

# Settings that may differ between a run and its continuation: they change nothing, or are checked otherwise (the global
# batch and the shards with the position in the data).
_FREE_SETTINGS = {
    "output_dir", "max_bad_fraction", "logging_steps", "save_steps", "save_total_limit", "keep_steps", "resume",
    "report_to", "progress_bar", "probe_folder", "probe_template", "probe_steps", "device", "gradient_checkpointing",
    "torch_compile", "batch_size", "global_batch_size", "gradient_accumulation_steps", "contrastive_chunk_size",
    "num_workers", "train_shards", "max_skipped_steps",
}  # fmt: skip


@dataclass
class PretrainResult:
    """
    What a run left.

    Attributes:
        output_dir: The folder of the final model, its processor, the settings, checkpoints, `bad_samples.jsonl` and
            `summary.json`.
        steps: Optimizer steps.
        samples: Good samples that were read.
        faults: Bad samples and shards by kind (see `faults.FAULTS`).
        history: One dict per log line: `step`, `epoch`, `loss`, `itc_loss`, `mim_loss`, `itc_accuracy`,
            `mim_accuracy`, `temperature`, `grad_norm` (before clipping), `learning_rate`, `samples_per_second`,
            `data_wait` (share of the time), `caption_length` in tokens, `bad_samples`, `bad_shards`, `skipped_steps`,
            `loss_spikes`, and `mfu` where the device's peak is known; or `step` and `zero_shot_accuracy`.
        bad_shards: Kind and path of bad shards, the first hundred.
        skipped_steps: Steps whose loss or gradient was not finite.
    """

    output_dir: Path
    steps: int
    samples: int
    faults: dict[str, int]
    history: list[dict[str, float]] = field(default_factory=list)
    bad_shards: list[list[str]] = field(default_factory=list)
    skipped_steps: int = 0


def pretrain(
    config: PretrainConfig, dataset: datasets.IterableDataset | datasets.Dataset | None = None
) -> PretrainResult:
    """
    Pre-trains a FaRL model. Killed at any moment and called again with the same settings, it goes on from the newest
    checkpoint and ends, on CPU, with bit-identical weights. A finished run is not repeated.

    ```python
    >>> config = PretrainConfig.from_recipe("demo", train_shards=["shards/{00000..00003}.tar"], output_dir="farl-tiny")
    >>> result = pretrain(config)
    >>> model = AutoModel.from_pretrained(result.output_dir)
    ```

    Args:
        config: The settings.
        dataset: Images and texts to read instead of `config.train_shards` and `config.train_dataset`.

    Raises:
        FileNotFoundError: If no shard matches `train_shards`.
        ValueError: If settings contradict each other, the model, or the run that lies in `output_dir`.
        OSError: If `output_dir` cannot be written; the last good checkpoint stays whole.
        RuntimeError: If more than `max_bad_fraction` of the samples or shards is bad, or if the loss stays not finite.
        RunStopped: After SIGTERM or SIGUSR1, when the state is saved.
    """
    if dataset is None and bool(config.train_shards) == (config.train_dataset is not None):
        raise ValueError("Name what to read: either train_shards (tar or parquet) or train_dataset.")
    output_dir = Path(config.output_dir)
    summary = output_dir / "summary.json"
    _check_earlier_run(config, output_dir)
    # A checkpoint named by its folder is taken up even if a run ended there; "auto" has nothing left to do then.
    if summary.exists() and config.resume in ("auto", "never"):
        return PretrainResult(**{**json.loads(summary.read_text()), "output_dir": output_dir})
    return Pretraining(config, dataset).run()


class Pretraining:
    """A run: its model, its data, and the parts that last from step to step."""

    def __init__(self, config: PretrainConfig, dataset: datasets.IterableDataset | datasets.Dataset | None = None):
        self.config, self.output_dir = config, Path(config.output_dir)
        precision = None if config.mixed_precision == "auto" else config.mixed_precision
        self.accelerator = accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=precision,
            log_with=config.report_to or None,
            project_dir=str(self.output_dir),
            step_scheduler_with_optimizer=False,
        )
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        self.step = 0
        shards, samples = _what_to_read(config, dataset)
        self._build_model()
        self.loader = self._build_loader(shards)
        self.global_batch_size = self.loader.stream.batch_size * accelerator.num_processes
        self.schedule = plan_schedule(config, shards, self.global_batch_size, samples)
        self.probe = None
        if config.probe_folder is not None:
            if config.itc_weight == 0:
                raise ValueError(
                    "A zero-shot probe needs the contrastive branch: leave probe_folder or set itc_weight."
                )
            self.probe = ZeroShotProbe(
                config.probe_folder, config.probe_template, self.processor.tokenizer, self.model.config.image_size
            )
        self.records = Records(config, accelerator)
        self.stability = Stability(config.max_skipped_steps)
        self.faults = FaultAccount(self.loader, self.output_dir / "bad_samples.jsonl", config.max_bad_fraction)
        self.checkpoints = Checkpoints(
            accelerator,
            self.output_dir,
            self.objective,
            self.model,
            self.optimizer,
            self.processor,
            config.save_total_limit,
            config.keep_steps,
        )
        # What has a state beside weights and optimizer.
        self.parts: dict[str, Any] = {
            "data": self.loader,
            "records": self.records,
            "stability": self.stability,
            "faults": self.faults,
        }
        self._prepare_folder()
        self._resume()

    def run(self) -> PretrainResult:
        """Trains up to the end, and writes the final model."""
        config, saved = self.config, self.step
        self.records.start(self.step)
        batches = self._step_batches()
        with StopRequest() as stop, self._progress_bar() as bar:
            while config.max_steps is None or self.step < config.max_steps:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                self.records.waited(time.perf_counter() - began)
                stopping = self._train_step(batch, stop.received)
                self.step += 1
                bar.update()
                if self.step % config.logging_steps == 0 or self.step == config.max_steps:
                    self._log(bar)
                if self.probe is not None and self.step % config.probe_steps == 0:
                    self._run_probe()
                if self.step % config.save_steps == 0 or stopping:
                    self._save()
                    saved = self.step
                if stopping:
                    batches.close()
                    self._stop()
                self.checkpoints.raise_failure()
            batches.close()
            if not self.records.empty:
                self._log(bar)
            if self.probe is not None and self.step % config.probe_steps != 0:
                self._run_probe()
            if saved != self.step:
                self._save()
            self.faults.update(final=True)
            return self._finish()

    def _step_batches(self) -> Generator[Batch]:
        """This process's share of each global batch, on the device. Ends with the data, in all processes at once."""
        for batch in self.loader:
            yield {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def _train_step(self, batch: Batch, stop_requested: bool) -> bool:
        """Takes an optimizer step. Returns whether any process was asked to stop."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step)
        drops = config.patch_drop_ratio > 0 and self.step < (1 - config.patch_drop_tail) * self.schedule.total_steps
        # Which patches are dropped is a function of seed, step and process: no random state needs saving.
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 65_537 + accelerator.process_index)
        metrics = backward(
            accelerator,
            self.objective,
            split_batch(batch, config.batch_size),
            self.codebook,
            config.contrastive_chunk_size,
            config.patch_drop_ratio if drops else 0.0,
        )
        max_norm = config.max_grad_norm if config.max_grad_norm is not None else math.inf
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), max_norm)
        metrics["grad_norm"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        means, stopping = self._mean_over_processes(metrics, stop_requested)
        means["loss"] = config.itc_weight * means.get("itc_loss", 0.0) + config.mim_weight * means.get("mim_loss", 0.0)
        try:
            usable = self.stability.accepts(self.step + 1, means["loss"], means)
        except RuntimeError as error:
            self.checkpoints.wait()
            saved = list_checkpoints(self.output_dir)
            raise RuntimeError(f"{error} The last good checkpoint: {saved[-1] if saved else 'none'}.") from error
        # The gradient scaler of fp16 leaves out such a step by itself, and lowers its scale.
        if usable or accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if config.max_logit_scale is not None:
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=math.log(config.max_logit_scale))
        samples, tokens = (accelerator.num_processes * n for n in (len(batch["pixels"]), batch["input_ids"].numel()))
        self.records.add(means if usable else None, samples, tokens)
        return stopping

    def _mean_over_processes(
        self, metrics: dict[str, torch.Tensor], stop_requested: bool
    ) -> tuple[dict[str, float], bool]:
        """Means of the metrics, and whether any process was asked to stop: one exchange and one wait a step."""
        stop = torch.tensor(float(stop_requested), device=self.accelerator.device)
        values = torch.stack([*(torch.as_tensor(value).detach().to(stop) for value in metrics.values()), stop])
        *means, stopping = self.accelerator.reduce(values, "mean").tolist()
        return dict(zip(metrics, means, strict=True)), stopping > 0

    def _log(self, bar: tqdm) -> None:
        config = self.config
        self.faults.update()
        entry = self.records.close_window(self.step, self.loader.epoch)
        scale = self.model.logit_scale.detach()
        scale = scale.full_tensor() if hasattr(scale, "full_tensor") else scale
        entry["temperature"] = math.exp(-scale.item())
        entry["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        entry["bad_samples"], entry["bad_shards"] = self.faults.bad_samples, self.faults.bad_shard_count
        entry["skipped_steps"], entry["loss_spikes"] = self.stability.skipped, self.stability.spikes
        peak = peak_flops(self.accelerator.device, self.accelerator.mixed_precision)
        if peak is not None:
            flops = codebook_flops(self.codebook) + training_flops(
                self.model.config, entry["caption_length"], config.itc_weight > 0, config.mim_weight > 0
            )
            entry["mfu"] = flops * entry["samples_per_second"] / self.accelerator.num_processes / peak
        self.records.write(entry)
        shown = ("loss", "itc_accuracy", "mim_accuracy", "samples_per_second", "bad_samples")
        bar.set_postfix({name: f"{entry[name]:.4g}" for name in shown if name in entry})

    def _run_probe(self) -> None:
        assert self.probe is not None
        accuracy = self.probe(self.accelerator, self.objective)
        self.records.write({"step": self.step, "zero_shot_accuracy": accuracy})

    def _save(self) -> None:
        self.faults.update()
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        self.checkpoints.save(self.step, {**state, "global_batch_size": self.global_batch_size})

    def _resume(self) -> None:
        checkpoint = self.checkpoints.find(self.config.resume)
        if checkpoint is None:
            return
        explicit = self.config.resume != "auto" and checkpoint.name == Path(self.config.resume).name
        state = json.loads((checkpoint / "training_state.json").read_text())
        if state["global_batch_size"] != self.global_batch_size:
            raise ValueError(
                f"{checkpoint} was saved with a global batch of {state['global_batch_size']} samples, and these "
                f"{self.accelerator.num_processes} processes have {self.global_batch_size}: set global_batch_size="
                f"{state['global_batch_size']} and a batch_size that divides it by the number of processes."
            )
        self.checkpoints.load(checkpoint, explicit)
        self.step = state["step"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if self.accelerator.is_main_process:
            logger.info("Going on from %s.", checkpoint)

    def _stop(self) -> None:
        self.checkpoints.wait()
        self.accelerator.wait_for_everyone()
        self.records.end()
        raise RunStopped(f"Stopped at step {self.step} as asked; the same command goes on from there.")

    def _finish(self) -> PretrainResult:
        """Writes the final model, and last the summary that marks the run as finished."""
        accelerator = self.accelerator
        self.checkpoints.wait()
        weights = self.checkpoints.weights()
        result = PretrainResult(
            self.output_dir,
            self.step,
            self.loader.good,
            dict(self.faults.counts),
            self.records.history,
            self.faults.bad_shards,
            self.stability.skipped,
        )
        if accelerator.is_main_process:
            self.model.save_pretrained(self.output_dir, state_dict=weights)
            self.processor.save_pretrained(self.output_dir)
            summary = {**dataclasses.asdict(result), "output_dir": str(self.output_dir)}
            write_file_atomically(self.output_dir / "summary.json", to_json(summary, indent=1))
            self.faults.finish()
            if self.loader.left_out:
                logger.warning("%d samples at the very end could not be shared out.", self.loader.left_out)
        accelerator.wait_for_everyone()
        self.records.end()
        return result

    def _prepare_folder(self) -> None:
        if self.accelerator.is_main_process:
            try:
                self.output_dir.mkdir(parents=True, exist_ok=True)
                remove_unfinished(self.output_dir)
                settings = yaml.safe_dump(dataclasses.asdict(self.config), sort_keys=False, allow_unicode=True)
                write_file_atomically(self.output_dir / "pretrain_config.yaml", settings)
            except OSError as error:
                raise OSError(f"{self.output_dir} cannot be written ({error}): choose another output_dir.") from error
        self.accelerator.wait_for_everyone()

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.schedule.total_steps,
            initial=self.step,
            desc="Pre-training",
            unit="step",
            disable=not (self.config.progress_bar and self.accelerator.is_main_process),
        )

    def _build_model(self) -> None:
        config, accelerator = self.config, self.accelerator
        torch.manual_seed(config.seed)
        self.model = model = build_model(config)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if config.torch_compile:
            model.vision_model.compile()
            model.text_model.compile()
        if accelerator.distributed_type == DistributedType.FSDP:
            # FSDP shards no scalars.
            model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(1))
        objective = PretrainingObjective(model, config.itc_weight, config.mim_weight)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay, config.decay_all),
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=accelerator.device.type == "cuda",
        )
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.objective.train()
        self.processor = build_processor(model.config.image_size, model.config.text_config.vocab_size)

    def _build_loader(self, shards: list[str | Shard]) -> ImageTextLoader:
        config, accelerator, vision = self.config, self.accelerator, self.model.config.vision_config
        self.codebook, codebook_size = None, None
        if config.mim_weight > 0 and config.image_codebook != "stored":
            self.codebook = load_image_codebook(
                config.image_codebook, self.model.config.mim_vocab_size, vision.image_size, vision.patch_size
            ).to(accelerator.device)
            if config.torch_compile:
                self.codebook.compile()
            codebook_size = self.codebook.view_size if self.codebook.view_size != vision.image_size else None
        views = ImageViews(
            vision.image_size,
            codebook_size,
            crop_scale=_pair(config.crop_scale),
            flip=config.horizontal_flip,
            face_crop_scale=None if config.face_crop_scale is None else _pair(config.face_crop_scale),
        )
        grid = vision.image_size // vision.patch_size
        stream = ImageTextStream(
            shards,
            self.processor.tokenizer,
            views,
            config.batch_size * config.accumulation_steps(accelerator.num_processes),
            mask_generator=BlockMaskGenerator.for_grid(grid) if config.mim_weight > 0 else None,
            seed=config.seed,
            num_epochs=config.num_epochs if config.max_steps is None else None,
            shuffle_block=config.shuffle_block,
            open_shards=config.open_shards,
            fix_captions=config.fix_captions,
            stored_codes=config.mim_weight > 0 and config.image_codebook == "stored",
            pad_captions=config.torch_compile,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        on_cuda = accelerator.device.type == "cuda"
        return ImageTextLoader(stream, config.num_workers, on_cuda, Processes(accelerator.device))


def _what_to_read(
    config: PretrainConfig, dataset: datasets.IterableDataset | datasets.Dataset | None
) -> tuple[list[str | Shard], int | None]:
    """The shards, and the number of samples in all of them where the data set says it."""
    if dataset is None and config.train_dataset is None:
        return [*expand_shards(config.train_shards)], None
    name = config.train_dataset or "dataset"
    if dataset is None:
        dataset = open_dataset(name, config.train_dataset_config, config.split)
    columns = dict(column.split("=", 1) for column in config.columns)
    samples = len(dataset) if isinstance(dataset, datasets.Dataset) else None
    if samples is None and config.train_dataset is not None and config.split in (dataset.info.splits or {}):
        samples = dataset.info.splits[config.split].num_examples or None
    return [*dataset_shards(dataset, columns, name)], samples


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return low, high


def _check_earlier_run(config: PretrainConfig, output_dir: Path) -> None:
    """Refuses to mix two runs in one folder. What left nothing to go on from is no run."""
    checkpoints = list_checkpoints(output_dir)
    if not checkpoints and not (output_dir / "summary.json").exists():
        return
    if config.resume == "never" and checkpoints:
        raise ValueError(f"{output_dir} holds checkpoints of an earlier run: choose another output_dir or resume it.")
    try:
        earlier = yaml.safe_load((output_dir / "pretrain_config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        earlier = None
    if not isinstance(earlier, dict):
        logger.warning("%s/pretrain_config.yaml cannot be read: trusting that the settings are the same.", output_dir)
        return
    for name, value in dataclasses.asdict(config).items():
        if name not in _FREE_SETTINGS and name in earlier and earlier[name] != value:
            raise ValueError(
                f"{output_dir} holds a run with {name}={earlier[name]!r}, not {value!r}: choose another output_dir, or "
                "the same settings to go on."
            )
