"""A Mac's processor, from sysctl. Source: Apple's "Determining system capabilities" and sysctl(3)."""

from __future__ import annotations

import subprocess

from elit_edge.device.cpu import with_usable
from elit_edge.device.cpu_words import known_isa
from elit_edge.device.facts import Apple, CoreKind, Cpu
from elit_edge.device.tree import Tree, integer, printable

SECONDS = 2
ARM_FEATURES = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.arm.FEAT_SME2": "sme2",
}
X86_FEATURES = {
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
}


def ask_sysctl(tree: Tree) -> dict[str, str]:
    """All that sysctl says of the hardware; empty and a note where it cannot be asked."""
    try:
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "hw", "machdep.cpu"],
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        tree.note("sysctl", str(error))
        return {}
    return parse_sysctl(answer.stdout.decode("utf-8", "replace"))


def parse_sysctl(text: str) -> dict[str, str]:
    pairs = (line.partition(":")[::2] for line in text.splitlines())
    return {key.strip(): value.strip() for key, value in pairs if value.strip()}


def apple_facts(values: dict[str, str]) -> Apple:
    return Apple(
        chip=printable(values.get("machdep.cpu.brand_string", "")), model=printable(values.get("hw.model", ""))
    )


def apple_cpu(values: dict[str, str]) -> Cpu:
    """The processor; macOS has neither affinity nor quotas, and does not tell the clocks of Apple's own chips."""
    chip = printable(values.get("machdep.cpu.brand_string", ""))
    features = {**ARM_FEATURES, **X86_FEATURES}
    cpu = Cpu(
        model=chip,
        vendor=printable(values.get("machdep.cpu.vendor", "")) or ("Apple" if "Apple" in (chip or "") else None),
        cores=_kinds(values),
        logical=_count(values, "hw.logicalcpu"),
        physical=_count(values, "hw.physicalcpu"),
        affinity=None,
        quota_cpus=None,
        usable_cpus=None,
        isa=known_isa(word for key, word in features.items() if values.get(key) == "1") if values else None,
        last_cache_bytes=_count(values, "hw.l3cachesize")
        or _count(values, "hw.perflevel0.l2cachesize")
        or _count(values, "hw.l2cachesize"),
    )
    return with_usable(cpu)


def _kinds(values: dict[str, str]) -> tuple[CoreKind, ...]:
    counts = [_count(values, f"hw.perflevel{level}.logicalcpu") for level in (0, 1)]
    if counts[0] and counts[1]:
        return (
            CoreKind(kind="performance", name=None, logical=counts[0], max_mhz=None),
            CoreKind(kind="efficiency", name=None, logical=counts[1], max_mhz=None),
        )
    logical = _count(values, "hw.logicalcpu")
    return (CoreKind(kind="uniform", name=None, logical=logical, max_mhz=None),) if logical else ()


def _count(values: dict[str, str], key: str) -> int | None:
    return integer(values.get(key, ""), 1)
