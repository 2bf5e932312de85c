"""Debian in a folder of its own: made once, kept, entered for each command in namespaces of its own. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

STAMP = "made-from.json"
TIMEOUT_SECONDS = 3600

ENTER = """
ulimit -c 0
root=$1; shift
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/root"
while [ "$1" != -- ]; do
  [ -e "$root$2" ] || mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
done
shift
exec chroot "$root" "$@"
"""
"""Mounts of a namespace of its own: they are gone with its last process, so `rm -r build` never meets one."""


def is_made(place: Path, recipe: Mapping[str, str]) -> bool:
    """Whether a whole root folder of this recipe stands at `place`."""
    stamp = place / STAMP
    return stamp.is_file() and json.loads(stamp.read_text()) == recipe


def make_root(place: Path, recipe: Mapping[str, str], log: IO[bytes], mirror: str | None = None) -> None:
    """Make the root folder `place` anew.

    It is made under another name and renamed when it is whole, its stamp inside: what an interrupted run leaves is
    never taken for a root.

    Args:
        place: the folder.
        recipe: suite, architecture, variant and packages (separated by commas), as debootstrap knows them.
        log: takes what debootstrap says.
        mirror: another source of Debian's packages than debootstrap's own.
    """
    part = place.with_name(f"{place.name}.part")
    for old in (place, part):
        if old.exists():
            shutil.rmtree(old)
    part.mkdir(parents=True)
    options = [f"--arch={recipe['architecture']}", f"--variant={recipe['variant']}"]
    command = ["debootstrap", *options, f"--include={recipe['packages']}", recipe["suite"], str(part)]
    if mirror:
        command.append(mirror)
    # in namespaces of its own too: debootstrap mounts /proc, and leaves it there when it is interrupted
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *command]
    subprocess.run(isolated, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    shutil.rmtree(part / "var/cache/apt/archives")
    (part / STAMP).write_text(json.dumps(recipe))
    os.sync()
    part.rename(place)


def run_inside(
    root: Path, *command: str, shown: Mapping[Path, str], log: IO[bytes], environment: Mapping[str, str]
) -> int:
    """Run `command` in the root folder, which has no network and sees what is `shown` read-only under other names.

    Returns:
        The exit code of the command; 124 when it took longer than `TIMEOUT_SECONDS`.
    """
    binds = [str(part) for pair in shown.items() for part in pair]
    inside = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
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
