"""Photos in files and folders: which ones, opened with care, results written whole."""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..models.image_loading_farl import to_rgb_image

# Pillow's formats that are pictures and are decoded by libraries only: no PostScript, no PDF.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "DIB", "JPEG2000"),
    *("PPM", "TGA", "PCX", "QOI", "ICO", "SGI", "DDS"),
)
# More than Pillow warns of is refused.
MAX_PIXELS = 89_478_485


def find_files(paths: Iterable[str | Path], leave_out: Path | None = None) -> list[tuple[Path, Path]]:
    """
    Every file that the paths name, in a fixed order, each once.

    Args:
        paths: Files, folders (searched recursively, hidden files and what an earlier command has written aside) and
            patterns with `*`, `?` or `**` (likewise).
        leave_out: A folder that is not searched, such as the one to write to.

    Returns:
        Pairs of the file and its name below the folder that was searched: what to call its results.

    Raises:
        FileNotFoundError: If a path or pattern names nothing.
    """
    found: dict[Path, Path] = {}
    names_taken: set[Path] = set()
    left_out = leave_out.resolve() if leave_out is not None else None
    written: dict[Path, bool] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path))
            files = [file for file in files if not _is_result(file, path, written)]
            names = [file.relative_to(path) for file in files]
        elif path.exists():
            files, names = [path], [Path(path.name)]
        else:
            files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
            start = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            files = [file for file in files if not _is_result(file, start, written)]
            names = [Path(file.name) for file in files]
            if not files:
                raise FileNotFoundError(f"{path} names no file or folder.")
        for file, name in zip(files, names, strict=True):
            if file in found or (left_out is not None and file.resolve().is_relative_to(left_out)):
                continue
            # Two folders may hold files of one name.
            found[file] = name if name not in names_taken else Path(*file.resolve().parts[1:])
            names_taken.add(found[file])
    return list(found.items())


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _is_result(file: Path, folder: Path, written: dict[Path, bool]) -> bool:
    """Whether the file lies in a folder below `folder` that a command wrote its results to; `written` remembers."""
    parents = list(file.parents)
    for parent in parents[: parents.index(folder)]:
        if parent not in written:
            written[parent] = (parent / "settings.json").is_file() and any(parent.glob("results*.jsonl"))
        if written[parent]:
            return True
    return False


def open_photo(file: Path | IO[bytes], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """
    An upright RGB photo from a file that nobody vouches for.

    Raises:
        ValueError: If it is no picture, damaged, or larger than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # Of odd metadata, and of sizes, which are judged here.
            warnings.simplefilter("ignore")
            Image.init()
            # Whether AVIF is among them depends on how Pillow was built.
            formats = [name for name in FORMATS if name in Image.OPEN]
            with Image.open(file, formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {max_pixels:,}")
                return to_rgb_image(image)
    except Exception as error:  # Pillow's decoders can raise anything
        raise ValueError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under its name when all of it is written, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with open(temporary, mode, **options) as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["FORMATS", "MAX_PIXELS", "find_files", "open_photo", "written_whole"]
