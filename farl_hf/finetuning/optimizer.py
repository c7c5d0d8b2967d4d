"""Learning rates by part of the model (`optimizers/*.yaml` of the FaRL repository)."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments


def optimizer_of(arguments: TrainingArguments, model: nn.Module) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """
    Class and options of the optimizer that `--optim` and its companions name, for the groups of [`parameter_groups`].

    Raises:
        ValueError: If that optimizer divides the parameters by itself (GaLore, APOLLO, LOMO, Muon and their like).
    """
    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    plain = isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    if not plain or {"params", "model", "optimizer_dict"} & set(options):
        raise ValueError(
            f"--optim {arguments.optim.value} divides the parameters by itself, where the vision tower and the head "
            "have learning rates of their own: choose another, such as adamw_torch, adafactor or sgd."
        )
    return optimizer, options


def parameter_groups(model: nn.Module, backbone_lr: float, head_lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """
    Two groups: what trains in the vision tower (all of it, or its adapters), and the rest (neck and head). Weight decay
    applies to every parameter, norms, biases and positions included, as in the original; at 1e-5 and a learning rate up
    to 1e-3 it rounds to nothing in fp32.

    Args:
        model: With `requires_grad` set as the tuning wants it.
        backbone_lr, head_lr: Learning rates.
        weight_decay: Of both groups.

    Returns:
        Groups for a torch optimizer, each with its `name`, without empty ones.

    Raises:
        ValueError: If nothing trains.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("No parameter of the model requires a gradient: there is nothing to train.")
    backbone = [parameter for name, parameter in trained if "vision_model." in name]
    head = [parameter for name, parameter in trained if "vision_model." not in name]
    groups = [
        {"name": "backbone", "params": backbone, "lr": backbone_lr, "weight_decay": weight_decay},
        {"name": "head", "params": head, "lr": head_lr, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def step_schedule(
    optimizer: torch.optim.Optimizer, steps_per_epoch: int, milestone: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The paper's schedule, one step per update: constant, divided by 10 from epoch `milestone` on."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [milestone * steps_per_epoch], gamma=0.1)
