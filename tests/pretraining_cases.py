"""Image-text shards of random drawings, sound and damaged, and a tiny model, for the tests of pre-training."""

import http.server
import io
import json
import random
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from farl_hf import FaRLConfig

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def tiny_config(**kwargs) -> FaRLConfig:
    """A model for 32 px in patches of 8: 16 patches."""
    fields = {
        "text_config": dict(TOWER),
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
        "projection_dim": 16,
        "mim_vocab_size": 64,
    }
    return FaRLConfig(**{**fields, **kwargs})


def drawing(number: int, width: int = 48, height: int = 40) -> tuple[Image.Image, str]:
    """A coloured shape on noise, and its caption, which names the sample's number."""
    rng = random.Random(number)
    noise = np.random.default_rng(number).integers(0, 60, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    side = rng.randint(min(width, height) // 2, min(width, height) - 8)
    left, top = rng.randint(0, width - side), rng.randint(0, height - side)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)((left, top, left + side, top + side), fill=colour)
    return image, f"number {number}: a {colour} {shape}"


def encode(image: Image.Image, image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def sample_members(number: int, **size) -> dict[str, bytes]:
    """Members of a sound sample by extension."""
    image, caption = drawing(number, **size)
    return {"jpg": encode(image), "txt": caption.encode(), "json": json.dumps({"number": number}).encode()}


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_shards(folder: Path, num_shards: int = 4, samples_per_shard: int = 8, **size) -> list[str]:
    """Sound tars; the samples are numbered through."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(num_shards):
        numbers = range(shard * samples_per_shard, (shard + 1) * samples_per_shard)
        paths.append(str(folder / f"{shard:05d}.tar"))
        write_tar(Path(paths[-1]), {f"{number:08d}": sample_members(number, **size) for number in numbers})
    return paths


def damage(kind: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """A sample with a fault of the given kind."""
    jpeg = members["jpg"]
    scan = jpeg.index(b"\xff\xda")
    changed = {
        "corrupt_image": {"jpg": jpeg[:scan] + b"\xff\xda\x00\x03\x09" + jpeg[scan + 5 :]},
        "truncated_image": {"jpg": jpeg[: scan + (len(jpeg) - scan) // 3]},
        "not_an_image": {"jpg": b"<html><body>404 Not Found</body></html>"},
        "missing_image": {"jpg": b""},
        "bad_image_size": {"jpg": encode(Image.new("RGB", (1, 4000)))},
        "empty_caption": {"txt": b" &nbsp; \n"},
        "bad_metadata": {"json": b'{"number": '},
        "missing_caption": {},
    }[kind]
    damaged = {**members, **changed}
    if kind == "missing_caption":
        del damaged["txt"]
    return damaged


SAMPLE_FAULTS = (
    "corrupt_image",
    "truncated_image",
    "not_an_image",
    "missing_image",
    "bad_image_size",
    "empty_caption",
    "bad_metadata",
    "missing_caption",
)


def write_faulty_shards(folder: Path, num_shards: int, samples_per_shard: int, num_faults: int) -> tuple:
    """
    Shards of which `num_faults` samples are bad, taking the kinds in turn, then one truncated and one missing shard.

    Returns:
        Paths, the numbers of the good samples, and the faults by kind in one pass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = num_shards * samples_per_shard
    bad = random.Random(0).sample(range(total), num_faults)
    kinds = {number: SAMPLE_FAULTS[i % len(SAMPLE_FAULTS)] for i, number in enumerate(bad)}
    paths, good = [], set(range(total)) - set(bad)
    for shard in range(num_shards):
        samples = {}
        for number in range(shard * samples_per_shard, (shard + 1) * samples_per_shard):
            members = sample_members(number)
            samples[f"{number:08d}"] = damage(kinds[number], members) if number in kinds else members
        paths.append(str(folder / f"{shard:05d}.tar"))
        write_tar(Path(paths[-1]), samples)

    cut = folder / "90000.tar"
    numbers = range(total, total + samples_per_shard)
    write_tar(cut, {f"{number:08d}": sample_members(number) for number in numbers})
    # Half of the file is left. Good are the samples whose image and caption, with tar's padding, lie before the cut.
    content = cut.read_bytes()[: cut.stat().st_size // 2]
    with tarfile.open(cut) as tar:
        ends = {member.name: member.offset_data + member.size + -member.size % 512 for member in tar.getmembers()}
    cut.write_bytes(content)
    good |= {number for number in numbers if ends[f"{number:08d}.txt"] <= len(content)}

    faults = Counter(kinds.values()) + Counter(truncated_shard=1, missing_shard=1)
    return [*paths, str(cut), str(folder / "99999.tar")], good, dict(faults)


class FileServer(http.server.BaseHTTPRequestHandler):
    """Serves the files of a folder with ranges, and breaks off the first answers in the middle."""

    folder, cuts = Path(), 0

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        if "Range" in self.headers:
            begin, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        part = content[first : last + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body and type(self).cuts:
            type(self).cuts -= 1
            part = part[: len(part) // 2]
        if body:
            self.wfile.write(part)
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


@contextmanager
def served(folder: Path, cuts: int = 0) -> Iterator[str]:
    """The address of a folder's files; the first `cuts` answers break off."""
    handler = type("Handler", (FileServer,), {"folder": folder, "cuts": cuts})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
