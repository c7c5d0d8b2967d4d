"""What the commands on photos and films share: files, forms of results, going on after a stop, the report."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from ..inference.results import Faces

NOTES = """\
PATH is a photo or film, a folder (searched with everything below it) or a pattern such as 'photos/**/*.jpg'. Files that
cannot be read are skipped and reported. OUTPUT receives, by default all that the command finds out:
  results.jsonl      one line per photo: {"file", "image_size", "faces"}, or {"file", "error"}
  faces.csv          one row per face
  pictures/          the photos with what was found drawn on them
  labels/            PNG label maps of the photos' size, class ids as pixel values with a palette
  landmarks/         one .pts file per face (300W's form: counted from 1)
  films/             of each film one with what was found drawn on it (MP4, with the film's sound), and one .jsonl with
                     a line per frame: {"frame", "time", "image_size", "faces"}; its line in results.jsonl is {"file",
                     "frames", "tracks", "fps", "image_size"}. Faces have a "track_id", are steadied over time (not
                     with --no-smooth), and carry their label maps as PNG in base64
Coordinates are (x, y) in pixels of the photo as it is seen (EXIF), the first pixel's centre is (0, 0).

A run that was stopped goes on when the same command is given again. Exit codes: 0, or 1 if files were skipped, 2 for
wrong arguments, 130 after Ctrl-C.
"""

_FORMS = ("json", "csv", "pictures", "labels", "pts")
# Photos that are lost together if one of them makes the network fail; they are then tried one by one.
_PHOTOS_AT_ONCE = 16


def add_photo_arguments(parser: argparse.ArgumentParser, tasks: tuple[str, ...], forms: tuple[str, ...]) -> None:
    """The arguments of a command that asks models of `tasks` and can write results in `forms`."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="photos, folders, patterns")
    parser.add_argument("--output", metavar="FOLDER", default="farl-output", help="(default: %(default)s)")
    parser.add_argument(
        "--write", nargs="+", choices=forms, default=forms, metavar="FORM", help=f"among {', '.join(forms)}"
    )
    for task in tasks:
        flag = "--model" if len(tasks) == 1 else f"--{task}"
        parser.add_argument(flag, dest=task, metavar="MODEL", help="folder or Hub name (default: our small weights)")
    parser.add_argument("--detector", metavar="FILE", help="another YuNet ONNX file")
    parser.add_argument("--threshold", type=float, default=0.7, help="least score of a face (default: %(default)s)")
    parser.add_argument("--max-faces", type=int, metavar="NUM", help="keep the largest faces of a photo")
    if tasks:
        parser.add_argument("--batch-size", type=int, default=8, metavar="NUM", help="faces at once (default: 8)")
        parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
        parser.add_argument("--mirror", action="store_true", help="average with the mirror image, at twice the time")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts (from 1), for job arrays")
    parser.add_argument("--max-pixels", type=int, default=89_478_485, metavar="NUM", help="larger photos are skipped")
    parser.add_argument("--no-smooth", action="store_true", help="do not steady the faces of films over time")
    parser.add_argument("--overwrite", action="store_true", help="start anew in an OUTPUT of other settings")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_on_photos(arguments: argparse.Namespace, command: str, find: Any, settings: dict[str, Any]) -> int:
    """
    Runs a command over its files.

    Args:
        arguments: Of `add_photo_arguments`.
        command: Its name.
        find: Called once for the function that turns photos (an iterable of PIL images) into an iterator of `Faces`;
            of a film it gets the frames as [`FilmReader`] gives them, and as `tracker` the film's [`FaceTracker`].
        settings: What results depend on, to notice an OUTPUT of other settings.

    Returns:
        The exit code.
    """
    from ..inference.photo_files import find_files

    output = Path(arguments.output)
    index, count = parse_shard(arguments.shard)
    files = find_files(arguments.paths, leave_out=output)[index - 1 :: count]
    suffix = "" if count == 1 else f"-{index:05d}-of-{count:05d}"
    results = Results(output, suffix, arguments.write, {"command": command, **settings}, arguments.overwrite)
    todo = [pair for pair in files if os.fspath(pair[0]) not in results.done]
    if len(todo) < len(files):
        print(f"{len(files) - len(todo)} of {len(files)} files are done already", file=sys.stderr)
    try:
        if todo:
            _process(todo, find(), results, arguments)
    finally:
        results.close()
    films = f", {results.num_films} films" if results.num_films else ""
    print(f"{output}: {results.num_faces} faces in {results.num_photos} photos{films}", file=sys.stderr)
    for file, error in results.errors[:10]:
        print(f"skipped {_printable(file)}: {error}", file=sys.stderr)
    if len(results.errors) > 10:
        print(f"... and {len(results.errors) - 10} more, see results{suffix}.jsonl", file=sys.stderr)
    return 1 if results.errors else 0


def parse_shard(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n", counted from 1."""
    if text is None:
        return 1, 1
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"--shard {text}: write I/N with I from 1 to N, such as 3/10.")
    return int(index), int(count)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _process(files: list, find: Any, results: "Results", arguments: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..inference.films import is_film

    films = [pair for pair in files if is_film(pair[0])]
    photos = [pair for pair in files if not is_film(pair[0])]
    # Quiet by request, and where nobody watches.
    quiet = True if arguments.quiet else None
    with tqdm(total=len(files), unit="file", disable=quiet) as bar:
        for start in range(0, len(photos), _PHOTOS_AT_ONCE):
            part = photos[start : start + _PHOTOS_AT_ONCE]
            try:
                _process_part(part, find, results, arguments.max_pixels, bar)
            except Exception:
                # One of them is to blame; the others are done alone.
                for pair in part:
                    if os.fspath(pair[0]) in results.done:
                        continue
                    try:
                        _process_part([pair], find, results, arguments.max_pixels, bar)
                    except Exception as error:
                        results.add_error(pair[0], f"{type(error).__name__}: {error}")
                        bar.update()
        for file, name in films:
            try:
                _process_film(file, name, find, results, arguments, quiet)
            except (ImportError, ValueError) as error:
                results.add_error(file, str(error).removeprefix(f"{file}: "))
            except Exception as error:
                results.add_error(file, f"{type(error).__name__}: {error}")
            bar.update()


def _process_film(
    file: Path, name: Path, find: Any, results: "Results", arguments: argparse.Namespace, quiet: bool | None
) -> None:
    from tqdm.auto import tqdm

    from ..inference.films import FilmReader, with_frames
    from ..inference.tracking import FaceTracker

    reader = FilmReader(file, arguments.max_pixels)
    smooth = not arguments.no_smooth
    tracker = FaceTracker(smooth=smooth, smooth_labels=smooth, fps=reader.fps)
    found = with_frames(reader, lambda frames: find(frames, tracker=tracker))
    with tqdm(total=reader.num_frames, unit="frame", desc=name.name, leave=False, disable=quiet) as bar:
        results.add_film(file, name, reader, (pair for pair in found if bar.update() is not False))


def _process_part(files: list, find: Any, results: "Results", max_pixels: int, bar: Any) -> None:
    from ..inference.photo_files import open_photo

    opened: list[tuple[Path, Path]] = []

    def photos() -> Iterator["Image.Image"]:
        for file, name in files:
            try:
                photo = open_photo(file, max_pixels)
            except ValueError as error:
                results.add_error(file, str(error))
                bar.update()
                continue
            opened.append((file, name))
            yield photo

    for number, faces in enumerate(find(photos())):
        file, name = opened[number]
        # Kept photos would fill the memory while faces wait for their batch.
        photo = open_photo(file, max_pixels) if results.wants_photo else None
        results.add(file, name, faces, photo)
        bar.update()


class Results:
    """
    The folder of results. The line of a photo in `results.jsonl` is written after everything else about it, so that
    what has a line is complete.
    """

    def __init__(self, folder: Path, suffix: str, forms: Iterable[str], settings: dict[str, Any], overwrite: bool):
        self.folder, self.forms = folder, tuple(forms)
        self.lines, self.table = folder / f"results{suffix}.jsonl", folder / f"faces{suffix}.csv"
        self.done: set[str] = set()
        self.errors: list[tuple[str, str]] = []
        self.num_photos = self.num_films = self.num_faces = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(settings, overwrite)
        self._read_lines()
        self._file = os.open(self.lines, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @property
    def wants_photo(self) -> bool:
        return "pictures" in self.forms

    def _check_settings(self, settings: dict[str, Any], overwrite: bool) -> None:
        from ..inference.photo_files import written_whole

        path = self.folder / "settings.json"
        settings = {**settings, "write": sorted(self.forms)}
        kept = None
        with suppress(OSError, ValueError):
            kept = json.loads(path.read_text())
        if kept is not None and kept != settings:
            if not overwrite:
                changed = [key for key in {*kept, *settings} if kept.get(key) != settings.get(key)]
                raise ValueError(
                    f"{self.folder} holds results of other settings ({', '.join(sorted(changed))}): name another "
                    "--output, or give --overwrite to start anew."
                )
            for old in (*self.folder.glob("results*.jsonl"), *self.folder.glob("faces*.csv")):
                old.unlink()
        with written_whole(path) as file:
            json.dump(settings, file, indent=2)

    def _read_lines(self) -> None:
        """What is done; a last line that was cut off by a kill is cut out."""
        if not self.lines.is_file():
            return
        size = 0
        with open(self.lines, "rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if entry is None:
                    break
                size += len(line)
                self._count(entry)
        if size < self.lines.stat().st_size:
            os.truncate(self.lines, size)

    def _count(self, entry: dict[str, Any]) -> None:
        self.done.add(entry["file"])
        if "error" in entry:
            self.errors.append((entry["file"], entry["error"]))
        elif "frames" in entry:
            self.num_films += 1
        else:
            self.num_photos += 1
            self.num_faces += len(entry["faces"])

    def _write_line(self, entry: dict[str, Any]) -> None:
        # Plain ASCII: names that are no UTF-8 survive as escapes.
        os.write(self._file, json.dumps(entry).encode("ascii") + b"\n")
        self._count(entry)

    def add_error(self, file: Path, error: str) -> None:
        self._write_line({"file": os.fspath(file), "error": " ".join(error.split())})

    def add(self, file: Path, name: Path, faces: "Faces", photo: "Image.Image | None") -> None:
        """Writes everything about a photo."""
        from ..inference.photo_files import written_whole

        if "pictures" in self.forms and photo is not None:
            with written_whole(self._path("pictures", name, ".jpg"), "wb") as target:
                faces.draw(photo, legend=True).save(target, format="JPEG", quality=92)
        if "labels" in self.forms and faces.label_map is not None:
            from ..inference.drawing import labels_picture

            with written_whole(self._path("labels", name, ".png"), "wb") as target:
                labels_picture(faces.label_map, faces.label_names or ()).save(target, format="PNG")
        if "pts" in self.forms and faces.landmarks is not None:
            for number, landmarks in enumerate(faces.landmarks):
                with written_whole(self._path("landmarks", name, f".{number}.pts")) as target:
                    points = "".join(f"{x + 1:.3f} {y + 1:.3f}\n" for x, y in landmarks.tolist())
                    target.write(f"version: 1\nn_points: {len(landmarks)}\n{{\n{points}}}\n")
        self._write_line({"file": os.fspath(file), **faces.to_dict(label_maps=False)})

    def add_film(self, file: Path, name: Path, reader: Any, found: Iterable[tuple[dict[str, Any], "Faces"]]) -> None:
        """Writes everything about a film, whose frames and `Faces` come one after the other."""
        from ..inference.films import FilmWriter
        from ..inference.photo_files import written_whole

        frames, tracks = 0, set()
        with ExitStack() as stack:
            lines = stack.enter_context(written_whole(self._path("films", name, ".jsonl")))
            writer = None
            if "pictures" in self.forms:
                target = stack.enter_context(written_whole(self._path("films", name, ".mp4"), "wb"))
                writer = stack.enter_context(FilmWriter(target, reader.size, reader.fps, sound=reader))
            for frame, faces in found:
                if writer is not None:
                    writer.write(frame["time"], partial(faces.draw, frame["image"]))
                line = {"frame": frames, "time": round(frame["time"], 6), **faces.to_dict("labels" in self.forms)}
                lines.write(json.dumps(line) + "\n")
                frames += 1
                tracks |= set(() if faces.track_ids is None else faces.track_ids.tolist())
        size = list(reader.size)
        entry = {"frames": frames, "tracks": len(tracks), "fps": round(reader.fps, 3), "image_size": size}
        self._write_line({"file": os.fspath(file), **entry})

    def _path(self, kind: str, name: Path, suffix: str) -> Path:
        return self.folder / kind / name.with_name(name.name + suffix)

    def close(self) -> None:
        """Writes the table of all faces, those of earlier runs among them."""
        os.close(self._file)
        if "csv" in self.forms:
            from ..inference.photo_files import written_whole

            with written_whole(self.table) as file:
                _write_table(self.lines, file)


def _write_table(lines: Path, file: Any) -> None:
    writer: csv.DictWriter | None = None
    with open(lines, "rb") as entries:
        for line in entries:
            entry = json.loads(line)
            for number, face in enumerate(entry.get("faces", ())):
                row = {"file": entry["file"], "face": number, **_columns(face)}
                if writer is None:
                    writer = csv.DictWriter(file, list(row), extrasaction="ignore")
                    writer.writeheader()
                writer.writerow(row)


def _columns(face: dict[str, Any]) -> dict[str, Any]:
    """A face's numbers, one a column; landmarks are in `landmarks/`."""
    columns: dict[str, Any] = dict(zip(("left", "top", "right", "bottom"), face["box"], strict=True))
    columns["score"] = face.get("score")
    for name, (x, y) in zip(
        ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"), face.get("points") or (), strict=False
    ):
        columns |= {f"{name}_x": x, f"{name}_y": y}
    if face.get("head_pose"):
        columns |= dict(zip(("yaw", "pitch", "roll"), face["head_pose"], strict=True))
    if face.get("eye_openness"):
        columns |= dict(zip(("left_eye_openness", "right_eye_openness"), face["eye_openness"], strict=True))
    if face.get("mouth_openness") is not None:
        columns["mouth_openness"] = face["mouth_openness"]
    return columns | face.get("attributes", {})


def one_by_one(look: Any) -> Any:
    """`find` of [`run_on_photos`] from a function that turns one picture into `Faces`."""

    def find(photos: Iterable[Any], tracker: Any = None) -> Iterator["Faces"]:
        for photo in photos:
            yield look(photo) if tracker is None else tracker.track(look(photo["image"]), photo["time"])

    return find


def task_finder(arguments: argparse.Namespace, tasks: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """`find` and `settings` of [`run_on_photos`] for a command that asks models of `tasks`."""
    models = {task: model for task in tasks if (model := getattr(arguments, task)) is not None}
    options = {"max_faces": arguments.max_faces, "mirror": arguments.mirror or None}

    def find() -> Any:
        from ..inference.analysis import analysis_pipeline
        from ..inference.detection import YuNetDetector
        from ..weights import model_folder

        pipe = analysis_pipeline(
            tasks,
            {task: model_folder(model) for task, model in models.items()},
            detector=YuNetDetector(arguments.detector, arguments.threshold),
            batch_size=arguments.batch_size,
            device=arguments.device,
        )
        return lambda photos, tracker=None: pipe(photos, tracker=tracker, **options)

    settings = {"detector": arguments.detector, "threshold": arguments.threshold, "no_smooth": arguments.no_smooth}
    return find, {"models": models, **settings, **options}
