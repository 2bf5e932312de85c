"""What running ARM programs on this machine takes: said plainly where it is missing, switched on where it is not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

BINFMT = Path("/proc/sys/fs/binfmt_misc")
ENTRY = BINFMT / "qemu-aarch64"
RECIPE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""How Debian's package of qemu registers itself when a machine starts."""
TOOLS = {"debootstrap": "debootstrap", "unshare": "util-linux", "mount": "mount", "chroot": "coreutils"}
"""Programs, and Debian's packages of them."""


class NotPossible(Exception):
    """This machine cannot run the ARM tests; the message says what it lacks."""


def make_ready() -> None:
    """Have the kernel start ARM programs with qemu, also inside another root folder.

    Raises:
        NotPossible: with everything that is missing, and the commands that bring it.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotPossible(
            f"this is {platform.system()} on {platform.machine()}; the emulation starts from Linux on x86_64. "
            "On an ARM machine `make test` tests the real thing"
        )
    lacking = [] if os.geteuid() == 0 else ["root, to make another root folder and enter it: sudo make test-arm64"]
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not ENTRY.exists() and not RECIPE.exists():
        packages.append("qemu-user-static")
    if packages:
        lacking.append(f"programs: apt-get install {' '.join(packages)}")
    if lacking:
        raise NotPossible("; ".join(lacking))
    if not ENTRY.exists():
        _register()
    state = ENTRY.read_text().split()
    if "enabled" not in state or "F" not in state[state.index("flags:") + 1]:
        raise NotPossible(
            f"the kernel knows ARM programs, but not for other root folders ({ENTRY}: {' '.join(state[:5])}); "
            f"echo -1 > {ENTRY}, apt-get install qemu-user-static, and run this again"
        )


def _register() -> None:
    """What a start of the machine does with the recipe; it lasts until the next one."""
    try:
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
        (BINFMT / "register").write_bytes(RECIPE.read_bytes().strip())
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPossible(
            f"qemu cannot be registered with the kernel ({error}); in a container, start it with --privileged, or "
            f"register qemu on the machine that holds it: apt-get install qemu-user-static"
        ) from error
