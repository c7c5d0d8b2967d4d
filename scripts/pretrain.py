#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = ["farl_hf[tracking]"]
#
# [tool.uv.sources]
# farl_hf = { path = ".." }
# ///
"""
Pre-train FaRL on image-text shards, with contrastive learning and masked image modelling.

    python scripts/pretrain.py --recipe demo --train_shards shards/*.tar --output_dir farl-tiny --device cpu
    accelerate launch --config_file scripts/launch/ddp.yaml scripts/pretrain.py --train_shards 'shards/*.tar'
    accelerate launch --config_file scripts/launch/fsdp2.yaml scripts/pretrain.py --train_dataset OWNER/NAME ...
    torchrun --nproc_per_node 2 scripts/pretrain.py --device cpu ...        # several CPU processes

The global batch is processes x batch_size x gradient_accumulation_steps, and all of it are negatives; the paper's is
5,120 and its recipes keep to it. The same command goes on with a run that was killed, also with other numbers of
processes and workers. SIGTERM and SIGUSR1 finish the step, save, and exit with code 75: start again. `--help` lists all
settings.
"""

import logging
import os
import sys

from farl_hf.pretraining.configuration import parse_arguments
from farl_hf.pretraining.loop import pretrain
from farl_hf.pretraining.stopping import REQUEUE_EXIT_CODE, RunStopped


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        result = pretrain(parse_arguments())
    except RunStopped as stop:
        print(stop, file=sys.stderr)
        return REQUEUE_EXIT_CODE
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") != "0":
        return 0
    print(f"{result.output_dir}: {result.steps} steps, {result.samples} samples, bad: {result.faults or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
