"""
The page of `farl serve`: a photo in, its faces drawn in the browser out. The same function answers REST
(`POST /api/analyze`, the file as the body) and MCP (the tool `analyze_photo`). Photos are read, answered and forgotten:
they are in memory only, no route writes or reads a file of the host but the page's own four.
"""

import asyncio
import base64
import binascii
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..version import __version__
from ..weights import pretrained
from .analysis import PIPELINES, analysis_pipeline
from .detection import FaceDetector, YuNetDetector
from .drawing import LANDMARK_LINES, labels_picture, palette
from .encoding import FaceEncoder
from .photo_files import open_photo
from .pipelines import open_pipeline
from .results import Faces

# Task -> the package's own weights that are offered where nothing else is named; the first is the default.
OWN_MODELS = {
    "parsing": ("farl-tiny-parsing", "farl-tiny-parsing-celebamask-hq"),
    "alignment": ("farl-tiny-alignment", "farl-tiny-alignment-wflw"),
    "attributes": ("farl-tiny-attributes",),
    "zeroshot": ("farl-tiny",),
}
TASKS = ("everything", *OWN_MODELS)
MAX_MEGABYTES = 20
MAX_MEGAPIXELS = 50
# Requests that wait or are answered; each holds its file in memory.
MAX_WAITING = 32
# The largest faces of a photo are answered, so that no crowd stops the queue.
MAX_FACES = 50
MAX_LABELS, MAX_LABEL_LENGTH = 20, 200
# For a photo to arrive.
_SECONDS_FOR_UPLOAD = 60
_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/faces.js": "faces.js"}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MCP = "/gradio_api/mcp"


class Refusal(ValueError):
    """A request that is not answered, and why; `status` is the code of HTTP for it."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class FaceService:
    """
    Answers photos one after the other, in the order in which they came.

    Args:
        models: Task (`"parsing"`, `"alignment"`, `"attributes"`, `"zeroshot"`) -> folders or Hub names to choose from,
            the first by default; [`OWN_MODELS`] for tasks that are not named. No others can be asked for.
        detector: [`YuNetDetector`] by default.
        device: Where the networks run; a GPU if there is one by default.
        max_megabytes, max_megapixels: Larger files and pictures are refused.
        max_waiting: Requests that may wait; more are refused.

    Raises:
        ValueError: If a task is unknown or two of its models have one name.
    """

    def __init__(
        self,
        models: Mapping[str, Sequence[str]] | None = None,
        *,
        detector: FaceDetector | None = None,
        device: str | None = None,
        max_megabytes: float = MAX_MEGABYTES,
        max_megapixels: float = MAX_MEGAPIXELS,
        max_waiting: int = MAX_WAITING,
    ):
        unknown = sorted(set(models or {}) - set(OWN_MODELS))
        if unknown:
            raise ValueError(f"Unknown tasks {', '.join(unknown)}: choose among {', '.join(OWN_MODELS)}.")
        self._models: dict[str, dict[str, str]] = {}
        for task, own in OWN_MODELS.items():
            given = (models or {}).get(task) or own
            # Visitors need not know where a folder lies.
            self._models[task] = {Path(name).name if Path(name).is_dir() else name: name for name in given}
            if len(self._models[task]) < len(given):
                raise ValueError(f"Two models for {task} have one name: rename a folder.")
        self.device = device
        self.max_megabytes, self.max_megapixels, self.max_waiting = max_megabytes, max_megapixels, max_waiting
        self._detector = detector
        self._opened: dict[tuple[str, str], Any] = {}
        self._worker = ThreadPoolExecutor(1, "faces")
        self._lock, self._waiting = threading.Lock(), 0

    @property
    def max_bytes(self) -> int:
        return int(self.max_megabytes * 1e6)

    def choices(self) -> dict[str, Any]:
        """What can be asked for: `tasks` (task -> names of models), the limits, the version."""
        tasks = {"everything": [], **{task: list(names) for task, names in self._models.items()}}
        limits = {"max_megabytes": self.max_megabytes, "max_megapixels": self.max_megapixels}
        return {"tasks": tasks, **limits, "version": __version__}

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, which a request holds from its first byte to its answer."""
        with self._lock:
            if self._waiting >= self.max_waiting:
                raise Refusal(f"{self._waiting} photos are waiting already: try again in a moment.", 503)
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def submit(self, photo: bytes, task: str, model: str = "", labels: Sequence[str] = ()) -> "Future[dict[str, Any]]":
        """The answer to come, see [`answer`]; mistakes in the words are raised at once."""
        labels = [label.strip() for label in labels if label.strip()]
        if task not in TASKS:
            raise Refusal(f"There is no task {task[:100]!r}: choose among {', '.join(TASKS)}.")
        if model and model not in self._models.get(task, {}):
            known = ", ".join(self._models.get(task, {})) or "none by name"
            raise Refusal(f"There is no model {model[:100]!r} for {task} here: choose among {known}.")
        if task == "zeroshot" and not 2 <= len(labels) <= MAX_LABELS:
            raise Refusal(f"Describe two to {MAX_LABELS} things: each is judged against the others.")
        if any(len(label) > MAX_LABEL_LENGTH for label in labels):
            raise Refusal(f"A description has at most {MAX_LABEL_LENGTH} letters.")
        return self._worker.submit(self.answer, photo, task, model, labels)

    def answer(self, photo: bytes, task: str, model: str = "", labels: Sequence[str] = ()) -> dict[str, Any]:
        """
        The faces of a photo.

        Args:
            photo: A picture's file.
            task: One of [`TASKS`].
            model: A name among the task's [`choices`]; the first by default.
            labels: Of `"zeroshot"`, two descriptions or more.

        Returns:
            [`Faces.to_dict`] without label maps, and where they are known `label_map` (a PNG of the photo's size as a
            `data:` URI: class ids as pixel values, class 0 transparent), `legend` (`id`, `name`, `colour` of the
            classes that occur) and `landmark_lines` (indices of landmarks that a line joins).

        Raises:
            Refusal: If the photo cannot be read or is too large.
        """
        if len(photo) > self.max_bytes:
            raise self.too_large()
        try:
            image = open_photo(io.BytesIO(photo), int(self.max_megapixels * 1e6))
        except ValueError as error:
            raise Refusal(f"This photo cannot be used: {error}.") from None
        if min(image.size) < 2:
            raise Refusal(f"This photo cannot be used: it has {image.width} x {image.height} pixels.")
        if self._detector is None:
            self._detector = YuNetDetector()
        if task == "zeroshot":
            faces = self._detector.detect(image).largest(MAX_FACES)
            faces = self._open(task, model).describe(image, faces, labels).replace(embeddings=None)
        else:
            faces = self._open(task, model)(image, detector=self._detector, max_faces=MAX_FACES)
        return _for_page(faces)

    def too_large(self) -> Refusal:
        return Refusal(f"This file is larger than {self.max_megabytes:g} MB.", 413)

    def _open(self, task: str, model: str) -> Any:
        """The pipeline or encoder of a task, kept from its first use."""
        if (task, model) not in self._opened:
            if task == "everything":
                first = {part: _folder(part, next(iter(self._models[part].values()))) for part in PIPELINES}
                opened: Any = analysis_pipeline(models=first, device=self.device)
            else:
                names = self._models[task]
                folder = _folder(task, names[model or next(iter(names))])
                if task == "zeroshot":
                    opened = FaceEncoder(folder, self.device)
                else:
                    opened = open_pipeline(PIPELINES[task], folder, device=self.device)
            self._opened[task, model] = opened
        return self._opened[task, model]


def _folder(task: str, name: str) -> str:
    return pretrained(name) if name in OWN_MODELS[task] else name


def _for_page(faces: Faces) -> dict[str, Any]:
    answer = faces.to_dict(label_maps=False)
    label_map = faces.label_map
    if label_map is not None and faces.label_names is not None:
        file = io.BytesIO()
        labels_picture(label_map, faces.label_names).save(file, "PNG", transparency=0)
        answer["label_map"] = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
        colours = palette(faces.label_names)
        answer["legend"] = [
            {"id": i, "name": faces.label_names[i], "colour": "#{:02x}{:02x}{:02x}".format(*colours[i])}
            for i in np.unique(label_map).tolist()
            if i > 0
        ]
    if faces.landmarks is not None:
        lines = LANDMARK_LINES.get(faces.landmarks.shape[1], [])
        answer["landmark_lines"] = [list(line) for line in lines]
    return answer


def create_server(service: FaceService, host: str = "127.0.0.1") -> Any:
    """
    The `gradio.Server` (a FastAPI application) of a service: page, REST and MCP.

    Args:
        service: Answers the photos.
        host: What it will be bound to; an address of this machine alone is served under its own names only, so that no
            web site can reach it by a name that it controls.

    Raises:
        ImportError: If the packages of the extra `web` are not installed.
    """
    # Nothing is reported to anybody.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        import mcp  # noqa: F401 (Gradio asks for it at the start)
        from fastapi import Request
        from fastapi.responses import FileResponse, JSONResponse
        from starlette.requests import ClientDisconnect
    except ImportError as error:
        raise ImportError(f"The page needs more packages ({error.name}): pip install 'farl_hf[web]'.") from None

    server = gradio.Server(title="farl_hf", docs_url=None, redoc_url=None, openapi_url=None)
    hosts = _LOOPBACK if host in ("127.0.0.1", "localhost", "::1") else None
    # JSON and base64 make a third more of a photo.
    server.add_middleware(_Gate, hosts=hosts, max_mcp_bytes=service.max_bytes * 4 // 3 + 100_000)

    def page_file(name: str) -> Any:
        async def send() -> Any:
            return FileResponse(_PAGE / name)

        return send

    for path, name in _PAGE_FILES.items():
        server.get(path)(page_file(name))

    @server.get("/api/tasks")
    async def tasks() -> Any:
        return JSONResponse(service.choices())

    @server.post("/api/analyze")
    async def analyze(request: Request, task: str = "everything", model: str = "") -> Any:
        try:
            with service.place():
                photo = await _read_photo(request, service)
                labels = request.query_params.getlist("label")
                return JSONResponse(await asyncio.wrap_future(service.submit(photo, task, model, labels)))
        except Refusal as error:
            return JSONResponse({"error": str(error)}, error.status)
        except ClientDisconnect:
            return JSONResponse({"error": "The photo broke off."}, 400)  # nobody is left to read it

    def analyze_photo(photo: str, task: str = "everything", model: str = "", labels: list[str] | None = None) -> str:
        """
        Find the faces of a photo and what can be said of them: boxes, points, landmarks, head pose, attributes, or how
        well your own descriptions fit.

        Args:
            photo: The picture's file in base64, or as a data: URI.
            task: One of everything, parsing, alignment, attributes, zeroshot.
            model: Name of one of the models that are offered for the task; empty for the first.
            labels: Of zeroshot, two or more descriptions, such as "a smiling face".

        Returns:
            JSON: image_size (height, width) and faces; coordinates are (x, y) in pixels. Of parsing, legend has the
            classes that occur.
        """
        try:
            with service.place():
                answer = service.submit(_decoded(photo, service), task, model, labels or ()).result()
        except Refusal as error:
            raise gradio.Error(str(error), print_exception=False) from None
        # A model of words has no use for a picture as text.
        return json.dumps({key: value for key, value in answer.items() if key != "label_map"})

    server.api(analyze_photo, name="analyze_photo", queue=False)
    return server


def start_server(service: FaceService, host: str = "127.0.0.1", port: int | None = None) -> tuple[Any, str]:
    """
    Serves in the background until `close()` of what is returned.

    Args:
        service: Answers the photos.
        host: To listen at: `"127.0.0.1"` for this machine alone.
        port: The first free one from 7860 on by default.

    Returns:
        An object with `close()`, and the page's address.

    Raises:
        ImportError: If the packages of the extra `web` are not installed.
        OSError: If the port is taken.
    """
    server = create_server(service, host)
    # It speaks of MCP even if asked to be quiet.
    with redirect_stdout(io.StringIO()):
        app, address, _ = server.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            mcp_server=True,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            pwa=False,
        )
    return app.get_blocks(), address


async def _read_photo(request: Any, service: FaceService) -> bytes:
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refusal("Send the file itself as the body, no form: curl --data-binary @photo.jpg.", 415)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SECONDS_FOR_UPLOAD):
            async for part in request.stream():
                size += len(part)
                # What is too much is read all the same, and dropped: browsers show no answer that comes before the end.
                parts = [*parts, part] if size <= service.max_bytes else []
    except TimeoutError:
        raise Refusal(f"The photo did not arrive within {_SECONDS_FOR_UPLOAD} seconds.", 408) from None
    if size > service.max_bytes:
        raise service.too_large()
    if size == 0:
        raise Refusal("There is no photo in this request: send the file as its body.")
    return b"".join(parts)


def _decoded(text: str, service: FaceService) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) * 3 // 4 > service.max_bytes + 3:
        raise service.too_large()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Refusal("The photo is no base64: send the picture's file in base64, not its name.") from None


class _Gate:
    """
    What stands before every route: Gradio has many that are not needed here, among them those that read and write
    files, and browsers send requests in the name of other sites.
    """

    def __init__(self, app: Any, hosts: Sequence[str] | None, max_mcp_bytes: int):
        self.app, self.hosts, self.max_mcp_bytes = app, hosts, max_mcp_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] != "http":
            return None  # a web socket that nobody accepts is closed
        body = json.dumps({"error": str(refusal)}).encode()
        start = {"type": "http.response.start", "status": refusal.status}
        start["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await _with_headers(send)(start)
        await send({"type": "http.response.body", "body": body})
        return None

    def _refusal(self, scope: Any, headers: Mapping[str, str]) -> Refusal | None:
        path, method = scope["path"], scope.get("method", "")
        host = headers.get("host", "")
        if self.hosts is not None and host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            return Refusal("This page is served to this machine alone.", 403)
        is_mcp = path == _MCP or path.startswith(f"{_MCP}/")
        reads = (*_PAGE_FILES, "/api/tasks", "/gradio_api/startup-events")
        if scope["type"] != "http" or not (is_mcp or path == "/api/analyze" or path in reads):
            return Refusal("There is nothing here.", 404)
        if method in ("GET", "HEAD"):
            return None
        own = (host, headers.get("x-forwarded-host", host))
        origin = headers.get("origin")
        if (origin is not None and urlsplit(origin).netloc not in own) or (
            origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        ):
            return Refusal("Other sites may not send photos here.", 403)
        length = headers.get("content-length", "")
        if is_mcp and method == "POST" and not (length.isdigit() and int(length) <= self.max_mcp_bytes):
            return Refusal(f"A request has at most {self.max_mcp_bytes:,} bytes, and says how many.", 413)
        return None


def _with_headers(send: Any) -> Any:
    """What browsers are told about every answer."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
    extra = {"content-security-policy": policy, "x-content-type-options": "nosniff", "cache-control": "no-store"}

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0].lower().decode() not in extra]
            message = {**message, "headers": [*kept, *((k.encode(), v.encode()) for k, v in extra.items())]}
        await send(message)

    return send_with_headers


__all__ = ["OWN_MODELS", "TASKS", "FaceService", "Refusal", "create_server", "start_server"]
