"""Fine-tuning and evaluation of the task models on the paper's benchmarks and on own data."""

from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .evaluation import Evaluation, open_evaluation
from .finetune import FinetuneConfig, FinetuneResult, default_training_arguments, finetune
from .lora import load_task_model

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Evaluation",
    "FinetuneConfig",
    "FinetuneResult",
    "default_training_arguments",
    "finetune",
    "load_task_model",
    "open_evaluation",
    "own_benchmark",
]
