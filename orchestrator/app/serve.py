"""Makes the page of the app and serves it to this machine alone, until it is interrupted.

Gradio is imported here and in the tabs, inside functions. It is told to send nothing and to load nothing from
elsewhere, and the browser is told so too (the header Content-Security-Policy): the page works without a network.
"""

from __future__ import annotations

import contextlib
import html
import inspect
import os
import shutil
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import CellsemiError, UsageError
from cellsemi.orchestrator.app import cells_tab, explain_tab, rounds_tab
from cellsemi.orchestrator.app.models import Models
from cellsemi.orchestrator.app.pictures import Pictures
from cellsemi.orchestrator.app.pseudo import Browser
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.rounds.store.run import RunPaths, read_config

SHOWN_S = 20.0  # an error stays so long in the browser
HOST = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 40
FONTS = ("system-ui", "sans-serif")
ALONE = (
    "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:"
)
SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the app is started with: a run, exported models, the device, a port (None: a free one)."""

    paths: RunPaths | None
    folders: tuple[Path, ...]
    device: str = "auto"
    port: int | None = None
    opens: bool = True


def serve(asked: Asked, say: Callable[[str], None]) -> None:
    """Serve the app until it is interrupted; what was uploaded is removed then.

    UsageError when Gradio is missing, the port is taken, or a model is none.
    """
    os.environ.update(SILENT)
    with _listening(asked.port) as listener, _folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        check_gradio()
        import uvicorn

        server = uvicorn.Server(uvicorn.Config(application(asked, folder), log_level="warning", ws="none"))
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        threading.Thread(target=_announce, args=(server, address, asked.opens, say), daemon=True).start()
        server.run(sockets=[listener])


def check_gradio() -> None:
    """UsageError with the remedy when Gradio is not installed."""
    try:
        import gradio  # noqa: F401 - imported to see whether it is there
    except ImportError as error:
        raise UsageError(f'the app needs Gradio ({error}): pip install "cellsemi[app]"') from None


def application(asked: Asked, folder: Path) -> Any:
    """The ASGI application; `folder` is for what is uploaded and downloaded."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    theme = gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
    page = _page(asked, Pictures(folder))
    page.queue(default_concurrency_limit=4)
    gr.mount_gradio_app(
        app, page, path="/", server_name=HOST, footer_links=[], ssr_mode=False, allowed_paths=[], theme=theme,
        enable_monitoring=False, mcp_server=False, pwa=False, max_file_size="2gb",
    )  # fmt: skip
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other name leads here
    return _alone(app)


def _page(asked: Asked, pictures: Pictures) -> Any:
    import gradio as gr

    models = Models(asked.paths, asked.folders, asked.device)
    with gr.Blocks(title="cellsemi", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.Markdown(f"# cellsemi{f': {asked.paths.name}' if asked.paths else ''}")
        with gr.Tab("Cells of an image"):
            cells = cells_tab.build(models, _classes(asked), pictures, told)
        if asked.paths is not None:
            with gr.Tab("Pseudo-labels"):
                rounds_tab.build(Browser(asked.paths), asked.paths, pictures, told, page)
        with gr.Tab("Explain"):
            explain_tab.build(models, cells, pictures, told)
    return page


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Gradio calls it: an error of ours is shown in the browser, and all stays as it was.

    Where its first argument is `event`, that is what was selected.
    """
    import gradio as gr

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except CellsemiError as error:
            gr.Warning(html.escape(str(error)), duration=SHOWN_S, title="This cannot be done")
            return gr.skip()

    if next(iter(inspect.signature(function).parameters), "") != "event":
        return call

    def call_with_event(event: Any, *arguments: Any) -> Any:
        return call(event, *arguments)

    call_with_event.__annotations__["event"] = gr.SelectData  # by which Gradio knows it
    return call_with_event


def _classes(asked: Asked) -> list[str]:
    """The names of the classes of all models."""
    of_run = [] if asked.paths is None else read_config(asked.paths).data.classes
    exported = [name for folder in asked.folders for name in TrainedModel.read(folder).recipe.classes]
    return list(dict.fromkeys([*of_run, *exported]))


def _alone(app: Any) -> Any:
    """The application, whose answers tell the browser to load nothing from elsewhere."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"content-security-policy", ALONE.encode())]}
            await send(message)

        await app(scope, receive, send_with_header if scope["type"] == "http" else send)

    return answer


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="cellsemi-app-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    """A socket that listens on this machine: at the port, or at the first free one from FIRST_PORT on."""
    for number in [port] if port is not None else [*range(FIRST_PORT, FIRST_PORT + PORTS), 0]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
        except OSError as error:
            listener.close()
            if port is not None:
                raise UsageError(
                    f"--port {port}: cannot be used ({error.strerror}); without --port a free one is taken"
                ) from None
            continue
        with listener:
            yield listener
        return


def _announce(server: Any, address: str, opens: bool, say: Callable[[str], None]) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.05)
    say(f"{address} (this machine only; Ctrl-C ends it)")
    if opens:
        webbrowser.open(address)
