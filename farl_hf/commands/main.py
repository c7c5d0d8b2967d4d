"""
The `farl` command. Each subcommand is a module of this folder with `NAME`, `SUMMARY`, `DESCRIPTION`, `EXAMPLES`,
`add_arguments(parser)` and `run(arguments)`, which returns the exit code.
"""

import argparse
import sys
from collections.abc import Sequence

from ..version import __version__
from . import (
    align,
    analyze,
    attributes,
    convert,
    detect,
    env,
    export_code,
    index,
    info,
    parse,
    publish,
    search,
    serve,
    space,
    synthesize,
    zeroshot,
)

SUBCOMMANDS = (
    analyze,
    parse,
    align,
    attributes,
    zeroshot,
    detect,
    index,
    search,
    serve,
    convert,
    export_code,
    publish,
    space,
    synthesize,
    info,
    env,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="farl", description="FaRL in the Hugging Face ecosystem.")
    parser.add_argument("--version", action="version", version=f"farl_hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in SUBCOMMANDS:
        subparser = commands.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 for bad input, 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode("utf-8")
        print(f"error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
