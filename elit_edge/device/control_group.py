"""What the Linux control group (cgroup v1 or v2) lets this process use.

Source: the kernel's admin guide, cgroup-v1/memory.rst, scheduler/sched-bwc.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elit_edge.device.facts import Container
from elit_edge.device.tree import Tree, integer

MOUNT = "sys/fs/cgroup"
UNLIMITED_BYTES = 2**62
"""v1 states "no limit" as the largest number of whole pages, which depends on the page size; all are above this."""


@dataclass(frozen=True)
class ControlGroup:
    """The tightest limits on the way from this process's group to the root; None without one."""

    version: Literal[1, 2] | None = None
    quota_cpus: float | None = None
    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None


def read_control_group(tree: Tree) -> ControlGroup:
    groups = _groups(tree.text("proc/self/cgroup") or "")
    if "cpu" in groups or "memory" in groups:
        quotas = [_quota_v1(tree, group) for group in _chain_v1(tree, groups, "cpu")]
        memories = [
            _memory(tree, group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for group in _chain_v1(tree, groups, "memory")
        ]
        return _tightest(1, quotas, memories)
    if "" in groups or tree.exists(f"{MOUNT}/cgroup.controllers"):
        chain = _upwards(MOUNT, groups[""][1] if "" in groups else "/")
        quotas = [_quota_v2(tree, group) for group in chain]
        memories = [_memory(tree, group, "memory.max", "memory.current", "inactive_file") for group in chain]
        return _tightest(2, quotas, memories)
    return ControlGroup()


def read_container(tree: Tree, group: ControlGroup) -> Container:
    kind: Literal["docker", "podman", "kubernetes"] | None = None
    if tree.exists("var/run/secrets/kubernetes.io"):
        kind = "kubernetes"
    elif tree.exists("run/.containerenv"):
        kind = "podman"
    elif tree.exists(".dockerenv"):
        kind = "docker"
    return Container(kind=kind, cgroup_version=group.version)


def _groups(text: str) -> dict[str, tuple[str, str]]:
    """Controller -> (controllers mounted together, path of the process's group); that of v2 has the name ""."""
    lines = [line.split(":", 2) for line in text.splitlines()]
    return {name: (line[1], line[2]) for line in lines if len(line) == 3 for name in line[1].split(",")}


def _chain_v1(tree: Tree, groups: dict[str, tuple[str, str]], controller: str) -> list[str]:
    together, path = groups.get(controller, (controller, "/"))
    mounts = [f"{MOUNT}/{name}" for name in (together, controller) if tree.exists(f"{MOUNT}/{name}")]
    return _upwards(mounts[0], path) if mounts else []


def _upwards(mount: str, path: str) -> list[str]:
    """The folders from a group to the root. In a container the path may be the host's: then only the root is there."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return ["/".join([mount, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _quota_v1(tree: Tree, group: str) -> float | None:
    quota = tree.number(f"{group}/cpu.cfs_quota_us", low=-1)
    period = tree.number(f"{group}/cpu.cfs_period_us", low=1)
    return quota / period if quota is not None and quota > 0 and period is not None else None


def _quota_v2(tree: Tree, group: str) -> float | None:
    text = tree.word(f"{group}/cpu.max")
    if text is None or text.split()[0] == "max":
        return None
    numbers = [integer(part, low=1) for part in text.split()]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        tree.note(f"{group}/cpu.max", "is no quota and period")
        return None
    return numbers[0] / numbers[1]


def _memory(tree: Tree, group: str, limit_file: str, used_file: str, cache_key: str) -> tuple[int, int | None] | None:
    if tree.word(f"{group}/{limit_file}") in (None, "max"):
        return None
    limit = tree.number(f"{group}/{limit_file}")
    if limit is None or limit >= UNLIMITED_BYTES:
        return None
    used = tree.number(f"{group}/{used_file}")
    if used is None:
        return limit, None
    stat = dict(line.partition(" ")[::2] for line in (tree.text(f"{group}/memory.stat") or "").splitlines())
    return limit, max(0, used - (integer(stat.get(cache_key, "")) or 0))


def _tightest(
    version: Literal[1, 2], quotas: list[float | None], memories: list[tuple[int, int | None] | None]
) -> ControlGroup:
    quota = min((quota for quota in quotas if quota is not None), default=None)
    limits = [pair for pair in memories if pair is not None]
    limit, used = min(limits, key=lambda pair: pair[0]) if limits else (None, None)
    return ControlGroup(version, quota, limit, used)
