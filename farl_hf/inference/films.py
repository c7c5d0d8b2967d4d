"""Films: frames read and written one after the other, in constant memory, by threads beside the network (PyAV)."""

import io
import logging
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypeVar

from PIL import Image

from .photo_files import MAX_PIXELS
from .results import Faces

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Names of films, and the containers that are opened: none that refers to other files or addresses.
FILM_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv")
)
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg"
# Frames that a thread may be ahead of the network or behind it.
_FRAMES_AHEAD = 8
# Ticks per second of written films: whole for all usual frame rates.
_TICKS = 90_000


def is_film(path: str | os.PathLike) -> bool:
    """Whether a file's name is one of a film."""
    return Path(path).suffix.lower() in FILM_SUFFIXES


class FilmReader:
    """
    The frames of a film in their order, as pipelines take them: `{"image": upright RGB picture, "time": seconds}`. May
    be gone through more than once; each time a thread decodes up to eight frames ahead.

    ```python
    >>> for faces in pipe(FilmReader("film.mp4"), tracker=FaceTracker()):
    ...     print(faces.track_ids)
    ```

    Args:
        path: A file: MP4, MOV, Matroska, WebM, AVI, MPEG, WMV, FLV or Ogg. Needs `pip install 'farl_hf[video]'`.
        max_pixels: Most pixels of a frame.

    Attributes:
        size: (height, width) of the frames in pixels.
        fps: Frames per second, on average.
        num_frames: About how many there are; `None` if the file does not say.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If the file is no film, has no pictures, or frames of more than `max_pixels`; while frames are
            read, if it is damaged.
    """

    def __init__(self, path: str | os.PathLike, max_pixels: int = MAX_PIXELS):
        self.path, self.max_pixels = Path(path), max_pixels
        first = next(iter(self._decoded()), None)
        if first is None:
            raise ValueError(f"{self.path}: it has no frame.")
        image = first["image"]
        self.size = image.height, image.width
        with self._opened() as (_, stream):
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else 25.0
            seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
            self.num_frames = stream.frames or round(seconds * self.fps) or None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ahead(self._decoded(), _FRAMES_AHEAD)

    def _opened(self) -> "_Opened":
        return _Opened(self.path, self.max_pixels)

    def _decoded(self) -> Iterator[dict[str, Any]]:
        av = _av()
        with self._opened() as (container, stream):
            stream.thread_type = "AUTO"
            size: tuple[int, int] | None = None
            last = -1.0
            number = 0
            try:
                for frame in container.decode(stream):
                    image = frame.to_image()
                    if frame.rotation:
                        # Counter-clockwise degrees of the display matrix, as phones write them.
                        image = image.rotate(frame.rotation, expand=True)
                    size = size or image.size
                    if image.size != size:
                        image = image.resize(size)
                    time = float(frame.time) if frame.time is not None else last
                    # Times that stand still or go back are those of damaged files.
                    last = time if time > last else last + 1e-3
                    yield {"image": image, "time": last}
                    number += 1
            except av.FFmpegError as error:
                raise ValueError(f"{self.path}: damaged after {number} frames ({_one_line(error)}).") from error


class _Opened:
    """A container and its first stream of pictures, closed at the end."""

    def __init__(self, path: Path, max_pixels: int):
        self.path, self.max_pixels = path, max_pixels

    def __enter__(self) -> tuple[Any, Any]:
        av = _av()
        try:
            # Files may name further files and addresses, which are none of their business.
            options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
            self.container = av.open(f"file:{self.path}", options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path}: no film ({_one_line(error)}).") from error
        stream = next(iter(self.container.streams.video), None)
        if stream is None or stream.codec_context is None:
            self.container.close()
            raise ValueError(f"{self.path}: it has no pictures that can be decoded.")
        if stream.width * stream.height > self.max_pixels:
            self.container.close()
            raise ValueError(
                f"{self.path}: its frames have {stream.width} x {stream.height} pixels, more than {self.max_pixels:,}."
            )
        return self.container, stream

    def __exit__(self, *_: Any) -> None:
        self.container.close()


class FilmWriter:
    """
    Writes an MP4 film (H.264) frame by frame. A thread draws and encodes, up to eight frames behind.

    ```python
    >>> with FilmWriter("drawn.mp4", reader.size, reader.fps, sound=reader) as writer:
    ...     for frame, faces in with_frames(reader, find):
    ...         writer.write(frame["time"], lambda image=frame["image"], faces=faces: faces.draw(image))
    ```

    Args:
        file: Path, or a binary file that can be sought in.
        size: (height, width) of the frames; odd sides get a black line.
        fps: Frames per second that the file announces; frames keep their own times.
        sound: A film whose sound, if it has any, is copied as it is: its first track, whole. Sound that MP4 does not
            take, or that is damaged, is left out with a warning.
    """

    def __init__(
        self, file: str | os.PathLike | IO[bytes], size: tuple[int, int], fps: float, sound: FilmReader | None = None
    ):
        av = _av()
        self.size = size
        self._container = av.open(file if hasattr(file, "write") else str(file), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast"}
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._last = -1
        self._sound = None if sound is None else _Sound(sound, self._container)
        self._worker = _Behind(self._encode, _FRAMES_AHEAD)

    def write(self, time: float, draw: Callable[[], Image.Image]) -> None:
        """The next frame, at `time` in seconds: what `draw` returns, called in the writer's thread."""
        self._worker.put((time, draw))

    def _encode(self, item: tuple[float, Callable[[], Image.Image]]) -> None:
        time, draw = item
        image = draw().convert("RGB")
        height, width = self.size
        if (image.height, image.width) != (height, width):
            raise ValueError(f"A frame has {image.width} x {image.height} pixels in a film of {width} x {height}.")
        frame = _av().VideoFrame.from_image(image.crop((0, 0, width + width % 2, height + height % 2)))
        self._last = frame.pts = max(self._last + 1, round(time * _TICKS))
        frame.time_base = Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy(until=time)

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._worker.close(at_once=kind is not None)
            if kind is None:
                self._container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.copy()
        finally:
            if self._sound is not None:
                self._sound.close()
            self._container.close()


class _Sound:
    """The first track of sound of a film, on its way into a container as it is, packet for packet."""

    def __init__(self, film: FilmReader, container: Any):
        self._path, self._container = film.path, container
        self._opened = film._opened()
        source, _ = self._opened.__enter__()
        self._packets: Iterator[Any] = iter(())
        # A packet that is not due yet, and the time of the last one.
        self._next: Any = None
        self._last = -math.inf
        track = next(iter(source.streams.audio), None)
        if track is None:
            return
        try:
            # Some codecs are only refused with the file's head, which a file that nobody keeps tells.
            with _av().open(io.BytesIO(), "w", format="mp4") as trial:
                trial.add_stream_from_template(track)
                trial.start_encoding()
            self._stream = container.add_stream_from_template(track)
        except (_av().FFmpegError, ValueError) as error:
            logger.warning("%s: written without its sound, which MP4 does not take (%s).", film.path, _one_line(error))
            return
        # The last packet is an empty one.
        self._packets = (packet for packet in source.demux(track) if packet.dts is not None)

    def copy(self, until: float = math.inf) -> None:
        """Copies what is heard up to a time in seconds."""
        try:
            while (packet := self._next or next(self._packets, None)) is not None:
                self._next = packet
                if packet.dts * packet.time_base > until:
                    return
                self._next = None
                # Containers take no packet that goes back in time, as damaged files have them.
                if packet.dts > self._last:
                    self._last, packet.stream = packet.dts, self._stream
                    self._container.mux(packet)
        except _av().FFmpegError as error:
            self._packets = iter(())
            logger.warning("%s: its sound is damaged (%s), the rest is left out.", self._path, _one_line(error))

    def close(self) -> None:
        self._opened.__exit__()


def with_frames(
    frames: Iterable[dict[str, Any]], find: Callable[[Iterable[dict[str, Any]]], Iterable[Faces]]
) -> Iterator[tuple[dict[str, Any], Faces]]:
    """Each frame with what `find` answers for it; few frames are kept, those that wait for a batch."""
    waiting: deque[dict[str, Any]] = deque()

    def drawn() -> Iterator[dict[str, Any]]:
        for frame in frames:
            waiting.append(frame)
            yield frame

    for faces in find(drawn()):
        yield waiting.popleft(), faces


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, made by a thread that is up to `count` ahead and ends when nobody asks for more."""
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(count)
    end, stopped = object(), threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
            put(end)
        except BaseException as error:
            put(end, error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


class _Behind:
    """Calls a function with items in their order, in a thread that is up to `count` items behind."""

    def __init__(self, function: Callable[[Any], None], count: int):
        self._function, self._error, self._dropping = function, None, False
        self._items: queue.Queue[Any] = queue.Queue(count)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    _error: BaseException | None

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            # After an error what comes is taken and dropped, so that nobody waits for ever.
            if self._error is None and not self._dropping:
                try:
                    self._function(item)
                except BaseException as error:
                    self._error = error

    def put(self, item: Any) -> None:
        if self._error is not None:
            raise self._error
        self._items.put(item)

    def close(self, at_once: bool = False) -> None:
        """Waits for the rest, or drops it; raises what went wrong in the thread."""
        self._dropping = at_once
        self._items.put(None)
        self._thread.join()
        if self._error is not None and not at_once:
            raise self._error


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError("Films need PyAV: pip install 'farl_hf[video]'.") from None
    return av


def _one_line(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


__all__ = ["FILM_SUFFIXES", "FilmReader", "FilmWriter", "ahead", "is_film", "with_frames"]
