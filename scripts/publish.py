#!/usr/bin/env python
"""Push a saved folder to the Hub: `farl publish`, see its --help."""

import sys

from farl_hf.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
