"""Importing this keeps `openvino_telemetry` from being imported afterwards, by anything in this process.

`import openvino` alone starts it: it writes a client's identity below the home directory, and a forked child reports
each import and conversion to Google Analytics; NNCF does the same
(https://docs.openvino.ai/2026/about-openvino/additional-resources/telemetry.html). The documented way to stop it is a
command that changes the user's own settings, which is not ours to do. OpenVINO and NNCF work without that package, so
here they find that it is not there. Besides, importing OpenVINO then takes 0.08 s instead of 0.3 s, and no child of
the measured process runs beside it.

It is a module of its own, and imports nothing, because it is among the modules whose import is timed.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it raises ImportError
