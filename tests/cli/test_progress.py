"""The progress bar of long commands, on a real pseudo-terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="Windows has none")

SCRIPT = """
import time
from elit_edge.cli.reporting import stages
with stages() as report:
    for stage in ("reference", "verify"):
        for share in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
            report(stage, share)
            time.sleep(0.25)
"""
FRAME = re.compile(r"(reference|verify)\s+\S.*?(\d:\d\d:\d\d)\s+(-:--:--|\d:\d\d:\d\d)")
"""Stage, time passed, time left."""


def shown(script):
    """What a terminal of 80 columns is sent on stderr."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=theirs, env=plain | {"TERM": "xterm", "COLUMNS": "80"}
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # how Linux tells that the other side is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())


def test_stages_follow_each_other_and_each_tells_the_time_left():
    frames = [match.groups() for match in FRAME.finditer(shown(SCRIPT))]
    assert list(dict.fromkeys(stage for stage, _, _ in frames)) == ["reference", "verify"]
    for stage in ("reference", "verify"):
        _, passed, left = zip(*[frame for frame in frames if frame[0] == stage], strict=True)
        assert passed[0] == "0:00:00"
        assert left[0] == "-:--:--"
        assert left[-1] in ("0:00:01", "0:00:02"), "half of a stage of 2.5 s is left"
