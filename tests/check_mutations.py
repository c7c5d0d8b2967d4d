"""
Plants mistakes in a copy of the package, one at a time, and checks that the tests named for each of them fail.

    python tests/check_mutations.py                    # all rooms
    python tests/check_mutations.py models images      # some of them (files of tests/mutations)
    python tests/check_mutations.py --match tanh       # mistakes whose file or text contains a word

Run it after changes to tests, or to code that the lists name: a mistake that no test sees is a missing test. It takes
the time of the named tests for each mistake, a few seconds. Exit status 1 if any mistake passed unseen, or its text
is no longer in the file.
"""

import argparse
import compileall
import contextlib
import importlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mutations import Mutation

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(path.stem for path in (ROOT / "tests" / "mutations").glob("*.py") if path.stem != "__init__")
# pytest's exit status when tests ran and some failed; others mean that it could not run them.
TESTS_FAILED = 1
CHILD_FAILED = 70


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", help=f"any of {', '.join(ROOMS)}; all by default")
    parser.add_argument("--match", default="", help="only mistakes whose file, old or new text contains this")
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}; there are {', '.join(ROOMS)}")
    mutations = [
        mutation
        for room in options.rooms or ROOMS
        for mutation in importlib.import_module(f"mutations.{room}").MUTATIONS
        if any(options.match in text for text in (mutation.file, mutation.old, mutation.new))
    ]
    with tempfile.TemporaryDirectory(prefix="farl_mutations.") as folder:
        copy_repository(Path(folder))
        tests = sorted({test for mutation in mutations for test in mutation.tests})
        print(f"{len(mutations)} mistakes; first the {len(tests)} groups of tests without one", flush=True)
        libraries = Path(folder) / "libraries.txt"
        if status := run_tests(Path(folder), tests, libraries):
            sys.exit(f"The tests fail without any mistake (pytest's status {status}): mend them first.")
        for library in libraries.read_text().split():
            with contextlib.suppress(ImportError):
                importlib.import_module(library)
        unseen = 0
        for number, mutation in enumerate(mutations, start=1):
            started = time.monotonic()
            verdict = check(Path(folder), mutation)
            unseen += verdict != "seen"
            seconds = time.monotonic() - started
            change = f"{first_line(mutation.old)} -> {first_line(mutation.new)}"
            print(f"{number:3}/{len(mutations)} {verdict:7} {seconds:4.0f} s  {mutation.file}: {change}", flush=True)
    print(f"{len(mutations) - unseen} of {len(mutations)} mistakes seen")
    sys.exit(bool(unseen))


def copy_repository(folder: Path) -> None:
    """The files of the working tree that git does not ignore, and the fetched common tests of Transformers."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if (ROOT / ".cache").is_dir() and not (folder / ".cache").exists():
        (folder / ".cache").symlink_to((ROOT / ".cache").resolve())
    # By hash: with times, a file that changes twice within a second would be taken for the old one.
    compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def check(folder: Path, mutation: Mutation) -> str:
    """`"seen"`, `"UNSEEN"`, `"STALE"` (the text is not there exactly once) or `"BROKEN"` (pytest could not run)."""
    path = folder / mutation.file
    good = path.read_text() if path.is_file() else ""
    if good.count(mutation.old) != 1:
        return "STALE"
    path.write_text(good.replace(mutation.old, mutation.new))
    try:
        status = run_tests(folder, list(mutation.tests))
    finally:
        path.write_text(good)
    return {0: "UNSEEN", TESTS_FAILED: "seen"}.get(status, "BROKEN")


def run_tests(folder: Path, tests: list[str], libraries: Path | None = None) -> int:
    """
    pytest's exit status, of a child of this process: what this process has imported need not be imported again, most of
    the time of most tests. `libraries` is a file for the names of the libraries that the tests imported.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.environ["PYTHONPATH"] = str(folder)
        sys.path[0] = str(folder)
        os.chdir(folder)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
        if libraries is not None:
            files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
            libraries.write_text("\n".join(name for name, file in files.items() if "site-packages" in file))
        os._exit(status)
    finally:
        os._exit(CHILD_FAILED)


def first_line(text: str) -> str:
    return text.strip().splitlines()[0][:60] if text.strip() else "nothing"


if __name__ == "__main__":
    main()
