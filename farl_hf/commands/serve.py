"""`farl serve`: the web page, with REST and MCP."""

import argparse

NAME, SUMMARY = "serve", "a web page: drop a photo, see its faces; REST and MCP beside it"
DESCRIPTION = """\
Serve a page where a photo is dropped and its faces are seen: parts, landmarks, pose, attributes, or how well your own
words fit. Photos stay in memory until they are answered and are written nowhere. The page is seen from this machine
alone unless --host says otherwise.

The same answers as JSON:
  POST /api/analyze?task=TASK&model=NAME    the photo's file as the body; /api/tasks lists tasks and models
                                            (task=zeroshot takes label=... twice or more)
  /gradio_api/mcp/                          MCP (streamable HTTP), tool analyze_photo

Needs pip install 'farl_hf[web,detection]'. Ctrl-C ends it."""
EXAMPLES = """\
examples:
  farl serve
  farl serve --parsing farl-lapa farl-celebamask_hq --alignment farl-wflw --port 8000
  curl --data-binary @photo.jpg 'http://127.0.0.1:7860/api/analyze?task=alignment'
  curl --data-binary @photo.jpg 'http://127.0.0.1:7860/api/analyze?task=zeroshot&label=glasses&label=no+glasses'
"""
TASKS = ("parsing", "alignment", "attributes", "zeroshot")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per task, `--parsing` and on."""
    for task in TASKS:
        parser.add_argument(
            f"--{task}",
            nargs="+",
            default=[],
            metavar="MODEL",
            help="folders or Hub names to choose from (default: our small weights)",
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860 on)")
    parser.add_argument("--max-mb", type=float, default=20, metavar="NUM", help="largest file (default: %(default)s)")
    parser.add_argument(
        "--max-megapixels", type=float, default=50, metavar="NUM", help="largest picture (default: %(default)s)"
    )
    parser.add_argument(
        "--max-waiting", type=int, default=32, metavar="NUM", help="photos that may wait (default: %(default)s)"
    )
    parser.add_argument("--detector", metavar="FILE", help="another YuNet ONNX file")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    import threading

    from ..inference.detection import YuNetDetector
    from ..inference.serving import FaceService, start_server

    for name in ("max_mb", "max_megapixels", "max_waiting"):
        if getattr(arguments, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')}: give a number above 0.")
    service = FaceService(
        {task: getattr(arguments, task) for task in TASKS},
        detector=YuNetDetector(arguments.detector),
        device=arguments.device,
        max_megabytes=arguments.max_mb,
        max_megapixels=arguments.max_megapixels,
        max_waiting=arguments.max_waiting,
    )
    server, address = start_server(service, arguments.host, arguments.port)
    print(f"{address}    (REST: {address}api/analyze, MCP: {address}gradio_api/mcp/, Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        server.close(verbose=False)
    return 0
