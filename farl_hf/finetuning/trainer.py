"""`transformers.Trainer` with averaged weights, the original's schedule, and evaluation in the images' own pixels."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..hub.publishing import write_card
from .ema import ExponentialMovingAverage, moving_tensors
from .evaluation import ALL, score_model
from .faces import FaceRows
from .lora import TASK_CONFIG_FOLDER
from .optimizer import optimizer_of, parameter_groups, step_schedule

# Beside the averaged weights of a checkpoint: the raw ones, for resume.
RAW_WEIGHTS = "raw_weights.safetensors"


class FaRLTrainer(Trainer):
    """
    What it adds to `Trainer`:

    * two learning rates: `learning_rate` of the arguments for neck and head, `backbone_lr` for the vision tower;
    * an exponential moving average, which is what is evaluated and saved; checkpoints also keep the raw weights, so
      that a resumed run continues exactly;
    * `evaluate` scores `eval_dataset`, [`FaceRows`], by the task's metric, without keeping logits;
    * the paper's step schedule, if `milestone` is given.

    Args:
        backbone_lr: Learning rate of what trains in the vision tower.
        ema_decay: Of the average; 0 for none.
        ema_warmup: Whether the decay grows towards it, see [`ExponentialMovingAverage`].
        milestone: Epoch from which learning rates are divided by 10, in the place of `lr_scheduler_type`.
        skip_bad: Leave out evaluation images that cannot be read.
        kwargs: Arguments of `Trainer`; `train_dataset` is [`TrainingFaces`].

    Raises:
        ValueError: If nothing trains, or `optim` of the arguments makes its own groups of parameters.
    """

    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        backbone_lr: float,
        ema_decay: float = 0.999,
        ema_warmup: bool = False,
        milestone: int | None = None,
        skip_bad: bool = False,
        **kwargs: Any,
    ):
        optimizer, options = optimizer_of(args, model)
        groups = parameter_groups(model, backbone_lr, args.learning_rate, args.weight_decay)
        train_dataset = kwargs.get("train_dataset")
        if train_dataset is not None and len(train_dataset) % args.train_batch_size == 1:
            # The head's batch norm cannot train on a single image.
            args.dataloader_drop_last = True
        super().__init__(model, args, optimizer_cls_and_kwargs=(optimizer, {**options, "params": groups}), **kwargs)
        self.milestone, self.skip_bad = milestone, skip_bad
        # On the device that the Trainer has moved the model to.
        self.ema = ExponentialMovingAverage(self.model, ema_decay, ema_warmup) if ema_decay else None
        self.add_callback(_EveryStep(self))

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.milestone is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            steps_per_epoch = -(-len(self.train_dataset) // batch)
            self.lr_scheduler = step_schedule(optimizer or self.optimizer, steps_per_epoch, self.milestone)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluate(
        self,
        eval_dataset: FaceRows | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Scores of the averaged model on `eval_dataset`, by default the validation rows."""
        result = self.score(eval_dataset or self.eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result["metrics"][ALL].items()}
        metrics[f"{metric_key_prefix}_images_per_second"] = result["images_per_second"]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, faces: FaceRows) -> dict[str, Any]:
        """[`score_model`] of the averaged model."""
        options = (self.args.per_device_eval_batch_size, self.args.dataloader_num_workers, self.skip_bad)
        if self.ema is None:
            return score_model(self.model, faces, *options, False, self.compute_loss_context_manager)
        with self.ema.applied(self.model):
            return score_model(self.model, faces, *options, False, self.compute_loss_context_manager)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the averaged model; checkpoints, which the Trainer saves by itself, get the raw weights beside it."""
        if self.ema is None:
            super().save_model(output_dir, _internal_call)
            return
        # Without a folder it is a push, which publishes the averaged model alone.
        if _internal_call and output_dir is not None and self.args.should_save:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            raw = {name: tensor.contiguous() for name, tensor in moving_tensors(self.model).items()}
            save_file(raw, folder / RAW_WEIGHTS)
        with self.ema.applied(self.model):
            super().save_model(output_dir, _internal_call)

    def create_model_card(self, model_name: str | None = None, **options: Any) -> None:
        """Writes the package's card in the place of Transformers' draft; `push_to_hub` calls this."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            write_card(folder, self.hub_model_id or model_name or folder.name, old_card=folder / "README.md")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and hasattr(self.model, "get_base_model"):
            folder = Path(output_dir or self.args.output_dir)
            self.model.get_base_model().config.save_pretrained(folder / TASK_CONFIG_FOLDER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema is not None:
            self.ema.reset(self.model)
            raw = load_file(Path(resume_from_checkpoint) / RAW_WEIGHTS)
            with torch.no_grad():
                for name, tensor in moving_tensors(self.model).items():
                    tensor.copy_(raw[name])

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            self.ema.reset(self.model)


class _EveryStep(TrainerCallback):
    """Tells the training data its epoch, and the average each step."""

    def __init__(self, trainer: FaRLTrainer):
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.train_dataset.epoch.fill_(int(state.epoch))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.ema is not None:
            self.trainer.ema.update(self.trainer.model, state.global_step)
