"""
Publishing: a saved folder becomes a complete Hub repository ([`assemble`]), is read in clean processes and searched for
what must not leave the machine ([`find_problems`]), and is pushed ([`publish`]).
"""

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from PIL import Image
from safetensors import safe_open

from ..models.configuration_farl import FaRLConfig
from ..models.tokenization import build_processor
from .cards import Measurement, measurements, write_eval_results, write_model_card
from .remote_code import AUTO_CLASSES, PIPELINES, export_remote_code

# What a training folder has that a repository needs. Checkpoints, optimizer states and logs stay at home.
_CARRIED = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "task_config/config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_DUAL_ENCODERS = ("FaRLModel", "FaRLForPreTraining")
# Longest side in pixels of example pictures.
_EXAMPLE_SIDE = 1024
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
# Keys of an evaluation that are told; scores of single images name files.
_TOLD = ("dataset", "split", "precision", "convention", "localisation", "num_samples", "num_skipped", "metrics")

_SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password": re.compile(r"(?i)\b(?:password|passwd|secret|api_key)\b[\"']?\s*[:=]\s*[\"']?[^\s\"',]{6,}"),
}
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])(?:(?:file:/*|~)?/(?:home|Users|root|mnt|media|tmp|var|private|data|datasets|work|workspace|scratch|srv"
    r"|opt|content|kaggle)/[\w.+-]+|~/[\w.+-]+|[A-Za-z]:\\+\w+)"
)
# Names of users that are nobody's.
_COMMON_USERS = {"root", "user", "admin", "ubuntu", "runner", "jovyan", "nobody", "docker", "test", "farl"}
# Scanned for the above. The vocabulary is CLIP's own.
_SCANNED = (".json", ".md", ".yaml", ".yml", ".txt", ".html", ".csv")
_NOT_SCANNED = ("tokenizer.json", "vocab.json", "merges.txt")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz")


class PublishingError(ValueError):
    """A folder that cannot or must not be published; the message lists why."""


def assemble(
    source: str | Path,
    output: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    evaluations: Sequence[str | Path] = (),
    dataset_ids: Mapping[str, tuple[str, str]] | None = None,
    examples: Sequence[str | Path] = (),
    license: str = "mit",
    learnt_from: str | None = None,
) -> Path:
    """
    Writes a complete repository: weights (safetensors), config, processor, tokenizer, the code for
    `trust_remote_code=True`, card, evaluation and example pictures. Adapters stay adapters, and name their base model
    by its Hub name.

    Args:
        source: Folder that `save_pretrained`, `scripts/pretrain.py`, `scripts/finetune.py` or `farl convert` wrote.
        output: New or empty folder.
        repo_id: Name on the Hub, `owner/name`; the card's code loads it.
        base_model: Hub name of the model that this one was tuned from, or `"none"` for one that started from random
            weights; by default what the run's settings say.
        datasets: Hub names of the training data.
        evaluations: JSON files of `scripts/evaluate.py`. The test scores in a fine-tuning run's `results.json` are
            taken as well.
        dataset_ids: See [`write_eval_results`].
        examples: Pictures to show in the card. They are written anew, smaller, without their metadata.
        license: Of the weights, by its name on the Hub.
        learnt_from: See [`model_card`].

    Raises:
        FileNotFoundError: If the source is no saved model, or a file is missing.
        PublishingError: If the output is not empty, or the source lacks what a repository needs.
    """
    source, output = Path(source), Path(output)
    is_adapter = (source / "adapter_config.json").is_file()
    if not is_adapter and not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source} has no config.json and no adapter_config.json: it holds no saved model.")
    if output.is_dir() and any(output.iterdir()):
        raise PublishingError(f"{output} is not empty: choose a new folder.")
    for pattern in _CARRIED:
        for path in sorted(source.glob(pattern)):
            target = output / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if not list(output.glob("*.safetensors")):
        raise PublishingError(f"{source} has no weights in safetensors: save the model with save_pretrained.")
    base_model = base_model or _base_model(source)
    if is_adapter:
        _name_base_model(output, base_model)
        config = FaRLConfig.from_pretrained(output / "task_config")
    else:
        config = FaRLConfig.from_pretrained(output)
        _forget_where_it_was_saved(output / "config.json")
    architecture = (config.architectures or ["FaRLModel"])[0]
    if not any((output / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        if architecture not in _DUAL_ENCODERS:
            raise PublishingError(
                f"{source} has no preprocessor_config.json: save the crop recipe beside the model with "
                "FaRLFaceImageProcessor(...).save_pretrained(folder)."
            )
        build_processor(config.image_size, config.text_config.vocab_size).save_pretrained(output)
    if not is_adapter:
        export_remote_code(output)
    results = [json.loads(Path(path).read_text()) for path in evaluations]
    if (source / "results.json").is_file():
        results.append(json.loads((source / "results.json").read_text()))
    scores = [score for result in results for score in measurements(result)]
    if results:
        _write_json(output / "evaluation.json", [_told(result) for result in results])
    write_eval_results(output, scores, dataset_ids or {})
    pictures = [_write_example(Path(path), output) for path in examples]
    write_card(
        output,
        repo_id,
        base_model=base_model,
        datasets=datasets,
        measured=scores,
        license=license,
        learnt_from=learnt_from,
        old_card=source / "README.md",
        pictures=pictures,
    )
    return output


def write_card(
    folder: str | Path,
    repo_id: str,
    *,
    old_card: Path | None = None,
    results: str = "",
    pictures: Sequence[Path] = (),
    measured: Sequence[Measurement] | None = None,
    base_model: str | None = None,
    **options: Any,
) -> Path:
    """
    Writes the card of a saved model or adapter under the name that it has on the Hub: the one card of fine-tuning,
    `farl publish`, `Trainer.push_to_hub` and `model.push_to_hub`.

    Args:
        folder: Of the model.
        repo_id: Name on the Hub.
        old_card: Card whose source and results are kept, if it exists.
        results: Section of results in the place of the old card's.
        pictures: Files in the folder to show.
        measured: Scores; by default those of the folder's `results.json`.
        base_model: By default what the folder's settings say.
        options: See [`model_card`].
    """
    folder = Path(folder)
    adapter = folder / "task_config"
    if measured is None:
        path = folder / "results.json"
        measured = measurements(json.loads(path.read_text())) if path.is_file() else ()
    text = old_card.read_text(encoding="utf-8") if old_card is not None and old_card.is_file() else ""
    converted = re.search(r"^Converted from `([^`]+)` by", text, re.MULTILINE)
    old_results = re.search(r"^## Results\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    parts = [results or (old_results[0].strip() if old_results else "")]
    if pictures:
        shown = "\n".join(f"![{path.stem}]({path.relative_to(folder).as_posix()})" for path in pictures)
        parts.append(f"## Examples\n\n{shown}")
    return write_model_card(
        folder,
        repo_id,
        converted[1] if converted else None,
        "\n\n".join(part for part in parts if part),
        FaRLConfig.from_pretrained(adapter) if adapter.is_dir() else None,
        measured=measured,
        base_model=base_model or _base_model(folder),
        **options,
    )


def find_problems(folder: str | Path, repo_id: str, base_folder: str | Path | None = None) -> list[str]:
    """
    What speaks against publishing a folder, in sentences; none if it is in order. The model is opened in clean
    processes, offline, with this package and without it (`trust_remote_code=True`), and both must give the same
    answer for one picture.

    Args:
        folder: That [`assemble`] wrote.
        repo_id: Name on the Hub; the owner's name may be told.
        base_folder: Of an adapter: a local copy of its base model. Without it the adapter's prediction is not tried.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    problems = [problem for path in files for problem in _problems_of_file(path, path.relative_to(folder), repo_id)]
    problems += _problems_of_code(folder) + _problems_of_card(folder)
    if not problems:
        problems += _problems_of_loading(folder, base_folder)
    return problems


@dataclass(frozen=True)
class Publication:
    """
    What [`publish`] did or, in a dry run, would do.

    Attributes:
        repo_id: Name on the Hub.
        files: Path in the repository -> size in bytes.
        problems: See [`find_problems`].
        url: Of the commit or the pull request; `None` in a dry run.
    """

    repo_id: str
    files: dict[str, int]
    problems: list[str]
    url: str | None = None


def publish(
    source: str | Path,
    repo_id: str,
    *,
    output: str | Path | None = None,
    dry_run: bool = False,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    base_folder: str | Path | None = None,
    **options: Any,
) -> Publication:
    """
    Assembles, checks and pushes a folder. A push that was cut is repeated by the same call: what the Hub has already is
    not sent again.

    Args:
        source: Folder of a saved model or adapter.
        repo_id: `owner/name`.
        output: Where to keep what is pushed; by default a temporary folder.
        dry_run: Push nothing, and need no token.
        private: Whether a new repository is private.
        revision: Branch to push to; made if it is missing.
        create_pr: Open a pull request in the place of a commit.
        token: Of the Hub; by default the one that `hf auth login` stored.
        base_folder: Of an adapter: a local copy of its base model; by default the folder that it names.
        options: See [`assemble`].

    Raises:
        PublishingError: If something is missing or must not be published; nothing was pushed.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise PublishingError(f"repo_id is {repo_id!r}: give owner/name.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = assemble(source, output or Path(scratch) / "repository", repo_id, **options)
        problems = find_problems(folder, repo_id, base_folder or _local_base(Path(source)))
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        if dry_run:
            return Publication(repo_id, files, problems)
        if problems:
            raise PublishingError("Not published:\n" + "\n".join(f"- {problem}" for problem in problems))
        url = push_folder(folder, repo_id, private=private, revision=revision, create_pr=create_pr, token=token)
    return Publication(repo_id, files, problems, url)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> str:
    """Pushes a folder as it is, see [`publish`]; returns the address of the commit or the pull request."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or "Upload model with farl_hf",
        commit_description=commit_description,
    )
    return info.pr_url or info.commit_url


def push_model(
    model: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str | None = "50GB",
    tags: Sequence[str] | None = None,
) -> str:
    """
    `model.push_to_hub` of this package's models: as that of `PreTrainedModel`, with the card of [`write_card`]. What
    cannot be saved is refused before a repository is made. For processor, tokenizer and code as well, see [`publish`].
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        path = write_card(folder, repo_id, base_model=_hub_name(model.name_or_path))
        if tags:
            card = ModelCard.load(path)
            card.data.tags = list(dict.fromkeys([*card.data.tags, *tags]))
            card.save(path)
        return push_folder(
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            token=token,
            commit_message=commit_message,
            commit_description=commit_description,
        )


# ------------------------------------------------------------------------------------------------- writing the folder


def _hub_name(name: str | None) -> str | None:
    """The name if it is one on the Hub, not a folder here."""
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None


def _base_model(source: Path) -> str | None:
    """The base model that an adapter or a run's settings name, if it is on the Hub; `"none"` for random weights."""
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("finetune_config.json", "model")):
        if (source / file).is_file():
            settings = json.loads((source / file).read_text())
            return "none" if settings.get("preset") else _hub_name(settings.get(key))
    return None


def _local_base(source: Path) -> Path | None:
    """The folder of an adapter's base model, if it is here."""
    if not (source / "adapter_config.json").is_file():
        return None
    base = Path(json.loads((source / "adapter_config.json").read_text())["base_model_name_or_path"])
    return base if base.is_dir() else None


def _name_base_model(output: Path, base_model: str | None) -> None:
    if base_model is None:
        raise PublishingError(
            "The adapter names no base model on the Hub: publish the base model first and give its name, "
            "--base_model owner/name."
        )
    path = output / "adapter_config.json"
    _write_json(path, {**json.loads(path.read_text()), "base_model_name_or_path": base_model})
    _forget_where_it_was_saved(output / "task_config/config.json")


def _forget_where_it_was_saved(path: Path) -> None:
    content = json.loads(path.read_text())
    content.pop("_name_or_path", None)
    _write_json(path, content)


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without what names files."""
    if "test_best" in result:
        return {"dataset": result["benchmark"], "split": "test", "metrics": result["test_best"]}
    return {name: result[name] for name in _TOLD if name in result}


def _write_example(path: Path, output: Path) -> Path:
    target = output / "examples" / f"{path.stem}.jpg"
    target.parent.mkdir(exist_ok=True)
    with Image.open(path) as image:
        picture = Image.new("RGB", image.size, "white")
        picture.paste(image.convert("RGB"))
    picture.thumbnail((_EXAMPLE_SIDE, _EXAMPLE_SIDE))
    picture.save(target, quality=90)
    return target


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------ checking the folder


def _problems_of_file(path: Path, name: Path, repo_id: str) -> list[str]:
    """What one file must not hold."""
    if path.suffix in _PICKLES:
        return [f"{name} can hold a pickle, which runs code where it is opened: publish safetensors."]
    if path.suffix == ".py":
        return []
    if path.suffix in _PICTURES:
        with Image.open(path) as image:
            kept = [key for key in image.info if key in ("exif", "comment", "xmp", "Software", "Author", "Comment")]
        return [f"{name} carries metadata ({', '.join(kept)}): save the picture without."] if kept else []
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            text = json.dumps(file.metadata() or {})
    elif path.suffix in _SCANNED and path.name not in _NOT_SCANNED:
        text = path.read_text(encoding="utf-8")
    else:
        return []
    problems = [f"{name} holds {what}." for what, pattern in _SECRETS.items() if pattern.search(text)]
    token = get_token()
    if token and token in text and not problems:
        problems.append(f"{name} holds your Hugging Face token.")
    if found := _LOCAL_PATH.search(text):
        problems.append(f"{name} names a path of this machine: {found[0]}.")
    users = {_user(), Path.home().name} - _COMMON_USERS - {repo_id.split("/")[0], ""}
    problems += [f"{name} holds the user name {user}." for user in users if re.search(rf"\b{re.escape(user)}\b", text)]
    return problems


def _problems_of_code(folder: Path) -> list[str]:
    """Files of code that are not what [`export_remote_code`] writes."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}
    exported: dict[str, bytes] = {}
    if found and (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as scratch:
            for path in folder.glob("*.json"):
                shutil.copyfile(path, Path(scratch) / path.name)
            paths = export_remote_code(scratch)
            exported = {path.name: path.read_bytes() for path in paths if path.suffix == ".py"}
    return [
        f"{name} is not the code of this package." for name, code in sorted(found.items()) if exported.get(name) != code
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _problems_of_card(folder: Path) -> list[str]:
    path = folder / "README.md"
    if not path.is_file():
        return ["README.md is missing."]
    try:
        # Its metadata alone: the Hub is asked again when it is pushed.
        data = ModelCard(path.read_text(encoding="utf-8")).data
    except Exception as error:
        return [f"The metadata of README.md cannot be read: {error}"]
    problems = [
        f"README.md names no {name}." for name in ("license", "library_name", "pipeline_tag") if not getattr(data, name)
    ]
    is_adapter = (folder / "adapter_config.json").is_file()
    config = FaRLConfig.from_pretrained(folder / "task_config" if is_adapter else folder)
    is_task = (config.architectures or ["FaRLModel"])[0] not in _DUAL_ENCODERS
    has_origin = re.search(r"^Converted from `|, starting from random weights", path.read_text(), re.MULTILINE)
    if is_task and not has_origin and not data.base_model:
        problems.append("README.md names no base model: give --base_model owner/name, or none for random weights.")
    return problems


# Run in a process of its own. Arguments: folder, Auto class, with/without the package, folder of an adapter, pipeline.
_PREDICT = """
import sys
folder, auto_class, package, adapter, task = sys.argv[1:6]
if package == "without":
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "farl_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Missing())
else:
    import farl_hf
import numpy as np
import torch
import transformers
from PIL import Image

torch.manual_seed(0)
torch.set_num_threads(1)
options = {"trust_remote_code": True} if package == "without" else {}
if adapter:
    from farl_hf.finetuning import load_task_model
    model = load_task_model(adapter)
    folder = adapter
else:
    model, loading = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True, **options)
    if loading["missing_keys"] or loading["mismatched_keys"]:
        sys.exit(f"weights are missing: {sorted(loading['missing_keys'])[:3]}")
model.eval()
y, x = np.mgrid[:160, :160]
picture = Image.fromarray(np.stack([x, y, 160 - x], axis=-1).astype(np.uint8))
with torch.no_grad():
    if auto_class == "AutoModel":
        processor = transformers.AutoProcessor.from_pretrained(folder, **options)
        inputs = processor(text=["a face", "a car"], images=picture, padding=True, return_tensors="pt")
        answer = model(**inputs).logits_per_image
        pipeline = transformers.pipeline("zero-shot-image-classification", model=folder, **options)
        assert len(pipeline(picture, candidate_labels=["a face", "a car"])) == 2
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)
        face = {}
        if processor.align == "box":
            face = {"boxes": [[[40.0, 40.0, 120.0, 120.0]]]}
        elif processor.align is not None:
            face = {"face_points": [[[[60.0, 65.0], [100.0, 65.0], [80.0, 90.0], [65.0, 110.0], [95.0, 110.0]]]]}
        inputs = processor([picture], return_tensors="pt", **face)
        if not adapter:
            found = transformers.pipeline(task, model=folder, **options)([picture], **face)
            assert len(found) == 1 and len(found[0]) == 1, found
        outputs = model(inputs["pixel_values"])
        if auto_class == "AutoModelForSemanticSegmentation":
            (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
            assert tuple(labels.shape) == (160, 160), labels.shape
            answer = outputs.logits
        elif auto_class == "AutoModelForKeypointDetection":
            answer = processor.post_process_landmarks(outputs, inputs["face_transforms"])[0]
        else:
            answer = outputs.logits
print("answer", *[f"{value:.6g}" for value in answer.double().flatten()[::997][:16].tolist()])
"""


def _problems_of_loading(folder: Path, base_folder: str | Path | None) -> list[str]:
    if (folder / "adapter_config.json").is_file():
        if base_folder is None:
            return []
        with tempfile.TemporaryDirectory() as scratch:
            adapter = Path(shutil.copytree(folder, Path(scratch) / "adapter"))
            path = adapter / "adapter_config.json"
            base = str(Path(base_folder).resolve())
            _write_json(path, {**json.loads(path.read_text()), "base_model_name_or_path": base})
            error, _ = _predict(folder, FaRLConfig.from_pretrained(adapter / "task_config"), "with", adapter)
            return [error] if error else []
    config = FaRLConfig.from_pretrained(folder)
    errors, answers = zip(*(_predict(folder, config, package) for package in ("with", "without")), strict=True)
    problems = [error for error in errors if error]
    if not problems and not _close(*answers):
        problems.append(f"The answers with and without the package differ: {answers[0]} and {answers[1]}.")
    return problems


def _predict(folder: Path, config: FaRLConfig, package: str, adapter: Path | str = "") -> tuple[str, list[float]]:
    """One prediction in a clean process: what went wrong, if anything, and some numbers of the answer."""
    architecture = (config.architectures or ["FaRLModel"])[0]
    auto_class, (task, _) = next(iter(AUTO_CLASSES[architecture])), PIPELINES.get(architecture, ("", ""))
    with tempfile.TemporaryDirectory() as home:
        keep = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HOME": home, "USERPROFILE": home}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", _PREDICT, str(folder.resolve()), auto_class, package, str(adapter), task]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"The model does not predict in a clean process {package} the package: {last}", []
    line = next(line for line in done.stdout.splitlines() if line.startswith("answer"))
    return "", [float(value) for value in line.split()[1:]]


def _close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    scale = max(map(abs, ours), default=0) + 1e-6
    return len(ours) == len(theirs) and all(abs(a - b) < 1e-4 * scale for a, b in zip(ours, theirs, strict=True))
