"""
The training of farl-tiny: one tower with all its heads on generated faces, by the clock, in stages that a killed run
goes on from.
"""

import csv
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from farl_hf.allocation import keep_freed_memory
from farl_hf.finetuning.augmentation import SYNTHETIC_AUGMENTATION, AugmentationConfig
from farl_hf.finetuning.ema import ExponentialMovingAverage
from farl_hf.finetuning.joint import JointBatch, JointFaRL, JointLossWeights
from farl_hf.models.configuration_farl import FaRLConfig

from .tiny_data import DrawnFaces, JointBatches
from .tiny_scores import score_family


@dataclass(frozen=True)
class Stage:
    """
    A part of the training.

    Args:
        name: In the log.
        size: Side of the crops in pixels.
        minutes: Of training, without evaluation.
        tasks: Whether the tasks are learnt, or only captions and masked patches (the paper's pre-training).
        masked_share: Share of each batch that has a masked copy.
        augmentation: Of the crops.
    """

    name: str
    size: int
    minutes: float
    tasks: bool = True
    masked_share: float = 0.125
    augmentation: AugmentationConfig = SYNTHETIC_AUGMENTATION


@dataclass(frozen=True)
class TinyTraining:
    """
    Settings of a run.

    Args:
        stages: One after another.
        batch_size: Faces per step.
        tower_lr, head_lr: Peak learning rates.
        weight_decay: Of matrices and convolutions; vectors have none.
        warmup_steps: At the start of each stage.
        clip: Largest norm of the gradient.
        ema_decay: Of the averaged weights, which are the result; they follow faster at the start.
        score_minutes: Between two looks at the held-out faces.
        seed: Of the weights and the batches.
        device: `cpu` or `cuda`.
    """

    stages: tuple[Stage, ...]
    batch_size: int = 32
    tower_lr: float = 1e-3
    head_lr: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    clip: float = 1.0
    ema_decay: float = 0.999
    score_minutes: float = 10.0
    seed: int = 0
    device: str = "cpu"

    @property
    def minutes(self) -> float:
        """Of all stages."""
        return sum(stage.minutes for stage in self.stages)


class TinyRun:
    """
    A run in a folder: `state.pt` to go on from (also past its end, if the settings have more minutes than it had), and
    `curve.csv` (one row per fifty steps and per look at held-out faces).

    Args:
        settings: Of the run.
        train, held_out: Faces to learn from and to score by.
        folder: Of the run.
    """

    def __init__(self, settings: TinyTraining, train: DrawnFaces, held_out: DrawnFaces, folder: str | Path):
        self.settings, self.train_faces, self.held_out = settings, train, held_out
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        config = FaRLConfig.from_preset("farl-tiny", image_size=settings.stages[0].size)
        self.joint = JointFaRL(config, train.attributes, JointLossWeights()).to(settings.device)
        if settings.device == "cpu":
            keep_freed_memory()
            # Measured: a step in bfloat16 at 96 px takes 2.4 s in place of 3.5.
            self.joint.dual.set_attn_implementation("eager")
        self.ema = ExponentialMovingAverage(self.joint, settings.ema_decay)
        self.stage, self.step, self.stage_step, self.stage_seconds, self.seconds = 0, 0, 0, 0.0, 0.0
        self.seen, self.skipped = 0, 0
        self.optimizer = self._new_optimizer()
        if self.state_path.is_file():
            self._load()

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    def _new_optimizer(self) -> torch.optim.AdamW:
        settings, groups = self.settings, []
        for name, parameters, lr in (
            ("tower", self.joint.tower_parameters(), settings.tower_lr),
            ("head", self.joint.head_parameters(), settings.head_lr),
        ):
            for decayed in (True, False):
                chosen = [p for p in parameters if (p.ndim > 1) == decayed]
                decay = settings.weight_decay if decayed else 0.0
                groups.append({"name": name, "params": chosen, "peak": lr, "lr": lr, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def run(self) -> JointFaRL:
        """Trains to the end and returns the model with averaged weights."""
        while self.stage < len(self.settings.stages):
            if self.stage_step == 0:
                self._enter_stage()
            self._run_stage()
            self.stage += 1
            self.stage_step, self.stage_seconds = 0, 0.0
            self._save()
        self.ema.copy_to(self.joint)
        return self.joint.eval()

    def _enter_stage(self) -> None:
        size = self.settings.stages[self.stage].size
        if size != self.joint.config.image_size:
            # The averaged position table is resized alike.
            self.joint.dual.resize_position_embeddings(size)
            average = ExponentialMovingAverage(self.joint, self.settings.ema_decay)
            kept = {k: v for k, v in self.ema.average.items() if v.shape == average.average[k].shape}
            average.average.update(kept)
            self.ema = average
        self.optimizer = self._new_optimizer()

    def _run_stage(self) -> None:
        settings, stage = self.settings, self.settings.stages[self.stage]
        vision = self.joint.config.vision_config
        batches = JointBatches(
            self.train_faces,
            stage.size,
            vision.patch_size,
            self.joint.config.mim_vocab_size,
            settings.batch_size,
            stage.masked_share,
            settings.seed,
            stage.augmentation,
        )
        total = stage.minutes * 60
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} min"
        done = self.stage_seconds / 60
        bar = tqdm(total=stage.minutes, initial=done, desc=stage.name, bar_format=layout, mininterval=20)
        looked = self.stage_seconds
        logged: dict[str, list[float]] = {}
        # The next batch is made in a thread while this one is learnt from.
        worker = ThreadPoolExecutor(1)
        coming = worker.submit(self._read, batches, self.step)
        start = time.perf_counter()
        while self.stage_seconds < total:
            batch = coming.result()
            coming = worker.submit(self._read, batches, self.step + 1)
            losses = self._train_step(batch, stage)
            now = time.perf_counter()
            elapsed, start = now - start, now
            self.stage_seconds += elapsed
            self.seconds += elapsed
            self.step += 1
            self.stage_step += 1
            self.seen += settings.batch_size
            bar.update(elapsed / 60)
            for name, value in losses.items():
                logged.setdefault(name, []).append(value)
            if self.step % 50 == 0:
                row = {name: round(sum(values) / len(values), 4) for name, values in logged.items()}
                self._log({"stage": stage.name, "faces": len(self.train_faces), **row})
                logged = {}
            if self.stage_seconds - looked > settings.score_minutes * 60:
                looked = self.stage_seconds
                self._save()
                self.look(stage.name)
                start = time.perf_counter()
        bar.close()
        worker.shutdown()
        self._save()
        self.look(stage.name)

    def _read(self, batches: JointBatches, step: int) -> JointBatch:
        if step % 20 == 0:
            self.train_faces.refresh()
        return batches.batch(step)

    def _train_step(self, batch: JointBatch, stage: Stage) -> dict[str, float]:
        settings = self.settings
        self._set_rates()
        self.joint.train()
        device = settings.device
        batch = JointBatch(
            **{
                name: {n: p.to(device) for n, p in value.items()} if isinstance(value, dict) else value.to(device)
                for name, value in vars(batch).items()
            }
        )
        with torch.autocast(device, dtype=torch.bfloat16):
            losses = self.joint(batch, self.step, stage.tasks)
        if not torch.isfinite(losses["loss"]):
            self.skipped += 1
            print(f"step {self.step}: the loss is {losses['loss'].item()}; skipped, {self.skipped} in all", flush=True)
            return {}
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.joint.parameters(), settings.clip)
        self.optimizer.step()
        self.ema.decay = min(settings.ema_decay, (1 + self.step) / (10 + self.step))
        self.ema.update(self.joint)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _set_rates(self) -> None:
        """Constant, then a straight line to zero over the last third of all minutes, with a warm-up in each stage."""
        total = self.settings.minutes * 60
        factor = min(1.0, 3 * max(0.0, 1 - self.seconds / total))
        factor *= min(1.0, (self.stage_step + 1) / self.settings.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * max(factor, 0.005)

    def look(self, stage: str, most: int = 128) -> None:
        """Scores the averaged weights on held-out generated faces and logs it."""
        self.held_out.refresh()
        if not len(self.held_out):
            return
        with self.ema.applied(self.joint):
            scores = score_family(self.joint.models(), self.held_out, most)
        short = {name: round(value, 4) for name, value in scores.headline().items()}
        print(f"step {self.step}, {self.seconds / 60:.1f} min, {len(self.train_faces)} faces: {short}", flush=True)
        self._log({"stage": stage, "faces": len(self.train_faces), **short})

    def _log(self, row: dict) -> None:
        path = self.folder / "curve.csv"
        losses = ["loss", "itc", "contrary", "mim", "parsing", "dice", "alignment", "attributes"]
        scores = ["nme", "f1", "attribute_auc", "zero_shot_auc"]
        names = ["minutes", "step", "seen", "stage", "faces", *losses, *scores]
        new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            if new:
                writer.writeheader()
            writer.writerow({"minutes": round(self.seconds / 60, 2), "step": self.step, "seen": self.seen, **row})

    def _save(self) -> None:
        state = {
            "joint": self.joint.state_dict(),
            "ema": self.ema.average,
            "optimizer": self.optimizer.state_dict(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "size": self.joint.config.image_size,
            "settings": asdict(self.settings),
        }
        temporary = self.state_path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.state_path)

    def _load(self) -> None:
        state = torch.load(self.state_path, map_location=self.settings.device, weights_only=True)
        if state["size"] != self.joint.config.image_size:
            self.joint.dual.resize_position_embeddings(state["size"])
        self.joint.load_state_dict(state["joint"])
        self.ema = ExponentialMovingAverage(self.joint, self.settings.ema_decay)
        self.ema.average.update(state["ema"])
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        last, before = len(self.settings.stages) - 1, self.settings.stages[:-1]
        if self.stage > last and self.seconds < self.settings.minutes * 60:
            # It had ended and is given more minutes: the last stage goes on, with a warm-up.
            self.stage, self.stage_seconds = last, self.seconds - 60 * sum(stage.minutes for stage in before)


def load_average(folder: str | Path, attributes: Sequence[str]) -> JointFaRL:
    """The averaged weights of a run's folder."""
    state = torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)
    joint = JointFaRL(FaRLConfig.from_preset("farl-tiny", image_size=state["size"]), attributes)
    joint.load_state_dict({**state["joint"], **state["ema"]})
    return joint.eval()


_COUNTERS = ("stage", "step", "stage_step", "stage_seconds", "seconds", "seen", "skipped")
