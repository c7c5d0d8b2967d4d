"""The pre-training loop: `pretrain(config)` from shards to a folder that every Auto class loads."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoConfig

from ..allocation import keep_freed_memory
from ..models.configuration_farl import FaRLConfig
from ..models.modeling_farl import FaRLForPreTraining
from ..models.tokenization import build_processor
from .checkpointing import (
    list_checkpoints,
    load_checkpoint,
    remove_unfinished,
    save_checkpoint,
    write_file_atomically,
)
from .configuration import PretrainConfig
from .image_codebook import DALLE_REPOSITORY, load_image_codebook
from .image_views import ImageViews
from .laion_face import FAULTS, SHARD_FAULTS, Batch, ImageTextLoader, ImageTextStream
from .masking import BlockMaskGenerator
from .objective import PretrainingObjective, backward
from .probe import ZeroShotProbe
from .shards import count_samples, expand_shards
from .throughput import peak_flops, training_flops

logger = logging.getLogger(__name__)

# DALL-E's number of codes.
_DALLE_VOCABULARY = 8192
# A share of bad samples says little before this many were read.
_SAMPLES_BEFORE_JUDGING = 1000
# Settings that may differ between a run and its continuation.
_FREE_SETTINGS = {
    "output_dir", "max_bad_fraction", "logging_steps", "save_steps", "save_total_limit", "resume", "report_to",
    "progress_bar", "probe_folder", "probe_template", "probe_steps", "device", "gradient_checkpointing",
    "torch_compile",
}  # fmt: skip


@dataclass
class PretrainResult:
    """
    What a run left.

    Attributes:
        output_dir: The folder of the final model, its processor, the settings, checkpoints and `summary.json`.
        steps: Optimizer steps.
        samples: Good samples that were read.
        faults: Bad samples and shards by kind (see `laion_face.FAULTS`).
        history: One dict per log line: `step`, `epoch`, `loss`, `itc_loss`, `mim_loss`, `itc_accuracy`,
            `mim_accuracy`, `temperature`, `grad_norm`, `learning_rate`, `samples_per_second`, `data_wait` (share of the
            time), `bad_samples`, and `mfu` where the device's peak is known; or `step` and `zero_shot_accuracy`.
    """

    output_dir: Path
    steps: int
    samples: int
    faults: dict[str, int]
    history: list[dict[str, float]] = field(default_factory=list)


def pretrain(config: PretrainConfig) -> PretrainResult:
    """
    Pre-trains a FaRL model. Killed at any moment and called again with the same settings, it goes on from the newest
    checkpoint and ends, on one CPU process, with bit-identical weights. A finished run is not repeated.

    ```python
    >>> config = PretrainConfig.from_recipe("demo", train_shards=["shards/{00000..00003}.tar"], output_dir="farl-tiny")
    >>> result = pretrain(config)
    >>> model = AutoModel.from_pretrained(result.output_dir)
    ```

    Raises:
        FileNotFoundError: If no shard matches `train_shards`.
        ValueError: If settings contradict each other, the model, or the run that lies in `output_dir`.
        RuntimeError: If more than `max_bad_fraction` of the samples or shards is bad.
    """
    if not config.train_shards:
        raise ValueError("train_shards is empty: name tar or parquet shards.")
    output_dir = Path(config.output_dir)
    summary = output_dir / "summary.json"
    _check_earlier_run(config, output_dir)
    if summary.exists():
        return PretrainResult(**{**json.loads(summary.read_text()), "output_dir": output_dir})
    return _Run(config, output_dir).train()


def build_model(config: PretrainConfig) -> FaRLForPreTraining:
    """
    The model a run starts with: a preset from scratch, a FaRL folder, or a CLIP folder whose masked-image branch is
    fresh.
    """
    size = {} if config.image_size is None else {"image_size": config.image_size}
    if config.init_from is None:
        if config.image_codebook in ("dalle", DALLE_REPOSITORY):
            size["mim_vocab_size"] = _DALLE_VOCABULARY
        return FaRLForPreTraining(FaRLConfig.from_preset(config.preset, **size))
    source = AutoConfig.from_pretrained(config.init_from)
    if source.model_type == "clip":
        return FaRLForPreTraining.from_pretrained(config.init_from, config=config_from_clip(source), **size)
    return FaRLForPreTraining.from_pretrained(config.init_from, **size)


def config_from_clip(clip: Any) -> FaRLConfig:
    """The [`FaRLConfig`] of a `CLIPConfig`."""
    tower = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
    )
    text = (*tower, "vocab_size", "max_position_embeddings")
    vision = (*tower, "num_channels", "image_size", "patch_size")
    # Special tokens keep our defaults: many CLIP folders state wrong ones (an end token of 2).
    return FaRLConfig(
        text_config={name: getattr(clip.text_config, name) for name in text},
        vision_config={name: getattr(clip.vision_config, name) for name in vision},
        projection_dim=clip.projection_dim,
    )


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """
    Trainable parameters for AdamW. Without `decay_all` only matrices decay: norms, biases, position tables, class and
    mask token and the temperature do not.
    """
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and "position_embedding" not in name
            (decayed if decay_all or is_matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def learning_rate(step: int, config: PretrainConfig, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, then a cosine down to the end."""
    if step < warmup_steps:
        return config.start_learning_rate + (config.learning_rate - config.start_learning_rate) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.end_learning_rate + (config.learning_rate - config.end_learning_rate) * cosine


def _check_earlier_run(config: PretrainConfig, output_dir: Path) -> None:
    """Refuses to mix two runs in one folder."""
    settings_file = output_dir / "pretrain_config.yaml"
    if not settings_file.exists():
        return
    if config.resume == "never" and list_checkpoints(output_dir):
        raise ValueError(f"{output_dir} holds checkpoints of an earlier run: choose another output_dir or resume it.")
    earlier = yaml.safe_load(settings_file.read_text())
    for name, value in dataclasses.asdict(config).items():
        if name not in _FREE_SETTINGS and name in earlier and earlier[name] != value:
            raise ValueError(
                f"{output_dir} holds a run with {name}={earlier[name]!r}, not {value!r}: choose another output_dir, or "
                "the same settings to go on."
            )


class _Run:
    """One call of [`pretrain`]: what lasts from step to step."""

    def __init__(self, config: PretrainConfig, output_dir: Path):
        self.config, self.output_dir = config, output_dir
        self.accelerator = accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.mixed_precision,
            log_with=config.report_to or None,
            project_dir=str(output_dir),
            step_scheduler_with_optimizer=False,
        )
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        if accelerator.is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            remove_unfinished(output_dir)
            config.save_yaml(output_dir / "pretrain_config.yaml")
        torch.manual_seed(config.seed)
        model = build_model(config)
        self.model_config = model.config
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
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=accelerator.device.type == "cuda",
        )
        self.model = model
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.objective.train()
        self.processor = build_processor(model.config.image_size)
        self._build_data()
        self._plan_steps()
        self.probe = None
        if config.probe_folder is not None:
            if config.itc_weight == 0:
                raise ValueError(
                    "A zero-shot probe needs the contrastive branch: leave probe_folder or set itc_weight."
                )
            self.probe = ZeroShotProbe(
                config.probe_folder, config.probe_template, self.processor.tokenizer, model.config.image_size
            )
        # A new generator would start the patches that are dropped anew in each process; equal ones would repeat.
        torch.manual_seed(config.seed + accelerator.process_index)
        self.step, self.history = 0, []
        self._resume()

    def _build_data(self) -> None:
        config, vision = self.config, self.model_config.vision_config
        grid = vision.image_size // vision.patch_size
        self.codebook, codebook_size = None, None
        if config.mim_weight > 0 and config.image_codebook != "stored":
            self.codebook = load_image_codebook(
                config.image_codebook, self.model_config.mim_vocab_size, vision.image_size, vision.patch_size
            ).to(self.accelerator.device)
            codebook_size = self.codebook.view_size if self.codebook.view_size != vision.image_size else None
        self.shards = expand_shards(config.train_shards)
        stream = ImageTextStream(
            self.shards,
            self.processor.tokenizer,
            ImageViews(
                vision.image_size,
                codebook_size,
                crop_scale=tuple(config.crop_scale),
                flip=config.horizontal_flip,
                face_crop_scale=None if config.face_crop_scale is None else tuple(config.face_crop_scale),
            ),
            config.batch_size,
            mask_generator=BlockMaskGenerator.for_grid(grid) if config.mim_weight > 0 else None,
            seed=config.seed,
            num_epochs=config.num_epochs if config.max_steps is None else None,
            shuffle_block=config.shuffle_block,
            fix_captions=config.fix_captions,
            stored_codes=config.mim_weight > 0 and config.image_codebook == "stored",
            pad_captions=config.torch_compile,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        self.loader = ImageTextLoader(stream, config.num_workers, pin_memory=self.accelerator.device.type == "cuda")

    def _plan_steps(self) -> None:
        """Length of the schedule. Without `max_steps` the run itself ends with the data."""
        config = self.config
        self.samples_per_step = config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes
        needed = config.max_steps is None or config.warmup_steps is None
        samples = config.samples_per_epoch
        if needed and samples is None:
            counts = [count_samples(shard) for shard in self.shards]
            if config.max_steps is None and not any(counts):
                raise ValueError(
                    "The number of samples in the shards cannot be told: give samples_per_epoch or max_steps."
                )
            samples = sum(count or 0 for count in counts)
        self.total_steps = config.max_steps or math.ceil(samples * config.num_epochs / self.samples_per_step)
        self.warmup_steps = config.warmup_steps
        if self.warmup_steps is None:
            self.warmup_steps = round(samples * config.warmup_epochs / self.samples_per_step)

    def _resume(self) -> None:
        config = self.config
        if config.resume == "never":
            return
        checkpoints = list_checkpoints(self.output_dir) if config.resume == "auto" else [Path(config.resume)]
        if not checkpoints:
            return
        if not checkpoints[-1].is_dir():
            raise FileNotFoundError(f"There is no checkpoint {checkpoints[-1]}.")
        state, position = load_checkpoint(self.accelerator, checkpoints[-1])
        self.step, self.history = state["step"], state["history"]
        self.loader.load_state_dict(position)
        logger.info("Going on from %s.", checkpoints[-1])

    def train(self) -> PretrainResult:
        config, accelerator = self.config, self.accelerator
        if config.report_to:
            scalars = {k: v for k, v in dataclasses.asdict(config).items() if isinstance(v, int | float | str)}
            accelerator.init_trackers("pretraining", config=scalars)
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc="Pre-training",
            unit="step",
            disable=not (config.progress_bar and accelerator.is_main_process),
        )
        window = _Window()
        saved = self.step
        batches = self._step_batches()
        while config.max_steps is None or self.step < config.max_steps:
            waited = time.perf_counter()
            step_batches = next(batches, None)
            if step_batches is None:
                break
            window.data_wait += time.perf_counter() - waited
            self._train_step(step_batches, window)
            self.step += 1
            bar.update()
            if self.step % config.logging_steps == 0 or self.step == config.max_steps:
                entry = self._log(window)
                shown = ("loss", "itc_accuracy", "mim_accuracy", "samples_per_second", "bad_samples")
                bar.set_postfix({name: f"{entry[name]:.4g}" for name in shown if name in entry})
                window = _Window()
            if self.probe is not None and self.step % config.probe_steps == 0:
                self._run_probe()
            if self.step % config.save_steps == 0:
                self._save()
                saved = self.step
        if window.steps:
            self._log(window)
        batches.close()
        bar.close()
        if self.probe is not None and self.step % config.probe_steps != 0:
            self._run_probe()
        if saved != self.step:
            self._save()
        self._check_faults(final=True)
        return self._finish()

    def _step_batches(self) -> Iterator[list[Batch]]:
        """The batches of each step, on the device. Ends when the data does, in all processes at once."""
        config, accelerator = self.config, self.accelerator
        loader = iter(self.loader)
        while True:
            batches = []
            for batch in loader:
                batches.append({name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()})
                if len(batches) == config.gradient_accumulation_steps:
                    break
            if accelerator.num_processes > 1 and config.max_steps is None:
                # The global batch has equal shares: what is left of it in single processes is not used.
                share = sum(len(batch["pixels"]) for batch in batches)
                full = share == config.batch_size * config.gradient_accumulation_steps
                flag = torch.tensor(int(full), device=accelerator.device)
                torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
                if not flag:
                    return
            if not batches:
                return
            yield batches

    def _train_step(self, batches: list[Batch], window: _Window) -> None:
        config, accelerator = self.config, self.accelerator
        rate = learning_rate(self.step, config, self.total_steps, self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        drops = config.patch_drop_ratio > 0 and self.step < (1 - config.patch_drop_tail) * self.total_steps
        metrics = backward(
            accelerator,
            self.objective,
            batches,
            self.codebook,
            config.contrastive_chunk_size,
            config.patch_drop_ratio if drops else 0.0,
        )
        max_norm = config.max_grad_norm if config.max_grad_norm is not None else math.inf
        metrics["grad_norm"] = accelerator.clip_grad_norm_(self.objective.parameters(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if config.max_logit_scale is not None:
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=math.log(config.max_logit_scale))
        window.add(metrics, batches)

    def _log(self, window: _Window) -> dict[str, float]:
        """Means over the steps and processes of a window."""
        config, accelerator = self.config, self.accelerator
        faults = self._check_faults()
        entry: dict[str, float] = {"step": self.step, "epoch": self.loader.epoch}
        means = {name: accelerator.reduce(total / window.steps, "mean").item() for name, total in window.totals.items()}
        seconds = time.perf_counter() - window.start
        entry["loss"] = config.itc_weight * means.get("itc_loss", 0.0) + config.mim_weight * means.get("mim_loss", 0.0)
        entry.update(means)
        scale = self.model.logit_scale.detach()
        scale = scale.full_tensor() if hasattr(scale, "full_tensor") else scale
        entry["temperature"] = math.exp(-scale.item())
        entry["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        entry["samples_per_second"] = window.samples * accelerator.num_processes / seconds
        entry["data_wait"] = window.data_wait / seconds
        entry["bad_samples"] = sum(count for kind, count in faults.items() if kind not in SHARD_FAULTS)
        entry["bad_shards"] = sum(count for kind, count in faults.items() if kind in SHARD_FAULTS)
        peak = peak_flops(accelerator.device, config.mixed_precision)
        if peak is not None:
            length = window.caption_tokens / window.samples
            flops = training_flops(self.model_config, length, config.itc_weight > 0, config.mim_weight > 0)
            entry["mfu"] = flops * window.samples / seconds / peak
        self._record(entry)
        return entry

    def _run_probe(self) -> None:
        self._record({"step": self.step, "zero_shot_accuracy": self.probe(self.accelerator, self.objective)})

    def _record(self, entry: dict[str, float]) -> None:
        self.history.append(entry)
        logger.info("%s", ", ".join(f"{name} {value:.5g}" for name, value in entry.items()))
        self.accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=self.step)

    def _check_faults(self, final: bool = False) -> dict[str, int]:
        """Faults of all processes by kind. Raises [`RuntimeError`] where they are too many."""
        limit = self.config.max_bad_fraction
        counts = [self.loader.good, *(self.loader.faults.get(kind, 0) for kind in FAULTS)]
        self.good_samples, *by_kind = self.accelerator.reduce(
            torch.tensor(counts, device=self.accelerator.device), "sum"
        ).tolist()
        faults = {kind: count for kind, count in zip(FAULTS, by_kind, strict=True) if count}
        bad_shards = sum(faults.get(kind, 0) for kind in SHARD_FAULTS)
        bad_samples = sum(faults.values()) - bad_shards
        seen = self.good_samples + bad_samples
        too_many = (final or seen >= _SAMPLES_BEFORE_JUDGING) and bad_samples > limit * seen
        if too_many or bad_shards > limit * len(self.shards) * (self.loader.epoch + 1):
            raise RuntimeError(
                f"Over max_bad_fraction={limit} of the data is bad: {seen} samples and {len(self.shards)} shards, of "
                f"them bad {faults}. Check the shards (scripts/prepare_laion_face.py verify)."
            )
        return faults

    def _save(self) -> None:
        save_checkpoint(
            self.accelerator,
            self.output_dir,
            self.step,
            {"history": self.history},
            self.loader.state_dict(),
            self.config.save_total_limit,
        )

    def _finish(self) -> PretrainResult:
        """Writes the final model, and last the summary that marks the run as finished."""
        accelerator = self.accelerator
        faults = self._check_faults()
        weights = {
            name.removeprefix("model."): value for name, value in accelerator.get_state_dict(self.objective).items()
        }
        if accelerator.is_main_process:
            weights["logit_scale"] = weights["logit_scale"].reshape(())
            self.model.save_pretrained(self.output_dir, state_dict=weights)
            self.processor.save_pretrained(self.output_dir)
        result = PretrainResult(self.output_dir, self.step, self.good_samples, faults, self.history)
        if accelerator.is_main_process:
            summary = {**dataclasses.asdict(result), "output_dir": str(self.output_dir)}
            write_file_atomically(self.output_dir / "summary.json", json.dumps(summary, indent=1))
            for kind, count in faults.items():
                logger.warning("%d %s (%s) were skipped.", count, FAULTS[kind], kind)
        accelerator.wait_for_everyone()
        if self.config.report_to:
            accelerator.end_training()
        return result


class _Window:
    """Sums between two log lines. Metrics stay on the device until they are logged."""

    def __init__(self):
        self.totals: dict[str, torch.Tensor] = defaultdict(float)
        self.steps = self.samples = self.caption_tokens = 0
        self.data_wait = 0.0
        self.start = time.perf_counter()

    def add(self, metrics: dict[str, torch.Tensor], batches: list[Batch]) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals[name] + torch.as_tensor(value).detach()
        self.steps += 1
        self.samples += sum(len(batch["pixels"]) for batch in batches)
        self.caption_tokens += sum(batch["input_ids"].numel() for batch in batches)
