#!/usr/bin/env python
"""
Make the README's picture: an astronaut's photo, its label map with a legend, 68 landmarks, attributes, and captions
that the encoder finds likely, all by the small weights in the package.

    python scripts/front_page.py                                    # model_cards/front_page.jpg
    python scripts/front_page.py --photo me.jpg --output mine.jpg

Needs pip install '.[detection]' scikit-image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from transformers import AutoModel, AutoProcessor

import farl_hf
from farl_hf.inference.drawing import draw_faces

SIDE = 300
INK, BAR, BACK = (32, 33, 36), (66, 109, 190), (226, 230, 238)
# Each pair of captions is one question; the bar is the share of the first.
CAPTIONS = (
    ("a photo of a woman", "a photo of a man"),
    ("a photo of a young person", "a photo of an old person"),
    ("a smiling face", "a serious face"),
    ("a face with brown hair", "a face with blond hair"),
    ("a face without glasses", "a face wearing glasses"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="default: the astronaut of scikit-image")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "model_cards/front_page.jpg")
    options = parser.parse_args()
    photo = Image.open(options.photo) if options.photo else Image.fromarray(skimage.data.astronaut())
    photo = around_the_face(ImageOps.exif_transpose(photo).convert("RGB"))
    faces = farl_hf.analyze(photo)
    if not len(faces):
        raise SystemExit(f"error: no face was found in {options.photo}")
    faces = faces[0]
    off = {"boxes": False, "words": False}
    pictures = [
        photo.resize((SIDE, SIDE)),
        enlarged(draw_faces(photo, faces, landmarks=False, legend=True, opacity=0.65, **off)),
        enlarged(draw_faces(photo, faces, labels=False, **off)),
        bars("attributes", likeliest(faces)),
        bars("captions", captions(photo, faces)),
    ]
    width = sum(picture.width for picture in pictures) + 8 * (len(pictures) - 1)
    strip, left = Image.new("RGB", (width, SIDE), "white"), 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 8
    strip.save(options.output, quality=88, optimize=True)
    print(f"{options.output}: {strip.width} x {strip.height}, {options.output.stat().st_size / 1000:.0f} kB")


def around_the_face(photo: Image.Image) -> Image.Image:
    """A square of twice the first face's height around it, or the photo where there is none, 2 * SIDE pixels wide."""
    faces = farl_hf.analyze(photo, tasks=["alignment"])
    if len(faces):
        left, top, right, bottom = faces.boxes[0].tolist()
        x, y, half = (left + right) / 2, (top + bottom) / 2 - 0.05 * (bottom - top), bottom - top
        half = min(half, x, y, photo.width - x, photo.height - y)
        photo = photo.crop(tuple(round(v) for v in (x - half, y - half, x + half, y + half)))
    return ImageOps.fit(photo, (2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)


def enlarged(picture: Image.Image) -> Image.Image:
    """At the strip's height."""
    return picture.resize((round(picture.width * SIDE / picture.height), SIDE), Image.Resampling.LANCZOS)


def likeliest(faces: farl_hf.Faces, count: int = 8) -> list[tuple[str, float]]:
    """The attributes that the model finds likeliest, and their probabilities."""
    assert faces.attributes is not None and faces.attribute_names is not None
    order = np.argsort(-faces.attributes[0])[:count]
    return [(faces.attribute_names[i].replace("_", " "), float(faces.attributes[0, i])) for i in order]


@torch.no_grad()
def captions(photo: Image.Image, faces: farl_hf.Faces) -> list[tuple[str, float]]:
    """Probability of the likelier caption of each pair."""
    folder = farl_hf.pretrained("farl-tiny")
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    texts = [text for pair in CAPTIONS for text in pair]
    inputs = processor(text=texts, images=faces.crop(photo), padding=True, return_tensors="pt")
    shares = model(**inputs).logits_per_image[0].view(-1, 2).softmax(dim=1)
    return [(pair[int(share.argmax())], float(share.max())) for pair, share in zip(CAPTIONS, shares, strict=True)]


def bars(title: str, rows: Sequence[tuple[str, float]]) -> Image.Image:
    """A square of named bars."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    draw.text((8, 6), title, font=ImageFont.load_default(size=16), fill=INK)
    step = (SIDE - 34) / len(rows)
    for i, (name, share) in enumerate(rows):
        top = 34 + i * step
        draw.text((8, top), name, font=font, fill=INK)
        draw.text((SIDE - 8, top), f"{100 * share:.0f} %", font=font, fill=INK, anchor="ra")
        draw.rectangle((8, top + 19, SIDE - 8, top + 25), fill=BACK)
        draw.rectangle((8, top + 19, 8 + share * (SIDE - 16), top + 25), fill=BAR)
    return picture


if __name__ == "__main__":
    main()
