"""Fine-tuning and evaluation of the task models on the paper's benchmarks and on own data."""

from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .evaluation import evaluate_model
from .finetune import FinetuneConfig, FinetuneResult, default_training_arguments, finetune
from .lora import load_task_model

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "FinetuneConfig",
    "FinetuneResult",
    "default_training_arguments",
    "evaluate_model",
    "finetune",
    "load_task_model",
    "own_benchmark",
]
