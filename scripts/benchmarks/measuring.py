"""Two functions that compute the same, timed in turns; their peak memory; and the table of the results."""

import ctypes
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

SIDES = ("ours", "reference")


@dataclass(frozen=True)
class Case:
    """
    One comparison.

    Args:
        suite, name: What the row is called.
        build: `build("ours")` and `build("reference")` make the function of a side, which computes and returns a tensor
            (or a number) that the other side's equals.
        tolerance: Largest allowed difference of the two results, relative to the largest value; `None` where they are
            not comparable, as random crops are not.
        timed: Whether to measure time.
        memory: Whether to measure memory.
        goal: Ratio that the project wants, for the table.
    """

    suite: str
    name: str
    build: Callable[[str], Callable[[], Any]]
    tolerance: float | None = 1e-4
    timed: bool = True
    memory: bool = False
    goal: float | None = None


@dataclass
class Row:
    """
    Result of a [`Case`]. Times are medians in milliseconds; `ratio` is reference over ours; `spread` are the smallest
    and largest ratio of one turn; peaks are resident memory in MB above a process that has only loaded the libraries.
    """

    suite: str
    case: str
    ours_ms: float | None = None
    reference_ms: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: float | None = None
    max_difference: float | None = None
    ours_peak_mb: float | None = None
    reference_peak_mb: float | None = None


def measure(
    case: Case,
    repeats: int,
    memory_command: list[str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """
    Checks that both sides give the same result, then times them in turns, the first side alternating.

    Args:
        case: What is compared.
        repeats: Turns that count, after one that does not.
        memory_command: Command that runs [`peak_memory`] of this case for the side that is appended, in a process of
            its own.
        clock: Seconds; `time.process_time` on a busy machine, for what runs in one thread of this process.

    Raises:
        ValueError: If the two sides disagree.
    """
    row = Row(case.suite, case.name, goal=case.goal)
    if case.timed:
        functions = {side: case.build(side) for side in SIDES}
        results = {side: functions[side]() for side in SIDES}
        if case.tolerance is not None:
            row.max_difference = relative_difference(results["ours"], results["reference"])
            if not row.max_difference <= case.tolerance:
                raise ValueError(
                    f"{case.suite}, {case.name}: the two sides differ by {row.max_difference:.1e} relative to the "
                    f"largest value, more than {case.tolerance:.0e}."
                )
        results.clear()
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(repeats):
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                start = clock()
                functions[side]()
                times[side].append(1000 * (clock() - start))
        row.ours_ms, row.reference_ms = (statistics.median(times[side]) for side in SIDES)
        row.ratio = row.reference_ms / row.ours_ms
        ratios = [reference / ours for ours, reference in zip(times["ours"], times["reference"], strict=True)]
        row.spread = (min(ratios), max(ratios))
    if case.memory and memory_command is not None:
        row.ours_peak_mb, row.reference_peak_mb = (
            json.loads(subprocess.run([*memory_command, side], check=True, capture_output=True, text=True).stdout)
            for side in SIDES
        )
    return row


def relative_difference(ours: Any, reference: Any) -> float:
    """Largest difference relative to the largest value of the reference; results are tensors or numbers."""
    ours, reference = (torch.as_tensor(value).detach().double() for value in (ours, reference))
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-12))


def peak_memory(case: Case, side: str) -> float:
    """
    Peak resident memory in MB of building and twice running one side, above what the process had before; to be called
    in a fresh process. While building, only what stays afterwards counts. Linux alone tells this.
    """
    baseline = _status("VmRSS")
    function = case.build(side)
    # Give back what was freed while building, and begin a new peak.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        function()
    return _status("VmHWM") - baseline


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status does not tell {name}.")


def run_cases(
    cases: Iterable[Case], repeats: int, script: list[str], clock: Callable[[], float] = time.perf_counter
) -> list[Row]:
    """
    Measures all cases with a progress bar.

    Args:
        cases: See [`Case`].
        repeats, clock: See [`measure`].
        script: Command line of the benchmark's own script, which understands `--memory_of SUITE CASE SIDE`.
    """
    rows = []
    for case in (bar := tqdm(list(cases))):
        bar.set_description(f"{case.suite}: {case.name}")
        rows.append(measure(case, repeats, [sys.executable, *script, "--memory_of", case.suite, case.name], clock))
    return rows


def describe_machine() -> dict[str, str]:
    """Processor, threads and versions, for the head of a table."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def markdown_table(rows: list[Row], machine: dict[str, str]) -> str:
    """The machine in one line, then one row per case."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in machine.items()),
        "",
        "| suite | case | ours, ms | reference, ms | ratio | goal | ours, peak MB | reference, peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [_number(row.ours_ms, 1), _number(row.reference_ms, 1), _number(row.ratio, 2), _number(row.goal, 2)]
        cells += [_number(row.ours_peak_mb, 0), _number(row.reference_peak_mb, 0)]
        lines.append(f"| {row.suite} | {row.case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def write_json(rows: list[Row], machine: dict[str, str], path: str | Path) -> None:
    """Machine and rows as JSON."""
    Path(path).write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2))
