"""Which macOS this is, and what it opens."""

from __future__ import annotations

import functools
import os
import platform
import subprocess

from elit_edge.errors import BundleError
from elit_edge.manifest import CoreMlModel

SECONDS = 5
MACOS = {16: 13, 17: 14, 18: 15, 26: 26}
"""The macOS that opens what an iOS opens. Source: the deployment targets of coremltools 9."""

Version = tuple[int, ...]


@functools.cache
def macos() -> Version | None:
    """The version of macOS: (15, 1); empty where it does not tell; None elsewhere."""
    if platform.system() != "Darwin":
        return None
    # asked by another program: macOS tells an older version to a Python that was built for an older one
    truly = {**os.environ, "SYSTEM_VERSION_COMPAT": "0"}
    try:
        answer = subprocess.run(
            ["/usr/bin/sw_vers", "-productVersion"],
            capture_output=True, timeout=SECONDS, check=True, env=truly,
        )  # fmt: skip
        return tuple(int(part) for part in answer.stdout.decode().strip().split("."))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def words(version: Version | None) -> str:
    """ "15.1"."""
    return ".".join(map(str, version or ())) or "unknown"


def check_opens(bundle: str, model: CoreMlModel) -> None:
    """Refuse packages that are newer than this macOS. One that does not tell its version is left to Core ML.

    Raises:
        BundleError: it does not open them; the message says which it would.
    """
    here = macos()
    least = MACOS[model.ios]
    if not here or here[0] >= least:
        return
    able = [ios for ios, version in MACOS.items() if version <= here[0]]
    remedy = (
        f"elit-edge compile BUNDLE --target coreml --layout {model.layout} --ios {max(able)} makes some for this one"
        if able
        else f"macOS {min(MACOS.values())} is the first that opens any"
    )
    raise BundleError(
        f"the {model.layout} {model.variant} Core ML packages of bundle {bundle} need macOS {least}, as they were made "
        f"for iOS {model.ios}; this is macOS {words(here)}. {remedy}"
    )
