#!/usr/bin/env python
"""Convert an official FaRL, CLIP or facer checkpoint to a Hugging Face folder (the same as `farl convert`)."""

import sys

from farl_hf.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
