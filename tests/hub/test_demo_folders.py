"""The demonstration's folders, published, answer where only torch, transformers and Pillow are installed."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import skimage.data
from packaging.requirements import Requirement
from PIL import Image
from script_cases import load_script

from farl_hf.hub.publishing import publish
from farl_hf.synthetic import write_celeba, write_ibug300w, write_lapa, write_webdataset

# Name -> Auto class, pipeline's task.
FOLDERS = {
    "farl-pretrained": ("AutoModel", "zero-shot-image-classification"),
    "parsing-farl-tiny": ("AutoModelForSemanticSegmentation", "face-parsing"),
    "alignment-farl-tiny": ("AutoModelForKeypointDetection", "face-alignment"),
    "attributes-random": ("AutoModelForImageClassification", "face-attributes"),
}


def bare_site_packages(folder: Path) -> Path:
    """A folder of links to torch, transformers and Pillow, which reads the photo, and to what they require, no more."""
    wanted, found = ["torch", "transformers", "pillow"], set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        requirements = map(Requirement, package.requires or [])
        wanted += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
        # CUDA's libraries share their folder; some come by extras of torch's requirements.
        for top in {file.parts[0] for file in package.files or ()} - {".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    return folder


ANSWER = """
import importlib.util, json, sys
for name in ("farl_hf", "scipy", "datasets", "peft", "accelerate", "evaluate", "cv2", "torchvision", "matplotlib"):
    assert importlib.util.find_spec(name) is None, name
import transformers
from PIL import Image
parent, folders = sys.argv[1], json.loads(sys.argv[2])
image = Image.open(parent + "/photo.png")
for name, (auto_class, task) in folders.items():
    options = {"trust_remote_code": True}
    model = getattr(transformers, auto_class).from_pretrained(f"{parent}/{name}", **options)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    pipe = transformers.pipeline(task, model=f"{parent}/{name}", **options)
    if auto_class == "AutoModel":
        transformers.AutoProcessor.from_pretrained(f"{parent}/{name}", **options)
        answer = pipe(image, candidate_labels=["a woman", "a car"])
        assert {row["label"] for row in answer} == {"a woman", "a car"}
    else:
        transformers.AutoImageProcessor.from_pretrained(f"{parent}/{name}", **options)
        (faces,) = pipe([image], face_points=[POINTS])
        assert len(faces) == 1
        if task == "face-parsing":
            assert faces.label_map.shape == (512, 512), faces
        elif task == "face-alignment":
            assert faces.landmarks.shape == (1, 68, 2), faces
        else:
            assert faces.attributes.shape == (1, len(faces.attribute_names)) and faces.attribute_names, faces
        faces.draw(image)
    print("answered", name, flush=True)
""".replace("POINTS", str([[[203.0, 111.0], [247.0, 113.0], [227.0, 137.0], [206.0, 149.0], [243.0, 151.0]]]))


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory):
    """What `scripts/demo.py` leaves, from a few faces and steps, and a model of attributes made the same way."""
    demo, output = load_script("demo"), tmp_path_factory.mktemp("demo_output")
    sizes, counts = {"finetune_steps": 2}, {"train": 16, "val": 1, "test": 2}
    write_webdataset(output / "shards", 32, 200, demo.FACES)
    write_lapa(output / "data/parsing", counts, demo.FACES)
    write_ibug300w(output / "data/alignment", {"train": 16, "valid_common": 1, "valid_challenge": 1}, demo.FACES)
    defined = write_celeba(output / "data/attributes", counts, demo.FACES)
    (output / "data/attributes/defined.json").write_text(json.dumps(defined))
    demo.TASKS["attributes"] = ("celeba", "mean accuracy", True)
    demo.pretrain_tiny(output, steps=2)
    for name in list(FOLDERS)[1:]:
        task, _, start = name.partition("-")
        demo.tune(task, start, output / name, sizes)
    demo.tune("parsing", "farl-tiny", output / "parsing-lora", sizes, tuning="lora")
    return output


@pytest.mark.slow
def test_published_folders_answer_on_a_bare_machine(demo_output, tmp_path):
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.png")
    for name in FOLDERS:
        base = None if name == "farl-pretrained" else "me/farl-tiny"
        publication = publish(demo_output / name, f"me/{name}", output=tmp_path / name, dry_run=True, base_model=base)
        assert publication.problems == [], name
    home, bare = tmp_path / "home", tmp_path / "site-packages"
    home.mkdir()
    bare.mkdir()
    bare_site_packages(bare)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(bare), "OMP_NUM_THREADS": "1"}
    # Without the module `site` this environment's own packages are out of sight.
    command = [sys.executable, "-S", "-c", ANSWER, str(tmp_path), json.dumps(FOLDERS)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("answered") == len(FOLDERS)


@pytest.mark.slow
def test_adapter_of_the_demonstration_is_published(demo_output):
    publication = publish(demo_output / "parsing-lora", "me/lora", dry_run=True, base_model="me/farl-tiny")
    assert publication.problems == [] and "adapter_model.safetensors" in publication.files
