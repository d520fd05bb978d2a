"""ONNX Runtime without its telemetry; everybody who needs it takes it from here, nobody imports it elsewhere.

Since 1.29 the library gathers usage data on Linux as well, writes them below ~/.cache/Microsoft as soon as it is
imported, and names a host of its maker's to send them to. Only this variable stops it, and only before the import.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # the line above has to come first

__all__ = ["ort"]
