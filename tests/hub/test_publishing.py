"""Publishing: complete folders, what is refused, and pushes to a stand-in of the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import yaml
from hub_stand_in import TOKEN, HubStandIn
from huggingface_hub import ModelCard
from PIL import Image

import farl_hf
from farl_hf.commands.main import main
from farl_hf.finetuning.lora import TASK_CONFIG_FOLDER, add_adapter
from farl_hf.hub import publishing
from farl_hf.hub.publishing import PublishingError, assemble, find_problems, publish, write_card
from farl_hf.models.tokenization import build_processor

ROOT = Path(__file__).parents[2]
# What the pipelines' code needs beside the models'.
PIPELINE_FILES = ("detection", "drawing", "flips", "head_pose", "labels", "results")


def tiny_config(**options) -> farl_hf.FaRLConfig:
    return farl_hf.FaRLConfig.from_preset("tiny", **options)


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual") / "farl-tiny"
    torch.manual_seed(0)
    farl_hf.FaRLForPreTraining(tiny_config()).save_pretrained(folder)
    build_processor(96).save_pretrained(folder)
    return folder


def task_folder(folder: Path, model_class: type, **options) -> Path:
    torch.manual_seed(0)
    model_class(tiny_config(image_size=64, head_channels=32, neck_channels=32, **options)).save_pretrained(folder)
    align = "box" if model_class is farl_hf.FaRLForFaceAlignment else "lapa"
    farl_hf.FaRLFaceImageProcessor(align=align, size=64, warp_factor=0.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parsing(tmp_path_factory):
    """As a fine-tuning run leaves it: with settings, results, a checkpoint and pickles."""
    folder = task_folder(tmp_path_factory.mktemp("task") / "run", farl_hf.FaRLForFaceParsing, num_labels=3)
    (folder / "finetune_config.json").write_text(json.dumps({"model": "me/farl-tiny", "preset": None}))
    result = {
        "benchmark": "lapa",
        "selection": "best on validation",
        "test_best": {"all": {"fg_mean": 0.9123}, "test_dark": {"fg_mean": 0.85}},
    }
    (folder / "results.json").write_text(json.dumps(result))
    torch.save({}, folder / "training_args.bin")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1/model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def repository(parsing, tmp_path_factory):
    """The assembled repository, with an evaluation and an example."""
    scratch = tmp_path_factory.mktemp("assembled")
    evaluation = {
        "dataset": "celebamask_hq",
        "split": "test",
        "precision": "fp32",
        "metrics": {"all": {"fg_mean": 0.8}},
    }
    evaluation["image_scores"] = [[0.5, 3]]
    (scratch / "result.json").write_text(json.dumps(evaluation))
    picture = Image.new("RGB", (2000, 100), "green")
    exif = picture.getexif()
    exif[0x010F] = "A camera"
    picture.save(scratch / "strip.png", exif=exif)
    return assemble(
        parsing,
        scratch / "repository",
        "me/farl-lapa",
        datasets=["some/faces"],
        evaluations=[scratch / "result.json"],
        dataset_ids={"lapa": ("some/lapa", "parsing")},
        examples=[scratch / "strip.png"],
    )


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_repository_is_complete(repository):
    found = files_of(repository)
    code = {name for name in found if name.endswith(".py")}
    models = {path.name for path in Path(farl_hf.__file__).parent.glob("models/*_farl.py")}
    assert code == models | {"pipelines.py", *(f"{name}.py" for name in PIPELINE_FILES)}
    assert found == code | {
        ".eval_results/lapa.yaml",
        "README.md",
        "config.json",
        "evaluation.json",
        "examples/strip.jpg",
        "model.safetensors",
        "preprocessor_config.json",
    }
    with Image.open(repository / "examples/strip.jpg") as example:
        assert example.size == (1024, 51) and not example.getexif()
    assert json.loads((repository / "evaluation.json").read_text()) == [
        {"dataset": "celebamask_hq", "split": "test", "precision": "fp32", "metrics": {"all": {"fg_mean": 0.8}}},
        {
            "dataset": "lapa",
            "split": "test",
            "metrics": {"all": {"fg_mean": 0.9123}, "test_dark": {"fg_mean": 0.85}},
        },
    ]


def test_card_of_a_repository(repository):
    card = ModelCard.load(repository / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-segmentation")
    assert data.base_model == "me/farl-tiny" and data.datasets == ["some/faces"]
    found = {(r.dataset_type, r.dataset_config, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {
        ("celebamask_hq", None, "fg_mean"): 80.0,
        ("lapa", None, "fg_mean"): 91.23,
        ("lapa", "test_dark", "fg_mean"): 85.0,
    }
    assert "![strip](examples/strip.jpg)" in card.text and 'pipeline("face-parsing", "me/farl-lapa")' in card.text
    assert "| lapa test | test_dark | fg_mean | 85.000 | best on validation |" in card.text
    entries = yaml.safe_load((repository / ".eval_results/lapa.yaml").read_text())
    assert [(entry["dataset"]["id"], entry["value"]) for entry in entries] == [("some/lapa", 91.23)]


@pytest.mark.parametrize(
    "model_class, options",
    [
        (farl_hf.FaRLForPreTraining, {}),
        pytest.param(farl_hf.FaRLForFaceAlignment, {"num_landmarks": 5}, marks=pytest.mark.slow),
        pytest.param(farl_hf.FaRLForImageClassification, {"num_labels": 4}, marks=pytest.mark.slow),
        pytest.param(farl_hf.FaRLForFaceParsing, {"num_labels": 3}, marks=pytest.mark.slow),
    ],
)
def test_loads_and_predicts_without_the_package(model_class, options, tmp_path, dual):
    source = (
        dual if model_class is farl_hf.FaRLForPreTraining else task_folder(tmp_path / "run", model_class, **options)
    )
    folder = assemble(source, tmp_path / "repository", "me/model", base_model="none")
    assert find_problems(folder, "me/model") == []


def test_broken_repositories_are_seen(repository, tmp_path):
    def problems(change) -> str:
        folder = Path(shutil.copytree(repository, tmp_path / "changed"))
        change(folder)
        try:
            return " ".join(find_problems(folder, "me/farl-lapa"))
        finally:
            shutil.rmtree(folder)

    def write(name: str, text: str):
        return lambda folder: (folder / name).write_text(text)

    def append(name: str, text: str):
        return lambda folder: (folder / name).write_text((folder / name).read_text() + text)

    def edit(name: str, old: str, new: str):
        return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))

    assert "pickle" in problems(write("training_args.bin", ""))
    assert "a Hugging Face token" in problems(append("README.md", "\nhf_" + "a" * 30))
    assert "a private key" in problems(write("key.txt", "-----BEGIN RSA PRIVATE KEY-----"))
    assert "a password" in problems(write("notes.txt", "password: hunter22"))
    for path in ("/home/jane/data", "C:\\\\Users\\\\jane", "~/data/lapa", "/tmp/run", "file:///home/jane/x"):
        assert "path of this machine" in problems(write("evaluation.json", json.dumps({"file": path}))), path
    assert "not the code of this package" in problems(append("modeling_farl.py", "\n"))
    assert "names no license" in problems(edit("README.md", "license: mit\n", ""))
    assert "names no base model" in problems(edit("README.md", "base_model: me/farl-tiny\n", ""))
    assert "metadata of README.md" in problems(edit("README.md", "license: mit", "license: [mit"))
    assert "README.md is missing" in problems(lambda folder: (folder / "README.md").unlink())
    picture = Image.new("RGB", (8, 8))
    exif = picture.getexif()
    exif[0x010F] = "A camera"
    assert "carries metadata (exif" in problems(lambda folder: picture.save(folder / "a.jpg", exif=exif))


@pytest.mark.slow
def test_missing_code_is_seen(repository, tmp_path):
    folder = Path(shutil.copytree(repository, tmp_path / "changed"))
    (folder / "modeling_farl.py").unlink()
    (problem,) = find_problems(folder, "me/farl-lapa")
    assert "without the package" in problem


@pytest.fixture
def no_loading(monkeypatch):
    """Leaves out the clean processes, which take seconds each."""
    monkeypatch.setattr(publishing, "_problems_of_loading", lambda folder, base_folder: [])


def test_pipelines_of_a_folder_need_no_trust_with_the_package(repository, tmp_path):
    config = json.loads((repository / "config.json").read_text())
    assert config["custom_pipelines"] == {
        "face-parsing": {"impl": "pipelines.FaceParsingPipeline", "pt": ["AutoModelForSemanticSegmentation"]}
    }
    model = farl_hf.FaRLForFaceParsing.from_pretrained(repository)
    model.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


def test_user_names_are_seen(repository, tmp_path, monkeypatch, no_loading):
    folder = Path(shutil.copytree(repository, tmp_path / "changed"))
    (folder / "notes.txt").write_text("trained by jdoe42")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "jdoe42")
    assert "notes.txt holds the user name jdoe42." in find_problems(folder, "me/farl-lapa")
    assert find_problems(folder, "jdoe42/farl-lapa") == []


def test_incomplete_sources_are_refused(tmp_path, parsing, dual):
    with pytest.raises(FileNotFoundError, match="no saved model"):
        assemble(tmp_path, tmp_path / "out", "me/x")
    with pytest.raises(PublishingError, match="not empty"):
        assemble(dual, parsing, "me/x")
    bare = Path(shutil.copytree(parsing, tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(PublishingError, match=r"no preprocessor_config\.json"):
        assemble(bare, tmp_path / "out", "me/x")
    with pytest.raises(PublishingError, match="give owner/name"):
        publish(dual, "x", dry_run=True)


def adapter_run(dual: Path, run: Path) -> Path:
    base = farl_hf.FaRLForFaceParsing.from_pretrained(
        dual, image_size=64, num_labels=3, head_channels=32, neck_channels=32
    )
    adapter = add_adapter(base, ("pyramid", "decode_head"), rank=2)
    adapter.save_pretrained(run)
    base.config.save_pretrained(run / TASK_CONFIG_FOLDER)
    farl_hf.FaRLFaceImageProcessor(align="lapa", size=64, warp_factor=0.0).save_pretrained(run)
    return run


@pytest.mark.slow
def test_adapters_predict(dual, tmp_path):
    run = adapter_run(dual, tmp_path / "run")
    assert publish(run, "me/adapter", dry_run=True, base_model="me/farl-tiny").problems == []
    (dual / "model.safetensors").rename(dual / "away")
    try:
        assert "does not predict" in publish(run, "me/adapter", dry_run=True, base_model="me/farl-tiny").problems[0]
    finally:
        (dual / "away").rename(dual / "model.safetensors")


def test_adapters_stay_adapters(dual, tmp_path, no_loading):
    run = adapter_run(dual, tmp_path / "run")
    with pytest.raises(PublishingError, match="names no base model on the Hub"):
        publish(run, "me/adapter", dry_run=True)
    publication = publish(run, "me/adapter", output=tmp_path / "out", dry_run=True, base_model="me/farl-tiny")
    assert publication.problems == []
    assert set(publication.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
        "task_config/config.json",
    }
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == "me/farl-tiny"
    data = ModelCard.load(tmp_path / "out/README.md").data
    assert (data.library_name, data.base_model, data["base_model_relation"]) == ("peft", "me/farl-tiny", "adapter")


def test_command(parsing, capsys, monkeypatch, no_loading):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["publish", str(parsing), "--repo_id", "me/x"]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "Nothing was uploaded" in printed
    assert main(["publish", str(parsing), "--repo_id", "x"]) == 2
    assert "give owner/name" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ the stand-in of the Hub


@pytest.fixture
def hub():
    with HubStandIn() as server:
        yield server


def run_python(code: str, hub: HubStandIn, home: Path, token: str | None = TOKEN, **options) -> subprocess.Popen:
    """A process that knows the stand-in as the Hub."""
    environment = {name: os.environ[name] for name in ("PATH",)} | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=home, **options
    )


def output_of(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    return printed


LOAD = """
import farl_hf, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
try:
    AutoImageProcessor.from_pretrained("me/farl-lapa", token=False)
except OSError:
    print("strangers see nothing")
model = AutoModelForSemanticSegmentation.from_pretrained("me/farl-lapa").eval()
processor = AutoImageProcessor.from_pretrained("me/farl-lapa")
with torch.no_grad():
    print("sum", model(torch.ones(1, 3, 64, 64)).logits.double().abs().sum().item(), processor.size)
"""
PUSH_TWICE = """
from huggingface_hub.errors import HfHubHTTPError
from farl_hf.hub.publishing import push_folder
try:
    push_folder({folder!r}, "me/farl-lapa", private=True)
except HfHubHTTPError as error:
    print("cut:", error.response.status_code)
print(push_folder({folder!r}, "me/farl-lapa", private=True))
"""


def test_push_cut_repeated_and_loaded(repository, hub, tmp_path):
    code = PUSH_TWICE.format(folder=str(repository))
    # Cut: the process dies when half of the weights have left.
    process = run_python(code, hub, tmp_path)
    hub.on_half_an_object = process.kill
    process.communicate(timeout=300)
    assert process.returncode != 0 and hub.repositories["me/farl-lapa"]["main"] == {} and not hub.objects
    # Cut again, between the weights and the commit; repeated, the weights are there already.
    hub.on_half_an_object, hub.commits_to_refuse = None, 1
    printed = output_of(run_python(code, hub, tmp_path))
    assert "cut: 500" in printed and f"{hub.url}/me/farl-lapa/commit/" in printed
    assert hub.count("POST", "/commit/") == 2 and hub.count("PUT", "/objects/") == 2
    assert set(hub.repositories["me/farl-lapa"]["main"]) == files_of(repository)
    assert hub.private == {"me/farl-lapa"}
    # Loaded from there.
    model = farl_hf.FaRLForFaceParsing.from_pretrained(repository).eval()
    with torch.no_grad():
        expected = model(torch.ones(1, 3, 64, 64)).logits.double().abs().sum().item()
    home = tmp_path / "home"
    home.mkdir()
    printed = output_of(run_python(LOAD, hub, home))
    line = next(row for row in printed.splitlines() if row.startswith("sum"))
    assert float(line.split()[1]) == pytest.approx(expected, rel=1e-5) and "64" in line
    assert "strangers see nothing" in printed


@pytest.mark.slow
def test_loaded_from_the_hub_without_the_package(repository, hub, tmp_path):
    files = {name: (repository / name).read_bytes() for name in files_of(repository)}
    hub.repositories["me/farl-lapa"] = {"main": files}
    code = LOAD.replace("import farl_hf, torch", "import sys; sys.modules['farl_hf'] = None; import torch")
    code = code.replace('from_pretrained("me/farl-lapa"', 'from_pretrained("me/farl-lapa", trust_remote_code=True')
    assert "sum " in output_of(run_python(code, hub, tmp_path))


@pytest.mark.slow
def test_an_adapters_card_runs_from_the_hub(dual, hub, tmp_path, no_loading):
    adapter = tmp_path / "out"
    options = {"base_model": "me/farl-tiny", "dry_run": True}
    publish(adapter_run(dual, tmp_path / "run"), "me/adapter", output=adapter, **options)
    for name, folder in (("me/farl-tiny", dual), ("me/adapter", adapter)):
        hub.repositories[name] = {"main": {file: (folder / file).read_bytes() for file in files_of(folder)}}
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.jpg")
    code = ModelCard.load(adapter / "README.md").text.split("```python\n")[1].split("```")[0]
    assert 'load_task_model("me/adapter")' in code
    code += """
try:
    load_task_model("me/nothing")
except FileNotFoundError as error:
    print("refused:", error)
"""
    printed = output_of(run_python(code, hub, tmp_path))
    assert (tmp_path / "drawn.jpg").is_file()
    assert "refused: me/nothing is neither a folder here nor a model on the Hub" in printed


def test_branches_pull_requests_and_the_same_card(repository, parsing, hub, tmp_path):
    code = f"""
from pathlib import Path
import farl_hf
from farl_hf.hub.publishing import push_folder
push_folder({str(repository)!r}, "me/farl-lapa")
push_folder({str(repository)!r}, "me/farl-lapa", revision="next")
print(push_folder({str(repository)!r}, "me/farl-lapa", create_pr=True))
model = farl_hf.FaRLForFaceParsing.from_pretrained({str(parsing)!r})
model.push_to_hub("me/from-model", private=True, tags=["mine"])
try:
    farl_hf.optimize_for_inference(model).push_to_hub("me/never")
except ValueError as error:
    print("refused:", error)
"""
    run = Path(shutil.copytree(parsing, tmp_path / "run"))
    code += f"""
import numpy as np
from transformers import TrainingArguments
from farl_hf.finetuning.trainer import FaRLTrainer
settings = TrainingArguments(
    output_dir={str(run)!r}, use_cpu=True, report_to="none", hub_model_id="me/from-trainer", push_to_hub=True
)
FaRLTrainer(model, settings, backbone_lr=1e-4, ema_decay=0.9, train_dataset=[np.zeros(1)]).push_to_hub()
"""
    printed = output_of(run_python(code, hub, tmp_path))
    assert "/discussions/1" in printed and "refused: This is a copy for inference" in printed
    assert set(hub.repositories["me/farl-lapa"]) == {"main", "next", "refs/pr/1"} and "me/never" not in hub.repositories
    pushed = ModelCard(hub.repositories["me/from-model"]["main"]["README.md"].decode())
    assert pushed.data.tags == ["farl", "face", "mine"]
    ours = Path(shutil.copytree(parsing, tmp_path / "copy"))
    (ours / "results.json").unlink()
    (ours / "finetune_config.json").unlink()
    assert pushed.text == ModelCard.load(write_card(ours, "me/from-model")).text
    # The Trainer's: the run's scores too, and the averaged weights alone.
    theirs = hub.repositories["me/from-trainer"]["main"]
    same = Path(shutil.copytree(parsing, tmp_path / "same"))
    assert theirs["README.md"].decode() == write_card(same, "me/from-trainer").read_text()
    assert [name for name in theirs if name.endswith(".safetensors")] == ["model.safetensors"]


def test_card_of_the_trainer(parsing, tmp_path):
    from transformers import TrainingArguments

    from farl_hf.finetuning.trainer import FaRLTrainer

    output = Path(shutil.copytree(parsing, tmp_path / "run"))
    trainer = FaRLTrainer(
        farl_hf.FaRLForFaceParsing.from_pretrained(parsing),
        TrainingArguments(output_dir=str(output), use_cpu=True, report_to="none", hub_model_id="me/farl-lapa"),
        backbone_lr=1e-4,
        train_dataset=[np.zeros(1)],
    )
    trainer.hub_model_id = "me/farl-lapa"
    trainer.create_model_card(model_name="farl-lapa")
    theirs = (output / "README.md").read_text()
    folder = assemble(parsing, tmp_path / "repository", "me/farl-lapa")
    assert theirs == (folder / "README.md").read_text()
