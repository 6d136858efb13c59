"""The program that `mnv3_bench.profiling.tensorboard` starts: TensorBoard, asking nothing of any other machine.

    python -m mnv3_bench.profiling.tensorboard_offline --logdir ...

The plugin's page loads Google Charts from www.gstatic.com and waits for it for ever, and its trace viewer needs a
library from cdnjs.cloudflare.com. Here the page gets a drawing of its own instead (offline_charts.js), and the trace
view hands out the trace for Perfetto or chrome://tracing.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

CHARTS = Path(__file__).with_name("offline_charts.js")
TRACE_VIEW = Path(__file__).with_name("offline_trace.html")
_REMOTE_SCRIPT = re.compile(r"""<script[^>]*\ssrc=["']?https?://[^>]*>\s*</script>""")


def page_without_network(html: str, script: str) -> str:
    """The plugin's page with its scripts from other machines replaced by one of ours."""
    return _REMOTE_SCRIPT.sub(lambda _: f"<script>{script}</script>", html)


def forks_end_with_their_parent() -> None:
    """Let every process that is forked from now on end soon after its parent, when nobody waits for it any more.

    The plugin forks one for every trace; that the system kills the server with `mnv3-bench` is not inherited.
    """
    parent = os.getpid()

    def note() -> None:
        nonlocal parent
        parent = (
            os.getpid()
        )  # asked for in the child it may be the adopter of one whose parent has ended already

    os.register_at_fork(before=note, after_in_child=lambda: _end_with(parent))


def _end_with(parent: int) -> None:

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run TensorBoard's own command line with the plugin's pages changed."""
    from torch_tb_profiler import plugin

    forks_end_with_their_parent()

    original = plugin.TorchProfilerPlugin.static_file_route

    def static_file_route(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        from werkzeug.wrappers import Response

        name = environ["PATH_INFO"].rpartition("/")[2]
        if name == "trace_embedding.html":
            return Response(TRACE_VIEW.read_text("utf-8"), mimetype="text/html")(environ, start_response)
        if name == "index.html":
            page = Path(plugin.__file__).with_name("static").joinpath(name).read_text("utf-8")
            page = page_without_network(page, CHARTS.read_text("utf-8"))
            return Response(page, mimetype="text/html")(environ, start_response)
        return original(self, environ, start_response)

    plugin.TorchProfilerPlugin.static_file_route = static_file_route
    from tensorboard import main as tensorboard

    tensorboard.run_main()


if __name__ == "__main__":
    main()
