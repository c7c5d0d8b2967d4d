"""What a fine-tuning run reports: scores, sizes, memory."""

import sys
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from .evaluation import ALL
from .tasks import FaceTask


@dataclass
class FinetuneResult:
    """
    What [`finetune`] did, also in `results.json` of the output folder.

    Attributes:
        output_dir: Folder of the model or adapter, its processor and card.
        benchmark: Name.
        headline: Score that weights were chosen by.
        selection: How weights were chosen, in words.
        validation_best, validation_last: Scores (fractions) on the validation rows of the chosen and the last weights.
        test_best, test_last: Scores by subset on the test split.
        trainable_parameters, parameters: Counts.
        saved_bytes: Size of the saved weights: the model, or the adapter with its head.
        peak_memory_bytes: Largest memory on the GPU, or of the process.
        num_bad: Training samples that could not be read and were left out.
        history: What the Trainer logged.
    """

    output_dir: str
    benchmark: str
    headline: str
    selection: str
    validation_best: dict[str, float]
    validation_last: dict[str, float]
    test_best: dict[str, dict[str, float]]
    test_last: dict[str, dict[str, float]]
    trainable_parameters: int
    parameters: int
    saved_bytes: int
    peak_memory_bytes: int
    num_bad: int
    history: list[dict[str, float]]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and all parameters; copies that an adapter keeps of replaced modules are not counted."""
    parameters = [(name, p) for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for _, p in parameters if p.requires_grad), sum(p.numel() for _, p in parameters)


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes since the start: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def best_scores(scores: list[dict[str, float]], task: FaceTask) -> dict[str, float]:
    choose = max if task.greater_is_better else min
    return last_scores([choose(scores, key=lambda entry: entry[f"eval_{task.headline}"])] if scores else [])


def last_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in scores[-1].items()} if scores else {}


def results_table(result: FinetuneResult) -> str:
    """Markdown: the headline in percent on validation and test rows, of the chosen and of the last weights."""
    name = result.headline
    rows = [("validation", result.validation_best.get(name), result.validation_last.get(name))]
    for subset, scores in result.test_best.items():
        label = "test" if subset == ALL else subset
        rows.append((label, scores.get(name), result.test_last[subset].get(name)))
    lines = [
        f"| {result.benchmark}, {name} in percent | chosen ({result.selection}) | last epoch |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {label} | {_percent(best)} | {_percent(last)} |" for label, best, last in rows]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f}"
