"""Photos in every form that people have them in."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from farl_hf import FaRLFaceImageProcessor
from farl_hf.models.image_loading_farl import to_rgb_image, to_rgb_tensor

HEIGHT, WIDTH = 20, 30


def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).movedim(-1, 0).float()


def grey(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(levels).float().expand(3, -1, -1)


def files() -> dict[str, tuple[Image.Image, torch.Tensor, float]]:
    """File name to the picture in it, what it should give, and the tolerance (a palette and JPEG are lossy)."""
    image = Image.fromarray(rgb())
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) / (HEIGHT * WIDTH - 1)
    eight = (levels * 255).astype(np.uint8)
    sixteen = (levels * 65535).astype(np.uint16)
    colours = channels_first(rgb()) / 255
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(eight))
    palette = image.quantize(16)
    return {
        "rgb.png": (image, colours, 0),
        "alpha.png": (alpha, colours, 0),
        "cmyk.tiff": (image.convert("CMYK"), colours, 0),
        "grey.png": (Image.fromarray(eight), grey(eight) / 255, 0),
        "grey_alpha.png": (Image.fromarray(eight).convert("LA"), grey(eight) / 255, 0),
        "one_bit.png": (Image.fromarray(levels > 0.5), grey((levels > 0.5).astype(np.float32)), 0),
        "palette.png": (palette, channels_first(np.asarray(palette.convert("RGB"))) / 255, 0),
        "16_bit.png": (Image.fromarray(sixteen), grey(sixteen.astype(np.int32)) / 65535, 1e-6),
        "16_bit.tiff": (Image.fromarray(sixteen), grey(sixteen.astype(np.int32)) / 65535, 1e-6),
        "16_bit_in_32.tiff": (Image.fromarray(sixteen.astype(np.int32)), grey(sixteen.astype(np.int32)) / 65535, 1e-6),
        "8_bit_in_32.tiff": (Image.fromarray(eight.astype(np.int32)), grey(eight) / 255, 1e-6),
        "32_bit.tiff": (Image.fromarray((levels * (2**31 - 1)).astype(np.int32)), grey(levels), 1e-6),
        "float.tiff": (Image.fromarray(levels.astype(np.float32)), grey(levels), 1e-6),
        "float_255.tiff": (Image.fromarray(eight).convert("F"), grey(eight) / 255, 1e-6),
    }


@pytest.mark.parametrize("name", files())
def test_path_and_picture_give_the_same_numbers(tmp_path, name):
    picture, expected, tolerance = files()[name]
    path = tmp_path / name
    picture.save(path)
    for source in (str(path), path, Image.open(path), picture):
        pixels = to_rgb_tensor(source)
        assert pixels.dtype == torch.float32 and pixels.shape == (3, HEIGHT, WIDTH)
        assert (pixels - expected).abs().max() <= tolerance, source
        rounded = channels_first(np.asarray(to_rgb_image(source)))
        assert torch.equal(rounded, (pixels * 255).round()), source


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path, orientation):
    """Marked at each corner: what is top left in the tag's sense comes out top left, for crops and detectors alike."""
    stored = rgb()
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a[:, ::-1].transpose(1, 0, 2),
    }
    expected = np.ascontiguousarray(undo[orientation](stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    for source in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        assert np.array_equal(np.asarray(to_rgb_image(source)), expected)
        assert torch.equal(to_rgb_tensor(source) * 255, channels_first(expected))


def test_damaged_exif_loses_no_photo(monkeypatch):
    def broken(image):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("farl_hf.models.image_loading_farl.ImageOps.exif_transpose", broken)
    assert torch.equal(to_rgb_tensor(Image.fromarray(rgb())) * 255, channels_first(rgb()))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", ">u2", ">i8"])
def test_integers(dtype):
    """Bytes in wider types are bytes, which made black pictures; types of 16 bits span their range."""
    eight = rgb()
    top = {"int16": 2**15 - 1, "uint16": 2**16 - 1}.get(np.dtype(dtype).name, 255)
    levels = (eight.astype(np.int64) * top // 255).astype(dtype)
    expected = channels_first(levels.astype(np.int64)) / top
    assert (to_rgb_tensor(levels) - expected).abs().max() < 1e-6
    if np.dtype(dtype).isnative:
        assert (to_rgb_tensor(torch.from_numpy(levels).movedim(-1, 0)) - expected).abs().max() < 1e-6


def test_range_follows_the_type_not_the_picture():
    assert to_rgb_tensor(np.ones((4, 4, 3), dtype=np.uint8)).max().item() == pytest.approx(1 / 255)
    assert to_rgb_tensor(np.full((4, 4), 200, dtype=np.uint16)).max().item() == pytest.approx(200 / 65535)
    assert to_rgb_tensor(np.full((4, 4), 0.004)).max().item() == pytest.approx(0.004)


def test_shapes():
    colours = rgb()
    expected = channels_first(colours) / 255
    rgba = np.concatenate([colours, np.full((HEIGHT, WIDTH, 1), 7, np.uint8)], axis=-1)
    for array in (colours, rgba):
        for image in (array, array.transpose(2, 0, 1), torch.from_numpy(array), torch.from_numpy(array).movedim(-1, 0)):
            assert torch.equal(to_rgb_tensor(image), expected)
    levels = colours[..., 0]
    for image in (levels, levels[None], levels[..., None], torch.from_numpy(levels), torch.from_numpy(levels)[None]):
        assert torch.equal(to_rgb_tensor(image), expected[:1].expand(3, -1, -1))
    # Three rows of three channels: last in arrays, first in tensors.
    narrow = colours[:3]
    assert torch.equal(to_rgb_tensor(narrow), channels_first(narrow) / 255)
    first = torch.from_numpy(colours[:, :3]).movedim(-1, 0)
    assert torch.equal(to_rgb_tensor(first), first / 255)


def test_data_uri():
    buffer = io.BytesIO()
    Image.fromarray(rgb()).save(buffer, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert torch.equal(to_rgb_tensor(uri) * 255, channels_first(rgb()))


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((9, 9, 3), 200.0), r"floats, 200 to 200: they lie in \[0, 1\]"),
        (torch.full((3, 9, 9), -1.0), "floats, -1 to -1"),
        (np.full((9, 9, 3), np.nan), "not finite"),
        (np.array([[0.5, np.inf], [0, 1]]), "not finite"),
        (Image.fromarray(np.full((9, 9), np.nan, np.float32)), "not finite"),
        (Image.fromarray(np.full((9, 9), 1e4, np.float32)), "floats, 10000"),
        (np.full((9, 9), -3), "negative integers"),
        (np.zeros((9, 9), bool), "of type torch.bool"),
        (np.zeros((9, 9), object), "of type object"),
        (np.zeros((9, 9, 2), np.uint8), r"shape \(9, 9, 2\)"),
        (np.zeros(9, np.uint8), r"shape \(9,\)"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 pixels"),
        (np.zeros((0, 0), np.uint8), "0 x 0 pixels"),
        ("no/such/photo.jpg", r"no/such/photo\.jpg"),
        (Path("no/such/photo.jpg"), r"no/such/photo\.jpg"),
        ("data:image/png;base64,AAAA", "cannot be read"),
        (3, "is a int"),
    ],
)
def test_bad_images_are_named(image, message):
    with pytest.raises(ValueError, match=f"Image 5.*{message}"):
        to_rgb_tensor(image, index=5)
    with pytest.raises(ValueError, match=message):
        to_rgb_image(image, index=5)


@pytest.mark.parametrize("cut", [10, 300])
def test_damaged_files_are_named(tmp_path, cut):
    Image.fromarray(rgb()).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"Image 1 .*photo\.png.* cannot be read"):
        to_rgb_tensor(tmp_path / "photo.png", index=1)


def test_batches_and_numpy_output():
    processor = FaRLFaceImageProcessor(align=None, size=16)
    batch = np.stack([rgb(), rgb()[::-1]])
    expected = processor([batch[0], batch[1]]).pixel_values
    for images in (batch, torch.from_numpy(batch).movedim(-1, 1), batch.transpose(0, 3, 1, 2)):
        assert torch.equal(processor(images).pixel_values, expected)
    arrays = processor(batch, return_tensors="np").pixel_values
    assert isinstance(arrays, np.ndarray) and np.array_equal(arrays, expected.numpy())
    with pytest.raises(ValueError, match=r"'pt'.*'np'"):
        processor(batch, return_tensors="tf")


@pytest.mark.parametrize("channels", (3, 4))
def test_bytes_stay_what_they_are(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(to_rgb_image(pixels[::-1])), pixels[::-1, :, :3])
    np.testing.assert_array_equal(np.asarray(to_rgb_image(pixels.astype(np.int64))), pixels[..., :3])
    with pytest.raises(ValueError, match="at least 2 x 2"):
        to_rgb_image(pixels[:1])
