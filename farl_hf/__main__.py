"""`python -m farl_hf`: the `farl` command."""

import sys

from .commands.main import main

sys.exit(main())
