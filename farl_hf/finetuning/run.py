"""Fine-tuning of a task model, from the settings to the saved folder."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from ..allocation import keep_freed_memory
from ..hub.publishing import write_card
from .configuration import FinetuneConfig
from .evaluation import score_model
from .faces import FaceRows
from .lora import load_task_model
from .preparation import build_model, open_data
from .recipes import (
    average_warms_up,
    backbone_learning_rate,
    check_training_arguments,
    default_training_arguments,
    milestone,
)
from .results import FinetuneResult, best_scores, count_parameters, last_scores, peak_memory, results_table
from .resuming import check_settings, last_checkpoint, run_settings, write_settings
from .trainer import FaRLTrainer

logger = logging.getLogger(__name__)


def finetune(config: FinetuneConfig, arguments: TrainingArguments | None = None) -> FinetuneResult:
    """
    Trains, chooses, tests and saves a task model. A run that was killed goes on from its last checkpoint in the output
    folder, and ends with the weights that it would have had.

    Args:
        config: What is trained on what.
        arguments: How; see [`default_training_arguments`].

    Raises:
        FileNotFoundError: If the data set or the model is missing.
        ValueError: If settings or data are bad, or the output folder holds a run with other settings.
    """
    arguments = arguments or default_training_arguments(config)
    check_training_arguments(config, arguments)
    output, settings = Path(arguments.output_dir), run_settings(config, arguments)
    check_settings(settings, output)
    benchmark = config.benchmark()
    # New weights of the head follow from the seed.
    torch.manual_seed(arguments.seed)
    model, processor = build_model(config, benchmark)
    data = open_data(config, benchmark, processor, arguments)
    if arguments.world_size > 1 and arguments.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    trainer = FaRLTrainer(
        model,
        arguments,
        backbone_lr=backbone_learning_rate(config),
        ema_decay=config.ema_decay,
        ema_warmup=average_warms_up(config),
        milestone=milestone(config, arguments),
        skip_bad=config.skip_bad,
        train_dataset=data.training,
        eval_dataset=data.validation,
        processing_class=processor,
    )
    if arguments.device.type == "cpu":
        prepare_for_cpu(model, arguments.bf16)
    trainable, total = count_parameters(model)
    logger.info(
        "%s: %s of %s parameters are trained (%s).", benchmark.name, f"{trainable:,}", f"{total:,}", config.tuning
    )
    if arguments.should_save:
        write_settings(settings, output)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint or last_checkpoint(output))
    trainer.save_model()
    scores = [entry for entry in trainer.state.log_history if f"eval_{benchmark.task.headline}" in entry]
    best = best_scores(scores, benchmark.task) if arguments.load_best_model_at_end else last_scores(scores)
    test_best, test_last = _test(trainer, data.test, config.skip_bad) if data.test is not None else ({}, {})
    result = FinetuneResult(
        output_dir=str(output),
        benchmark=benchmark.name,
        headline=benchmark.task.headline,
        selection=data.selection,
        validation_best=best,
        validation_last=last_scores(scores),
        test_best=test_best,
        test_last=test_last,
        trainable_parameters=trainable,
        parameters=total,
        saved_bytes=sum(path.stat().st_size for path in output.glob("*.safetensors")),
        peak_memory_bytes=peak_memory(arguments.device),
        num_bad=int(data.training.is_bad.sum()),
        history=trainer.state.log_history,
    )
    if arguments.should_save:
        (output / "results.json").write_text(json.dumps(asdict(result), indent=2))
        write_card(output, output.name, results=f"## Results\n\n{results_table(result)}")
    return result


def prepare_for_cpu(model: nn.Module, bf16: bool) -> None:
    """
    What makes training on a CPU faster: freed memory is kept, and attention in bfloat16 is computed in separate steps,
    because the fused kernel of torch 2.14 takes longer there, by little in large towers and by half in small ones.
    """
    keep_freed_memory()
    if bf16:
        model.set_attn_implementation("eager")


def _test(trainer: FaRLTrainer, faces: FaceRows, skip_bad: bool) -> tuple[dict, dict]:
    """Scores of the chosen and the last weights on the test split."""
    best = trainer.score(faces)["metrics"]
    arguments = trainer.args
    checkpoint = last_checkpoint(Path(arguments.output_dir))
    chosen = trainer.state.best_model_checkpoint
    if not arguments.load_best_model_at_end or checkpoint is None or checkpoint == chosen:
        return best, best
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model().name_or_path if isinstance(model, PeftModel) else None
    last = score_model(
        load_task_model(checkpoint, base=base).to(arguments.device),
        faces,
        arguments.per_device_eval_batch_size,
        arguments.dataloader_num_workers,
        skip_bad,
        progress=False,
    )
    return best, last["metrics"]
