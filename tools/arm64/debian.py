"""The Debian root folder of the ARM tests: its recipe, and the processor that is emulated in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

sys.path.append(str(Path(__file__).parents[1]))
import debian_root

SUITE = "bookworm"
PYTHON = "3.11"
GLIBC_MINOR = 36
"""The suite's C library is 2.36: it takes wheels of manylinux_2_17 to manylinux_2_36."""
RECIPE = {"suite": SUITE, "architecture": "arm64", "variant": "minbase", "packages": "python3-venv"}
CPU = "cortex-a76"
"""What qemu emulates: the cores of a Raspberry Pi 5, with dotprod, without SVE or SME."""
CPUINFO = """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""A processor's entry in /proc/cpuinfo, as the kernel writes it for the emulated core. Before version 8.1 qemu shows
programs the x86 one instead, on which ONNX Runtime's aarch64 wheel crashes when it is imported."""
PATH = "/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def is_made(place: Path) -> bool:
    """Whether a whole root folder of this recipe stands at `place`."""
    return debian_root.is_made(place, RECIPE)


def make_root(place: Path, log: IO[bytes]) -> None:
    """Make the root folder `place` anew."""
    debian_root.make_root(place, RECIPE, log, os.environ.get("ARM64_MIRROR"))


def run_inside(root: Path, *command: str, shown: Mapping[Path, str], log: IO[bytes], **environment: str) -> int:
    """Run `command` in the root folder, which sees the folders `shown` read-only under other names.

    A program that crashes under qemu may hang instead of ending: it has an hour.

    Returns:
        The exit code of the command; 124 when it took longer.
    """
    cpuinfo = root / "cpuinfo"
    cpuinfo.write_text("".join(CPUINFO.format(index=index) for index in range(os.cpu_count() or 1)))
    variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": CPU, **environment}
    seen = {cpuinfo: "/proc/cpuinfo", **shown}
    return debian_root.run_inside(root, *command, shown=seen, log=log, environment=variables)
