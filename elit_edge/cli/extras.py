"""Commands that need more than the base install say so in one line."""

from __future__ import annotations

import importlib.util

from elit_edge.errors import RuntimeUnavailable

EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")


def require_export() -> None:
    """Check for the packages of the export extra.

    Raises:
        RuntimeUnavailable: one is missing.
    """
    missing = [name for name in EXPORT_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailable(
            f"this command reads checkpoints and needs {', '.join(missing)}; pip install 'elit-edge[export]' "
            "(it is for the machine that exports; running a bundle needs none of it)"
        )
