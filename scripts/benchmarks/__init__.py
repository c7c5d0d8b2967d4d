"""Speed and memory side by side with what people use otherwise; `scripts/benchmark.py` is the command."""
