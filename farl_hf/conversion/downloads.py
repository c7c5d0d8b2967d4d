"""Official release files from GitHub: downloaded once, resumed when broken off, checked, and kept."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock, httpx
from tqdm.auto import tqdm

_PRETRAINED = "https://github.com/FacePerceiver/FaRL/releases/download/pretrained_weights/"
_FACER = "https://github.com/FacePerceiver/facer/releases/download/models-v1/"


@dataclass(frozen=True)
class ReleaseFile:
    """
    An official file.

    Attributes:
        url: Where it is released.
        min_bytes: No complete file is smaller. It follows from the number of fp32 weights; the exact sizes are not
            published.
        sha256: Digest of the file in hexadecimal, where it is known. The authors publish none.
    """

    url: str
    min_bytes: int
    sha256: str | None = None


# Names and addresses: README of FacePerceiver/FaRL, and the `farl` modules of FacePerceiver/facer.
RELEASE_FILES: dict[str, ReleaseFile] = {
    "ep16": ReleaseFile(_PRETRAINED + "FaRL-Base-Patch16-LAIONFace20M-ep16.pth", 598_000_000),
    "ep64": ReleaseFile(_PRETRAINED + "FaRL-Base-Patch16-LAIONFace20M-ep64.pth", 598_000_000),
    "lapa": ReleaseFile(_FACER + "face_parsing.farl.lapa.main_ema_136500_jit191.pt", 640_000_000),
    "celebamask_hq": ReleaseFile(_FACER + "face_parsing.farl.celebm.main_ema_181500_jit.pt", 640_000_000),
    "ibug300w": ReleaseFile(_FACER + "face_alignment.farl.ibug300w.main_ema_jit.pt", 640_000_000),
    "wflw": ReleaseFile(_FACER + "face_alignment.farl.wflw.main_ema_jit.pt", 640_000_000),
    "aflw19": ReleaseFile(_FACER + "face_alignment.farl.aflw19.main_ema_jit.pt", 640_000_000),
    "celeba": ReleaseFile(_FACER + "face_attribute.farl.celeba.pt", 340_000_000),
}

# Prefix that replaces everything before the file's name, for mirrors.
MIRROR_VARIABLE = "FARL_RELEASE_MIRROR"


class DownloadError(OSError):
    """A release file that could not be fetched or is not what it was."""


def download_release(
    name: str,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    progress: bool = True,
    retries: int = 3,
) -> Path:
    """
    The path of a release file, fetched on first use.

    A broken download is resumed where it stopped. The SHA-256 of the first complete download is recorded beside the
    file (`*.sha256`); every later use, and every later download, is checked against it. A file put into the folder by
    hand is taken as the first download. `HTTPS_PROXY` is honoured.

    Args:
        name: A key of [`RELEASE_FILES`].
        cache_dir: Folder for the files, by default `farl` in `HF_HOME`.
        base_url: Mirror that replaces everything before the file's name, by default the environment variable
            `FARL_RELEASE_MIRROR`.
        progress: Whether to show a progress bar.
        retries: Further attempts after a connection breaks.

    Raises:
        ValueError: If the name is unknown.
        DownloadError: If the file cannot be fetched, is a web page or too small, or differs from its recorded digest.
    """
    if name not in RELEASE_FILES:
        raise ValueError(f"There is no release file {name!r}: choose one of {', '.join(RELEASE_FILES)}.")
    release = RELEASE_FILES[name]
    url = release.url
    if mirror := base_url or os.environ.get(MIRROR_VARIABLE):
        url = mirror.rstrip("/") + "/" + url.rsplit("/", 1)[1]
    folder = Path(cache_dir) if cache_dir is not None else Path(HF_HOME) / "farl"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlsplit(url).path).name
    if not path.exists():
        with WeakFileLock(path.with_name(path.name + ".lock")):
            if not path.exists():  # another process may have fetched it in the meantime
                partial = path.with_name(path.name + ".part")
                _fetch_with_retries(url, partial, progress, retries)
                try:
                    _verify(partial, path, release)
                except DownloadError:
                    partial.unlink()
                    raise
                partial.replace(path)
                return path
    _verify(path, path, release)
    return path


def _verify(file: Path, path: Path, release: ReleaseFile) -> None:
    """Compares `file`, which is or becomes `path`, with what is known of the release; records its digest if new."""
    size = file.stat().st_size
    if size < release.min_bytes:
        raise DownloadError(
            f"{path} has only {size:,} bytes, the release has at least {release.min_bytes:,}: delete it and try again."
        )
    record = path.with_name(path.name + ".sha256")
    digest = _sha256(file)
    if release.sha256 is not None and digest != release.sha256:
        raise DownloadError(f"{path} is not the release, its SHA-256 is {digest}: delete it and try again.")
    if not record.exists():
        record.write_text(f"{digest}  {path.name}\n")
    elif digest != record.read_text().split()[0]:
        advice = "delete it and try again" if file == path else f"delete {record} if you trust the new release"
        raise DownloadError(f"{path} has changed since it was first downloaded (SHA-256): {advice}.")


def _fetch_with_retries(url: str, partial: Path, progress: bool, retries: int) -> None:
    for attempt in range(retries + 1):
        try:
            return _fetch(url, partial, progress)
        except httpx.HTTPError as error:
            if attempt == retries:
                raise DownloadError(
                    f"Could not download {url} ({error}): try again later, or download it yourself and give its path."
                ) from error
            time.sleep(min(2**attempt, 30) * 0.5)


def _fetch(url: str, partial: Path, progress: bool) -> None:
    """Completes `partial`, from where it ends if the server can."""
    start = partial.stat().st_size if partial.exists() else 0
    # `If-Range` makes the server send the whole file again if it is not the one we began with.
    tag_file = partial.with_name(partial.name + ".etag")
    headers = {"Accept-Encoding": "identity"}
    if start and tag_file.exists():
        headers |= {"Range": f"bytes={start}-", "If-Range": tag_file.read_text()}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()
            raise httpx.TransportError("the partial file did not fit, starting again")
        if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise httpx.TransportError(f"the server answered {response.status_code}")
        if response.is_error:
            raise DownloadError(f"{url} answered {response.status_code}: the release may have moved.")
        if "text/html" in response.headers.get("content-type", ""):
            raise DownloadError(f"{url} answered with a web page, not with a file: is there a login or a proxy page?")
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        if resumed and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            partial.unlink()
            raise httpx.TransportError("the server sent another part than it was asked for, starting again")
        start = start if resumed else 0
        total = int(response.headers["content-length"]) + start if "content-length" in response.headers else None
        with (
            partial.open("ab" if resumed else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=url.rsplit("/", 1)[1],
                disable=not progress,
            ) as bar,
        ):
            # The tag belongs to the bytes in `partial`, so it changes only once they are gone.
            if "etag" in response.headers:
                tag_file.write_text(response.headers["etag"])
            else:
                tag_file.unlink(missing_ok=True)
            for chunk in response.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))
    size = partial.stat().st_size
    if total is not None and size != total:
        raise httpx.TransportError(f"got {size} of {total} bytes")
    tag_file.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
