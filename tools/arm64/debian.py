"""A Debian root folder for ARM: made once, kept, entered for each command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SUITE = "bookworm"
PYTHON = "3.11"
GLIBC_MINOR = 36
"""The suite's C library is 2.36: it takes wheels of manylinux_2_17 to manylinux_2_36."""
RECIPE = {"suite": SUITE, "architecture": "arm64", "variant": "minbase", "packages": "python3-venv"}
STAMP = "made-from.json"
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

TIMEOUT_SECONDS = 3600
"""A program that crashes under qemu may hang instead of ending."""

ENTER = """
ulimit -c 0
root=$1; shift
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind "$root/cpuinfo" "$root/proc/cpuinfo"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/root"
while [ "$1" != -- ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
done
shift
exec chroot "$root" "$@"
"""
"""Mounts of a namespace of its own: they are gone with its last process, so `rm -r build` never meets one."""


def is_made(place: Path) -> bool:
    """Whether a whole root folder of this recipe stands at `place`."""
    stamp = place / STAMP
    return stamp.is_file() and json.loads(stamp.read_text()) == RECIPE


def make_root(place: Path, log: IO[bytes]) -> None:
    """Make the root folder `place` anew.

    It is made under another name and renamed when it is whole, its stamp inside: what an interrupted run leaves is
    never taken for a root.
    """
    part = place.with_name(f"{place.name}.part")
    for old in (place, part):
        if old.exists():
            shutil.rmtree(old)
    part.mkdir(parents=True)
    options = [f"--arch={RECIPE['architecture']}", f"--variant={RECIPE['variant']}"]
    command = ["debootstrap", *options, f"--include={RECIPE['packages']}", SUITE, str(part)]
    if mirror := os.environ.get("ARM64_MIRROR"):
        command.append(mirror)
    # in namespaces of its own too: debootstrap mounts /proc, and leaves it there when it is interrupted
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *command]
    subprocess.run(isolated, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    shutil.rmtree(part / "var/cache/apt/archives")
    (part / STAMP).write_text(json.dumps(RECIPE))
    os.sync()
    part.rename(place)


def run_inside(root: Path, *command: str, shown: Mapping[Path, str], log: IO[bytes], **environment: str) -> int:
    """Run `command` in the root folder, which sees the folders `shown` read-only under other names.

    Returns:
        The exit code of the command; 124 when it took longer than `TIMEOUT_SECONDS`.
    """
    (root / "cpuinfo").write_text("".join(CPUINFO.format(index=index) for index in range(os.cpu_count() or 1)))
    binds = [str(part) for pair in shown.items() for part in pair]
    variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": CPU, **environment}
    inside = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *command]
    isolation = [
        "timeout",
        "--kill-after=5",
        str(TIMEOUT_SECONDS),
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ]
    entered = [*isolation, "sh", "-eu", "-c", ENTER, "sh", str(root), *binds, "--", *inside]
    return subprocess.run(entered, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode
