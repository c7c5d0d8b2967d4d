"""Films in and out: frames, times, sound, turned and damaged files, threads that end, constant memory."""

import sys
import threading
import time

import numpy as np
import pytest
from film_cases import moving_square, write_film, write_film_with_tone
from PIL import Image

from farl_hf import Faces
from farl_hf.inference.films import FilmReader, FilmWriter, ahead, is_film, with_frames

av = pytest.importorskip("av")


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.mark.parametrize("size", ((64, 96), (63, 95)))
def test_written_frames_are_read(tmp_path, size):
    reader = FilmReader(write_film(tmp_path / "film.mp4", 10, 12.5, size))
    # H.264 has even sides.
    assert reader.size == (64, 96) and reader.fps == pytest.approx(12.5) and reader.num_frames == 10
    for _ in range(2):
        frames = list(reader)
        assert [frame["time"] for frame in frames] == pytest.approx([i / 12.5 for i in range(10)], abs=1e-3)
        for i, frame in enumerate(frames):
            seen = frame["image"].crop((0, 0, *size[::-1]))
            others = [difference(seen, moving_square(j, size)) for j in range(10)]
            assert int(np.argmin(others)) == i and others[i] < 6


def test_frames_keep_their_times(tmp_path):
    times = [0.0, 0.04, 0.2, 0.21, 0.5]
    with FilmWriter(tmp_path / "film.mp4", (64, 96), 25) as writer:
        for i, moment in enumerate(times):
            writer.write(moment, lambda i=i: moving_square(i))
    assert [frame["time"] for frame in FilmReader(tmp_path / "film.mp4")] == pytest.approx(times, abs=1e-3)


def sound_of(path) -> tuple[list[bytes], np.ndarray, float]:
    """The packets of a film's first track of sound, their times, and when something is heard in it."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.dts is not None]
        times = np.array([float(packet.pts * packet.time_base) for packet in packets])
        onset = next(
            frame.time + int(np.argmax(loud)) / frame.sample_rate
            for packet in packets
            for frame in packet.decode()
            if (
                loud := np.abs(frame.to_ndarray()[0].astype(float))
                > 0.1 * (1 if frame.format.name == "fltp" else 32767)
            ).any()
        )
        return [bytes(packet) for packet in packets], times, onset


@pytest.mark.parametrize(
    ("name", "codec"), (("a.mp4", "aac"), ("b.avi", "libmp3lame"), ("c.mkv", "libopus"), ("d.ts", "aac"))
)
def test_sound_is_carried_over(name, codec, tmp_path):
    reader = FilmReader(write_film_with_tone(tmp_path / name, codec))
    with FilmWriter(tmp_path / "drawn.mp4", reader.size, reader.fps, sound=reader) as writer:
        for frame in reader:
            writer.write(frame["time"], lambda frame=frame: frame["image"])
    packets, times, onset = sound_of(tmp_path / name)
    copied, copied_times, copied_onset = sound_of(tmp_path / "drawn.mp4")
    written = FilmReader(tmp_path / "drawn.mp4")
    assert written.num_frames == 25
    # Pictures and sound start together, whatever the clock of the file begins with.
    first = next(iter(reader))["time"] - next(iter(written))["time"]
    assert len(copied) == len(packets) > 20 and copied_times == pytest.approx(times - first, abs=2e-3)
    assert copied_onset == pytest.approx(onset - first, abs=2e-3) and onset - next(iter(reader))[
        "time"
    ] == pytest.approx(0.5, abs=0.06)
    if name != "d.ts":  # whose packets have heads of their own
        assert copied == packets


def test_sound_that_does_not_fit_is_left_out(tmp_path, caplog):
    reader = FilmReader(write_film_with_tone(tmp_path / "film.avi", "pcm_mulaw"))
    with FilmWriter(tmp_path / "drawn.mp4", reader.size, reader.fps, sound=reader) as writer:
        for frame in reader:
            writer.write(frame["time"], lambda frame=frame: frame["image"])
    assert FilmReader(tmp_path / "drawn.mp4").num_frames == 25
    (record,) = caplog.records
    assert "film.avi: written without its sound" in record.message and "pcm_mulaw" in record.message
    with av.open(str(tmp_path / "drawn.mp4")) as container:
        assert not container.streams.audio


def test_damaged_sound_is_left_out(tmp_path, caplog):
    path = write_film_with_tone(tmp_path / "film.ts", "aac")
    data = path.read_bytes()
    # The heads of all packets of sound in the second half.
    half = len(data) // 2
    path.write_bytes(data[:half] + data[half:].replace(b"\xff\xf1", bytes(2)))
    reader = FilmReader(path)
    with FilmWriter(tmp_path / "drawn.mp4", reader.size, reader.fps, sound=reader) as writer:
        for frame in reader:
            writer.write(frame["time"], lambda frame=frame: frame["image"])
    assert FilmReader(tmp_path / "drawn.mp4").num_frames == 25 and len(caplog.records) == 1
    assert "film.ts: its sound is damaged" in caplog.text and len(sound_of(tmp_path / "drawn.mp4")[0]) > 10


def test_films_of_phones_are_turned_upright(tmp_path):
    """A display matrix of a quarter turn clockwise, written into the file's track header."""
    data = bytearray(write_film(tmp_path / "film.mp4", 3).read_bytes())
    one, minus_one, nil = (value.to_bytes(4, "big") for value in (0x10000, 0xFFFF0000, 0))
    last = nil * 3 + (0x40000000).to_bytes(4, "big")
    start = data.find(one + nil * 3 + one + last, data.find(b"tkhd"))
    assert start > 0
    data[start : start + 36] = nil + one + nil + minus_one + last[:0] + nil + last
    (tmp_path / "turned.mp4").write_bytes(data)
    reader = FilmReader(tmp_path / "turned.mp4")
    assert reader.size == (96, 64)
    expected = moving_square(0).transpose(Image.Transpose.ROTATE_270)
    assert difference(next(iter(reader))["image"], expected) < 6


def test_broken_files_are_named(tmp_path):
    whole = write_film(tmp_path / "film.mp4", 12).read_bytes()
    files = {
        "empty.mp4": b"",
        "text.mkv": b"no film at all",
        "half.mp4": whole[: len(whole) // 2],
        "playlist.mp4": f"#EXTM3U\n#EXTINF:10,\n{tmp_path}/film.mp4\n#EXT-X-ENDLIST\n".encode(),
        "list.mp4": f"ffconcat version 1.0\nfile {tmp_path}/film.mp4\n".encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: no film"):
            FilmReader(tmp_path / name)
    with pytest.raises(ValueError, match=r"film\.mp4: its frames have 96 x 64 pixels, more than 6,143"):
        FilmReader(tmp_path / "film.mp4", max_pixels=6143)
    with pytest.raises(ValueError, match=r"none\.mp4: no film"):
        FilmReader(tmp_path / "none.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4: it has no pictures"):
        FilmReader(tmp_path / "sound.mp4")


def test_damage_in_the_middle_is_an_error_not_a_hang(tmp_path):
    data = bytearray(write_film(tmp_path / "film.mp4", 60).read_bytes())
    start, end = data.find(b"mdat") + 4, data.find(b"moov") - 4
    start += (end - start) // 2
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start, dtype=np.uint8).tobytes()
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.mp4: damaged after \d+ frames"):
        list(FilmReader(tmp_path / "damaged.mp4"))


def test_garbled_films_are_read_or_refused(tmp_path):
    """Bytes changed, cut out and cut off: no crash, no hang, no thread left."""
    whole = write_film(tmp_path / "film.mp4", 20).read_bytes()
    rng, before, read = np.random.default_rng(0), threading.active_count(), 0
    for number in range(45):
        data, start = bytearray(whole), int(rng.integers(len(whole)))
        if number % 3 == 0:
            data = data[:start]
        elif number % 3 == 1:
            del data[start : start + int(rng.integers(1, 200))]
        else:
            for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
                data[place] = rng.integers(256)
        (tmp_path / "garbled.mp4").write_bytes(data)
        try:
            read += len(list(FilmReader(tmp_path / "garbled.mp4"))) > 0
        except ValueError as error:
            assert "garbled.mp4: " in str(error) and "\n" not in str(error)
    assert 0 < read < 45 and threading.active_count() == before


def test_is_film():
    assert is_film("a/b.MP4") and is_film("c.webm") and not is_film("d.jpg") and not is_film("mp4")


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    path = write_film(tmp_path / "film.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'farl_hf\[video\]'"):
        FilmReader(path)


# --------------------------------------------------------------------------------------------------------- threads


def test_threads_run_ahead_but_not_far_and_end():
    made = []

    def numbers():
        for i in range(1000):
            made.append(i)
            yield i

    before = threading.active_count()
    stream = ahead(numbers(), 4)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 6, "one taken, four waiting, one in the thread's hand"
    stream.close()
    assert threading.active_count() == before
    assert list(ahead(range(50), 4)) == list(range(50))


def test_errors_of_threads_are_raised(tmp_path):
    def broken():
        yield 1
        raise ValueError("no more")

    stream = ahead(broken(), 4)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no more"):
        next(stream)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), FilmWriter(tmp_path / "a.mp4", (64, 96), 25) as writer:
        for i in range(100):
            writer.write(i / 25, lambda i=i: moving_square(1 // (i - 3) * 0))
    with (
        pytest.raises(ValueError, match="10 x 10 pixels in a film of 96 x 64"),
        FilmWriter(tmp_path / "b.mp4", (64, 96), 25) as writer,
    ):
        writer.write(0, lambda: Image.new("RGB", (10, 10)))
    with pytest.raises(KeyboardInterrupt), FilmWriter(tmp_path / "c.mp4", (64, 96), 25) as writer:
        writer.write(0, lambda: moving_square(0))
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_frames_stay_beside_their_faces():
    """However many frames wait for a batch."""

    def find(frames):
        kept = []
        for frame in frames:
            kept.append(frame["time"])
            if len(kept) == 3:
                for moment in kept:
                    yield Faces.empty((1, int(moment)))
                kept = []

    frames = ({"image": None, "time": float(i)} for i in range(9))
    pairs = [(frame["time"], faces.image_size[1]) for frame, faces in with_frames(frames, find)]
    assert pairs == [(float(i), i) for i in range(9)]
