"""
Fine-tuning and evaluation of the task models on the paper's benchmarks and on own data.

May import `inference`, `hub`, `weights`, `datasets`, `metrics` and `models`; not `pretraining`.
"""

from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .configuration import FinetuneConfig
from .evaluation import Evaluation, open_evaluation
from .lora import load_task_model
from .recipes import default_training_arguments
from .results import FinetuneResult
from .run import finetune

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
