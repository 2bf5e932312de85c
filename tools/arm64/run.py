"""The wheel on ARM: `make test-arm64`. Needs root on Linux x86_64, debootstrap and qemu-user-static; see docs/arm64.md.

Usage: python tools/arm64/run.py      # the first run makes a Debian root folder under build/arm64, later ones keep it
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO

from debian import GLIBC_MINOR, PYTHON, is_made, make_root, run_inside
from emulation import NotPossible, make_ready
from handover import make_handover

sys.path.append(str(Path(__file__).parents[1]))
import steps

PROJECT = Path(__file__).parents[2]
PLACE = PROJECT / "build" / "arm64"
ROOT, WHEELS, HANDOVER = PLACE / "root", PLACE / "wheels", PLACE / "handover"
TESTS = PROJECT / "tests"
SHOWN = {WHEELS: "/mnt/wheels", HANDOVER: "/mnt/handover", TESTS: "/mnt/tests"}
SUITES = {"contract": "/mnt/tests/contract", "on_device": "/mnt/tests/arm64/test_on_device.py"}
step = partial(steps.step, PLACE)


def collect_wheels(log: IO[bytes]) -> None:
    """The project's wheel, and the ARM wheels of what it and the tests need, as this machine's pip finds them."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir()
    python = [sys.executable, "-m"]
    build = [*python, "build", "--wheel", "--no-isolation", "--outdir", str(WHEELS), str(PROJECT)]
    subprocess.run(build, stdout=log, stderr=log, check=True)
    (wheel,) = WHEELS.glob("*.whl")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1)]
    target = [*platforms, "--platform=manylinux2014_aarch64", "--only-binary=:all:", f"--python-version={PYTHON}"]
    pinned = ["--constraint", str(PROJECT / "constraints.txt"), "--dest", str(WHEELS), str(wheel), "pytest"]
    subprocess.run([*python, "pip", "download", *target, *pinned], stdout=log, stderr=log, check=True)


def inside(log: IO[bytes], *command: str, **environment: str) -> None:
    """Run a command on the ARM side, which cannot reach pip's sources: all it needs was handed over."""
    code = run_inside(ROOT, *command, shown=SHOWN, log=log, PYTHONDONTWRITEBYTECODE="1", **environment)
    if code:
        raise subprocess.CalledProcessError(code, command)


def install(log: IO[bytes]) -> None:
    """A fresh environment with the wheel and what it depends on, so that nothing of an earlier run can help it."""
    shutil.rmtree(ROOT / "venv", ignore_errors=True)
    inside(log, "python3", "-m", "venv", "/venv")
    offline = ["--no-index", "--find-links=/mnt/wheels", "--no-compile", "--disable-pip-version-check"]
    inside(log, "pip", "install", *offline, "elit-edge", "pytest")
    inside(log, "pip", "list", "--disable-pip-version-check")


def test(name: str, log: IO[bytes]) -> None:
    """One suite; the fixtures that need torch are replaced by what was handed over."""
    options = ["--noconftest", "--import-mode=importlib", "-p", "device_fixtures", "-p", "no:cacheprovider"]
    strict = ["-c", "/dev/null", "--rootdir=/mnt/tests", "-W", "error", "-raP", "--durations=5"]
    known = {"PYTHONPATH": "/mnt/tests/arm64", "ELIT_EDGE_HANDOVER": "/mnt/handover"}
    inside(log, "python", "-m", "pytest", *options, *strict, SUITES[name], **known)


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # emulated threads that wait spin: one core, one thread
    with (PLACE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run of make test-arm64 is at work here; wait for it")
        try:
            make_ready()
            if is_made(ROOT):
                print("== root: kept from an earlier run")
            else:
                with step("root") as log:
                    make_root(ROOT, log)
            with step("wheels") as log:
                collect_wheels(log)
            with step("handover"):
                make_handover(HANDOVER)
            with step("install") as log:
                install(log)
            for name in SUITES:
                with step(name) as log:
                    test(name, log)
                print(*(PLACE / f"{name}.log").read_text().splitlines()[-1:], sep="\n")
        except (NotPossible, steps.StepFailed) as error:
            sys.exit(f"make test-arm64: {error}")
    print("== done. The processor was emulated: the numbers count, the times say nothing about any device")


if __name__ == "__main__":
    main()
