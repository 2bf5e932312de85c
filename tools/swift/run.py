"""The Swift package, built and tested: `make test-swift`; see clients/swift/README.md.

Takes the swift on PATH. Without one, Debian's own in a root folder, which needs root on Linux and debootstrap.

Usage: python tools/swift/run.py      # a Debian root folder is made under build/swift by the first run and kept
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO

sys.path.append(str(Path(__file__).parents[1]))
import debian_root
import steps

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "clients" / "swift"
PLACE = PROJECT / "build" / "swift"
ROOT, SIMULATED = PLACE / "root", PLACE / "simulated"
TOOLS = ("debootstrap", "unshare", "mount", "chroot")
RECIPE = {
    "suite": "trixie",
    "architecture": {"aarch64": "arm64"}.get(platform.machine(), "amd64"),
    "variant": "minbase",
    "packages": "swiftlang,swiftlang-dev,libc6-dev,g++",
}
"""Swift 6.0.3 with Foundation and XCTest."""
VARIABLES = {
    "PATH": "/usr/libexec/swift/bin:/usr/bin:/bin",
    "LD_LIBRARY_PATH": "/usr/libexec/swift/lib/swift/linux",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
"""Debian keeps Swift's libraries where no program looks for them by itself."""
step = partial(steps.step, PLACE)


class NotPossible(Exception):
    """This machine has no Swift and cannot make a root folder that has; the message says what it lacks."""


def assemble() -> None:
    """The library beside a stand-in for Core ML, so that what is compiled only where there is Core ML is compiled."""
    shutil.rmtree(SIMULATED, ignore_errors=True)
    shutil.copytree(Path(__file__).parent / "simulated", SIMULATED)
    shutil.copytree(PACKAGE / "Sources" / "ElitEdge", SIMULATED / "ElitEdge")
    tests = PACKAGE / "Tests" / "ElitEdgeTests"
    shutil.copytree(tests / "Golden", SIMULATED / "Tests" / "Golden")
    for name in ("Golden.swift", "FakeModel.swift"):
        shutil.copy(tests / name, SIMULATED / "Tests")


def prepare_root() -> None:
    """Have the Debian root folder.

    Raises:
        NotPossible: with everything that is missing.
    """
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if platform.system() != "Linux" or os.geteuid() != 0 or lacking:
        missing = f" (missing: {', '.join(lacking)})" if lacking else ""
        raise NotPossible(
            "there is no swift on PATH. Install Swift 6, or let this make a Debian root folder that has it, on Linux: "
            f"sudo make test-swift, with debootstrap{missing}"
        )
    if debian_root.is_made(ROOT, RECIPE):
        print("== root: kept from an earlier run")
        return
    with step("root") as log:
        debian_root.make_root(ROOT, RECIPE, log, os.environ.get("SWIFT_MIRROR"))


def test(name: str, package: Path, log: IO[bytes]) -> None:
    """Build a package and run its tests; what was built is kept for the next run."""
    arguments = ["test", "--scratch-path"]
    if swift := shutil.which("swift"):
        command = [swift, *arguments, str(PLACE / f"{name}-built"), "--package-path", str(package)]
        subprocess.run(command, stdout=log, stderr=log, check=True)
        return
    command = ["swift", *arguments, f"/built/{name}", "--package-path", "/mnt/package"]
    code = debian_root.run_inside(ROOT, *command, shown={package: "/mnt/package"}, log=log, environment=VARIABLES)
    if code:
        raise subprocess.CalledProcessError(code, command)


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    packages = {"package": PACKAGE}
    if platform.system() == "Linux":
        packages["simulated"] = SIMULATED
    with (PLACE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run of make test-swift is at work here; wait for it")
        try:
            if shutil.which("swift") is None:
                prepare_root()
            assemble()
            for name, folder in packages.items():
                with step(name) as log:
                    test(name, folder, log)
                found = [line for line in (PLACE / f"{name}.log").read_text().splitlines() if "Executed" in line]
                print(*found[-1:], sep="\n")
        except (NotPossible, steps.StepFailed) as error:
            sys.exit(f"make test-swift: {error}")


if __name__ == "__main__":
    main()
