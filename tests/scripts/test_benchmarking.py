"""The benchmark compares equals, notices when it does not, and writes every field."""

import json
from collections.abc import Iterable

import pytest
import torch
from benchmarks.finetuning_suites import small_step_cases, training_face_cases
from benchmarks.measuring import Case, Row, describe_machine, markdown_table, measure, write_json
from benchmarks.network_suites import Scale, clip_cases, dense_cases, pipeline_cases, seeded_dense_model
from benchmarks.pretraining_suites import data_cases, pretrain_cases
from benchmarks.reference import PlainDenseModel
from benchmarks.synthetic_suite import synthetic_cases
from script_cases import load_script
from torch import nn

from farl_hf import FaRLForFaceAlignment, FaRLForFaceParsing

SCALE = Scale("tiny", 48, 48, (200, 150))


@pytest.mark.parametrize("model_class", (FaRLForFaceParsing, FaRLForFaceAlignment))
def test_plain_network_is_the_models(model_class):
    model = seeded_dense_model(model_class, SCALE)
    pixel_values = torch.randn(2, 3, 48, 48)
    output = "logits" if model_class is FaRLForFaceParsing else "heatmaps"
    with torch.no_grad():
        plain, ours = PlainDenseModel(model).eval()(pixel_values), model(pixel_values)[output]
    assert torch.allclose(plain, ours, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize(
    "part, change",
    (
        ("pyramid", lambda neck: setattr(neck.fpns, "3", nn.AvgPool2d(2))),
        ("pyramid", lambda neck: setattr(neck.fpns[0], "2", nn.ReLU())),
        ("decode_head", lambda head: setattr(head.psp_modules[1], "0", nn.AdaptiveMaxPool2d(2))),
        ("decode_head", lambda head: setattr(head.lateral_convs[0].bn, "eps", 0.1)),
        ("decode_head", lambda head: setattr(head, "fpn_convs", head.fpn_convs[::-1])),
    ),
)
def test_plain_network_shares_no_neck_and_head(part, change):
    """So that it sees a mistake there."""
    model = seeded_dense_model(FaRLForFaceParsing, SCALE)
    plain = PlainDenseModel(model).eval()
    change(getattr(model, part))
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected, got = plain(pixel_values), model(pixel_values).logits
    assert not torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))


CASES = {
    "parsing": lambda: dense_cases("parsing", SCALE),
    "alignment": lambda: dense_cases("alignment", SCALE),
    "clip": lambda: clip_cases(SCALE),
    "pretrain": lambda: pretrain_cases(SCALE, batch=2),
    "data": lambda: [*data_cases((64,), 100), *training_face_cases(96, 2)],
    "pipeline": lambda: pipeline_cases(SCALE, faces=2, photos=2),
    "synthetic": lambda: synthetic_cases((48,), 2),
    "small": lambda: small_step_cases(32, 2),
}


def run_and_compare(suite: str, cases: Iterable[Case]) -> None:
    for case in cases:
        row = measure(case, repeats=2)
        assert row.suite == suite and (not case.timed or row.ratio == pytest.approx(row.reference_ms / row.ours_ms))
        assert case.tolerance is None or row.max_difference <= case.tolerance
        if case.timed:
            assert row.spread[0] <= row.spread[1] and row.ours_ms > 0


@pytest.mark.parametrize("suite", CASES)
def test_every_suite_runs_and_compares_equals(suite):
    run_and_compare(suite, (case for case in CASES[suite]() if "onnxruntime" not in case.name))


@pytest.mark.slow
@pytest.mark.parametrize("suite", ("parsing", "alignment"))
def test_exported_networks_compare_equal(suite):
    """Of exports the fast tests are tests/inference/test_export.py."""
    cases = [case for case in CASES[suite]() if "onnxruntime" in case.name]
    assert len(cases) == 3
    run_and_compare(suite, cases)


def test_sides_that_disagree_are_an_error():
    case = Case("suite", "case", lambda side: lambda: torch.ones(2) * (1.01 if side == "ours" else 1.0))
    with pytest.raises(ValueError, match=r"suite, case: the two sides differ by 1.0e-02"):
        measure(case, repeats=1)


def test_sides_take_turns():
    calls = []
    measure(Case("suite", "case", lambda side: lambda: calls.append(side) or 1.0), repeats=2)
    assert calls == ["ours", "reference", "ours", "reference", "reference", "ours"]


def test_table_and_json(tmp_path):
    rows = [Row("clip", "image", 10.0, 12.5, 1.25, (1.0, 1.5), 1.0, 1e-6), Row("memory", "parsing", ours_peak_mb=3.2)]
    table = markdown_table(rows, describe_machine())
    assert "| clip | image | 10.0 | 12.5 | 1.25 | 1.00 | - | - |" in table and "| memory | parsing | - |" in table
    write_json(rows, describe_machine(), tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    fields = {"suite", "case", "ours_ms", "reference_ms", "ratio", "ours_peak_mb", "reference_peak_mb"}
    assert all(fields <= row.keys() for row in content["rows"]) and content["machine"]["torch"] == torch.__version__


def test_command_measures_memory_in_processes_of_their_own(tmp_path, capsys):
    flags = ["--quick", "--threads", "1", "--case", "batch 4", "--json", str(tmp_path / "rows.json")]
    assert load_script("benchmark").main(["memory", *flags]) == 0
    assert "| memory | parsing 96 px, batch 4 | - |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert 1 < row["ours_peak_mb"] < 5000 and 1 < row["reference_peak_mb"] < 5000
