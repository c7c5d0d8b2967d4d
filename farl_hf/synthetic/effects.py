"""
Backgrounds, and what lens and sensor do to a picture: depth of field, focus, motion, exposure, noise, grey levels and
JPEG.
"""

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .camera import View
from .config import SyntheticFaceConfig


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) float32 noise of about unit deviation with `cells` bumps across."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


@lru_cache(maxsize=4)
def _places(size: int) -> np.ndarray:
    """(2, size, size) float32: y and x of each pixel as shares of the picture."""
    return np.mgrid[0:size, 0:size].astype(np.float32) / size


def _mix(one: np.ndarray, two: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(size, size, 3) of two colours (3,) by the share (size, size) of the second: as rows of three would be slow."""
    rest = 1 - share
    return np.stack([one[k] * rest + two[k] * share for k in range(3)], axis=-1)


@lru_cache(maxsize=8)
def background_files(folder: str) -> tuple[Path, ...]:
    endings = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    return tuple(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in endings))


# Unreadable files met so far, per folder.
broken_backgrounds: dict[str, set[str]] = {}


def _photo(rng: np.random.Generator, size: int, folder: str) -> np.ndarray | None:
    files = background_files(folder)
    for _ in range(min(len(files), 5)):
        path = files[int(rng.integers(len(files)))]
        if str(path) in broken_backgrounds.get(folder, ()):
            continue
        try:
            with Image.open(path) as opened:
                photo = opened.convert("RGB")
        except Exception as error:  # whatever a broken file raises
            known = broken_backgrounds.setdefault(folder, set())
            known.add(str(path))
            warnings.warn(f"Skipped the background {path}: {error} ({len(known)} skipped so far).", stacklevel=2)
            continue
        side = int(min(photo.size) * rng.uniform(0.5, 1.0)) or 1
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(crop, dtype=np.float32) / 255
    return None


def _colour(rng: np.random.Generator, vivid: float) -> np.ndarray:
    grey = rng.uniform(0.03, 0.95)
    return np.clip(grey + vivid * rng.normal(0, 0.16, 3) * (0.3 + grey), 0, 1)


def background(rng: np.random.Generator, config: SyntheticFaceConfig) -> tuple[np.ndarray, str]:
    """(size, size, 3) float32 in sRGB values 0 to 1, and its kind."""
    size = config.image_size
    if not config.has("backgrounds"):
        return np.full((size, size, 3), 0.45, dtype=np.float32), "plain"
    if config.backgrounds is not None and rng.random() < 0.5:
        photo = _photo(rng, size, str(config.backgrounds))
        if photo is not None:
            return photo, "photo"
    held_out = config.style == "held_out"
    kinds = (
        ["stripes", "clouds", "street"]
        if held_out
        else ["wall", "room", "foliage", "bokeh", "clutter", "gradient", "sky"]
    )
    kind = str(rng.choice(kinds))
    y, x = _places(size)
    vivid = float(rng.choice([0.3, 0.7, 1.6], p=[0.5, 0.35, 0.15]))
    one, two = _colour(rng, vivid), _colour(rng, vivid)
    if kind in ("gradient", "wall"):
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)
        pixels = _mix(two if kind == "gradient" else one * rng.uniform(0.5, 1.3), one, ramp)
        pixels *= (1 + 0.05 * smooth_noise(rng, size, int(rng.integers(10, 90)))).repeat(3).reshape(pixels.shape)
    elif kind == "sky":
        ramp = np.clip(y * 1.3, 0, 1)
        cloud = np.clip(smooth_noise(rng, size, 5) * 0.5 + 0.3 * smooth_noise(rng, size, 14), 0, 1)
        cloud = cloud.repeat(3).reshape(size, size, 3)
        pixels = _mix(np.array([0.3, 0.52, 0.85]), np.array([0.78, 0.85, 0.92]), ramp)
        pixels = pixels * (1 - cloud) + 0.95 * cloud
        ground = rng.uniform(0.55, 1.1) + 0.02 * smooth_noise(rng, size, 30)
        land = _colour(rng, 0.8) * (0.8 + 0.2 * smooth_noise(rng, size, 40))[..., None]
        pixels = np.where((y > ground)[..., None], land, pixels)
    elif kind in ("foliage", "clouds"):
        layers = sum(
            smooth_noise(rng, size, cells) * weight for cells, weight in ((4, 0.5), (12, 0.7), (36, 0.7), (80, 0.4))
        )
        share = 1 / (1 + np.exp(-2.5 * layers))
        if kind == "foliage":
            one = np.array([0.06, 0.12, 0.04]) * rng.uniform(0.5, 2)
            two = np.array([0.45, 0.6, 0.25]) * rng.uniform(0.5, 1.4)
        pixels = _mix(one, two, share)
    elif kind == "stripes":
        angle, wide = rng.uniform(0, np.pi), rng.uniform(8, 40)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * wide * 2 + 0.4 * smooth_noise(rng, size, 6))
        pixels = _mix(two, one, 0.5 + 0.5 * np.tanh(4 * wave))
    else:
        red, green, blue = (one * 255).astype(int).tolist()
        image = Image.new("RGB", (size, size), (red, green, blue))
        draw = ImageDraw.Draw(image, "RGBA")
        for _ in range(int(rng.integers(6, 40))):
            colour = tuple(int(255 * c) for c in _colour(rng, vivid))
            cx, cy = rng.uniform(-0.1, 1.1, 2) * size
            w, h = rng.uniform(0.03, 0.35, 2) * size
            if kind in ("room", "street"):
                h, w = (h * 2.5, w * 0.6) if rng.random() < 0.6 else (h * 0.4, w * 2.5)
                draw.rectangle([cx - w, cy - h, cx + w, cy + h], fill=(*colour, 255))
                if rng.random() < 0.5:
                    draw.rectangle([cx - w, cy - h, cx + w, cy + h], outline=tuple(c // 3 for c in colour))
            elif kind == "bokeh":
                r = w * 0.4
                draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=(*colour, int(rng.integers(60, 200))))
            else:
                angle = rng.uniform(0, np.pi)
                ax, ay = np.cos(angle) * w, np.sin(angle) * w
                bx, by = -np.sin(angle) * h * 0.5, np.cos(angle) * h * 0.5
                corners = [
                    (cx + i * ax + j * bx, cy + i * ay + j * by) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
                ]
                draw.polygon(corners, fill=(*colour, int(rng.integers(120, 256))))
        pixels = np.array(image, dtype=np.float32)
        pixels /= 255
        pixels *= (1 + 0.06 * smooth_noise(rng, size, 60)).repeat(3).reshape(pixels.shape)
    pixels = np.clip(pixels, 0, 1).astype(np.float32)
    if rng.random() < 0.5:
        pixels = gaussian(pixels, rng.uniform(0.5, 6) * size / 224)
    return pixels, kind


def gaussian(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Blurs values in 0 to 1."""
    blurred = np.array(Image.fromarray(_bytes(pixels)).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    blurred /= 255
    return blurred


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 of values in 0 to 1."""
    values = np.clip(pixels, 0, 1)
    values *= 255
    values += 0.5
    return values.astype(np.uint8)


@dataclass(frozen=True)
class Focus:
    """
    A lens that is sharp at a distance (metres) from the camera.

    Attributes:
        aperture: Diameter of its pupil, metres.
        focal: Focal length as a share of the picture's side.
    """

    distance: float
    aperture: float
    focal: float

    def blur(self, depth: np.ndarray | float) -> np.ndarray:
        """Deviation of the blur at depths (metres), as a share of the picture's side: a fourth of the disc."""
        return np.abs(1 / self.distance - 1 / np.asarray(depth)) * self.aperture * self.focal / 4


def sample_focus(rng: np.random.Generator, config: SyntheticFaceConfig, distance: float, view: View) -> Focus | None:
    """A wide pupil, focused on eyes at a distance, or None for a narrow one."""
    if rng.random() >= config.depth_of_field or not config.has("depth_of_field"):
        return None
    # So wide that what is far behind is blurred by 1 to 3 percent of the picture.
    far = rng.uniform(0.01, 0.03)
    return Focus(float(distance), float(4 * far * distance / view.focal), view.focal)


def out_of_focus(pixels: np.ndarray, depth: np.ndarray, focus: Focus) -> np.ndarray:
    """Blurs what lies before or behind the focus, of a picture whose background (infinite depth) is blurred already."""
    size = len(pixels)
    blur = np.where(np.isfinite(depth), focus.blur(depth) * size, 0).astype(np.float32)
    for low, high in ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0)):
        share = np.clip((blur - low) / (high - low), 0, 1)
        if share.any():
            # Of each value, as numpy is slow where it has to repeat one.
            share = share.repeat(3).reshape(pixels.shape)
            blurred = gaussian(pixels, high)
            blurred *= share
            pixels = pixels * (1 - share)
            pixels += blurred
    return pixels


@lru_cache(maxsize=1)
def _tone_curve() -> np.ndarray:
    """sRGB by the square root of the linear value, 1024 steps from 0 to 1, up to a linear value of 16."""
    values = (np.arange(4097) / 1024) ** 2
    # A soft shoulder instead of a hard clip.
    values = np.where(values > 0.7, 0.7 + 0.3 * (1 - np.exp(-(values - 0.7) / 0.3)), values)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055).astype(np.float32)


def to_srgb(values: np.ndarray) -> np.ndarray:
    """sRGB float32 of linear values, with a soft shoulder instead of a hard clip."""
    steps = np.sqrt(np.clip(values, 0, 16)) * 1024
    return _tone_curve().take(steps.astype(np.int32))


def expose(
    colour: np.ndarray, alpha: np.ndarray, back: np.ndarray, rng: np.random.Generator, config: SyntheticFaceConfig
) -> tuple[np.ndarray, dict]:
    """
    sRGB picture (size, size, 3) float32 of linear foreground (premultiplied) with its cover over a background in sRGB.
    """
    target, cast = 0.24, np.ones(3)
    contrast = 1.0
    if config.has("colour"):
        target *= float(np.exp(rng.normal(0, 0.38)))
        cast = np.exp(rng.normal(0, 0.06, 3))
        contrast = float(np.exp(rng.normal(0, 0.14)))
    covered = np.flatnonzero(alpha > 0.5)
    flat = colour.reshape(-1, 3)
    mean = float(flat.take(covered, axis=0).mean()) if len(covered) else 0.2
    # A camera brightens the dark and dims the bright, but only partly, so that skin tones survive.
    gain = (target / max(mean, 1e-3)) ** 0.65
    pixels = back.astype(np.float32, copy=True)
    some = np.flatnonzero(alpha > 0)
    cover = alpha.ravel()[some]
    through = 1 - cover
    # Channels one by one, as numpy is slow in rows of three.
    for channel, factor in zip(range(3), (gain * cast).astype(np.float32), strict=True):
        front = to_srgb(flat[:, channel].take(some) / cover * factor)
        if contrast != 1.0:
            front **= np.float32(contrast)
        behind = pixels.reshape(-1, 3)[:, channel]
        behind[some] = front * cover + behind.take(some) * through
    return pixels, {"gain": round(gain, 4), "contrast": round(contrast, 4)}


def sensor(
    pixels: np.ndarray, rng: np.random.Generator, config: SyntheticFaceConfig, noise_rng: np.random.Generator
) -> tuple[np.ndarray, dict]:
    """
    uint8 picture after focus, motion, resampling, noise, grey levels and JPEG; and what was done. The noise has its own
    generator, so that all else is the same in every frame of a film.
    """
    size = config.image_size
    facts: dict = {"blur": 0.0, "motion": 0.0, "noise": 0.0, "grey": False, "jpeg": None, "resampled": None}
    scale = size / 224
    if config.has("blur") and rng.random() < config.blur:
        kind = rng.random()
        if kind < 0.5:
            facts["blur"] = float(rng.uniform(0.6, 3.0))
            pixels = gaussian(pixels, facts["blur"] * scale)
        elif kind < 0.75:
            facts["motion"] = float(rng.uniform(2, 9))
            pixels = _motion(pixels, facts["motion"] * scale, rng.uniform(0, np.pi))
        else:
            small = int(max(16, size * rng.uniform(0.2, 0.7)))
            facts["resampled"] = small
            small_picture = Image.fromarray(_bytes(pixels))
            how = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST][int(rng.integers(3))]
            small_picture = small_picture.resize((small, small), Image.Resampling.BOX).resize((size, size), how)
            pixels = np.asarray(small_picture, dtype=np.float32) / 255
    if config.has("noise") and rng.random() < config.noise:
        facts["noise"] = float(rng.uniform(0.003, 0.035) if rng.random() < 0.85 else rng.uniform(0.03, 0.08))
        noise = noise_rng.standard_normal(pixels.shape, dtype=np.float32)
        noise *= facts["noise"]
        if rng.random() < 0.4:
            noise = noise[..., :1]
        stronger = np.sqrt(np.clip(pixels, 0, 1))
        stronger += 0.5
        stronger *= noise
        stronger += pixels
        pixels = stronger
    if config.has("colour") and rng.random() < config.grey:
        facts["grey"] = True
        grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        tint = np.array([1.0, 0.96, 0.88]) if rng.random() < 0.2 else np.ones(3)
        pixels = grey[..., None] * tint.astype(np.float32)
    image = _bytes(pixels)
    if config.has("compression") and rng.random() < config.jpeg:
        facts["jpeg"] = int(rng.integers(25, 96))
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=facts["jpeg"])
        with Image.open(buffer) as compressed:
            image = np.array(compressed)
    facts["blurry"] = bool(facts["blur"] > 1.6 or facts["motion"] > 5 or (facts["resampled"] or size) < 0.35 * size)
    return image, facts


def _motion(pixels: np.ndarray, length: float, angle: float) -> np.ndarray:
    steps = max(2, round(length))
    height, width = pixels.shape[:2]
    border = int(length) + 1
    wider = np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge")
    total = np.zeros_like(pixels)
    for i in range(steps):
        at = (i / (steps - 1) - 0.5) * length
        left, top = border - round(at * np.cos(angle)), border - round(at * np.sin(angle))
        total += wider[top : top + height, left : left + width]
    return total / steps
