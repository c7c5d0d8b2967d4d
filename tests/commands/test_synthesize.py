"""`farl synthesize`: from words to writers."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_cases import make_samples

from farl_hf.commands.main import main
from farl_hf.commands.synthesize import LAYOUTS
from farl_hf.synthetic import SyntheticFaceConfig, writers


@pytest.fixture
def drawn(monkeypatch):
    """The configurations of what was drawn."""
    configs = []

    def render(seeds, config):
        configs.append(config)
        return make_samples(seeds, config)

    monkeypatch.setattr(writers, "render_faces", render)
    return configs


@pytest.mark.parametrize(
    "layout, expected",
    {
        "webdataset": ["00000.tar", "00001.tar"],
        "lapa": ["LaPa/train/images/000003.jpg", "LaPa/val/labels/000001.png", "LaPa/test/landmarks/000000.txt"],
        "celebamask_hq": ["CelebAMask-HQ/CelebA-HQ-img/6.jpg", "CelebAMask-HQ/list_eval_partition.txt"],
        "ibug300w": ["IBUG300W/face_landmarks_300w_train.csv", "IBUG300W/helen/trainset/image_0003_1.jpg"],
        "wflw": ["WFLW/WFLW_images/test_00000.jpg", "WFLW/face_landmarks_wflw_train.csv"],
        "aflw19": ["AFLW-19/data/flickr/0/image00004.jpg", "AFLW-19/AFLWinfo_release.mat"],
        "celeba": ["celeba/img_align_celeba/000007.jpg", "celeba/list_attr_celeba.txt"],
    }.items(),
)
def test_layouts(layout, expected, drawn, tmp_path):
    words = ["--num", "4", "--layout", layout, "--image-size", "48", "--num-workers", "1", "--glasses", "0.5"]
    words += ["--yaw", "60", "90", "--without", "hats", "noise"]
    words += ["--samples-per-shard", "3"] if layout == "webdataset" else ["--num-test", "1"]
    words += ["--num-val", "2"] if layout in ("lapa", "celebamask_hq", "celeba") else []
    assert main(["synthesize", str(tmp_path), *words]) == 0
    for name in expected:
        assert (tmp_path / name).is_file()
    config = SyntheticFaceConfig(image_size=48, glasses=0.5, yaw=(60, 90), without=("hats", "noise"))
    assert set(drawn) == {config}


def test_all_layouts_are_tested():
    (parameters,) = test_layouts.pytestmark
    assert {layout for layout, _ in parameters.args[1]} == set(LAYOUTS)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--num", "0"], "--num is 0: at least one"),
        (["--glasses", "2"], "glasses is 2.0: a probability lies between 0 and 1"),
        (["--image-size", "8"], "image_size is 8"),
        (["--backgrounds", "no/such/folder"], "no/such/folder is not a folder"),
        (["--layout", "wflw", "--num-val", "3"], "--num-val: wflw has no validation split"),
        (["--num-test", "3"], "--num-test: a webdataset has no splits"),
        (["--num-workers", "0"], "num_workers is 0"),
    ],
)
def test_bad_settings_are_told(words, message, drawn, tmp_path, capsys):
    assert main(["synthesize", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not drawn


def test_unknown_words_are_told_by_the_parser(tmp_path, capsys):
    for words, message in ((["--layout", "ffhq"], "choose from"), (["--without", "gravity"], "gravity")):
        with pytest.raises(SystemExit):
            main(["synthesize", str(tmp_path), *words])
        assert message in capsys.readouterr().err


def test_help_starts_without_torch_and_tells_all_settings():
    code = "import sys; from farl_hf.commands.main import main\ntry: main(['synthesize', '--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules, 'warp' in sys.modules)"
    root = Path(__file__).parents[2]
    text = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert text.endswith("False False\n")
    untold = {"depth", "normals"}  # no layout has them
    for name in set(SyntheticFaceConfig.__dataclass_fields__) - untold:
        assert f"--{name.replace('_', '-')}" in text
