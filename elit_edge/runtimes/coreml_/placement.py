"""Where Core ML means to compute each function, from its own plan: units preferred, and the cost that it expects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from elit_edge.errors import BundleError
from elit_edge.runtimes.contract import Placement, UnitShare
from elit_edge.runtimes.coreml_ import system
from elit_edge.runtimes.coreml_.loading import Loader

FIRST = (14, 4)
"""The macOS that first tells a plan. Source: Apple's documentation of MLComputePlan."""
UNIT_NAMES = {
    "MLNeuralEngineComputeDevice": "Neural Engine",
    "MLGPUComputeDevice": "GPU",
    "MLCPUComputeDevice": "CPU",
}
CONSTANT = "const"

Choice = tuple[str | None, float | None]
"""Of one operator: the unit that is preferred and the share of the cost, where they are told."""


def placements(loader: Loader) -> tuple[Placement, ...]:
    """Of each function that Core ML tells anything about; empty before macOS 14.4.

    A plan is of a package, and no function can be named: what it says of functions that are not the package's default
    is Core ML's affair. One of which it says nothing is left out.

    Raises:
        BundleError: Core ML makes no plan of a package.
    """
    if (system.macos() or FIRST) < FIRST:
        return ()
    plans: dict[tuple[str, str], Any] = {}
    found = []
    for function in loader.model.functions:
        units = loader.units(function)
        key = (function.package, units.name)
        if key not in plans:
            plans[key] = _plan(function.package, str(loader.packages[function.package].model), units)
        told = list(_choices(plans[key], function.name))
        if any(unit is not None for unit, _ in told):
            shares, undecided = share_out(told)
            found.append(
                Placement(
                    role=function.role,
                    latents=function.latents,
                    batch=function.batch,
                    units=shares,
                    undecided=undecided,
                )
            )
    return tuple(found)


def share_out(told: Iterable[Choice]) -> tuple[tuple[UnitShare, ...], int]:
    """Operators and share of the known cost by unit, the busiest first; and how many operators have no unit."""
    operators: dict[str, int] = {}
    costs: dict[str, float] = {}
    undecided = 0
    for unit, cost in told:
        if unit is None:
            undecided += 1
            continue
        operators[unit] = operators.get(unit, 0) + 1
        if cost is not None:
            costs[unit] = costs.get(unit, 0.0) + cost
    whole = sum(costs.values())
    shares = (
        UnitShare(unit=unit, operators=count, cost=costs.get(unit, 0.0) / whole if whole else None)
        for unit, count in operators.items()
    )
    return tuple(sorted(shares, key=lambda share: -share.operators)), undecided


def _plan(package: str, path: str, units: Any) -> Any:
    from coremltools.models.compute_plan import MLComputePlan

    try:
        plan = MLComputePlan.load_from_path(path, units)
        program = plan.model_structure.program
    except Exception as error:  # Core ML's errors have no class of their own
        raise BundleError(f"Core ML makes no compute plan of {package}: {error}") from error
    if program is None:
        raise BundleError(f"Core ML's compute plan of {package} is of no ML program")
    return plan


def _choices(plan: Any, name: str | None) -> Iterable[Choice]:
    """Of each operator but constants, in order; `name` None: of the only function."""
    functions = plan.model_structure.program.functions
    function = functions.get(name) if name else next(iter(functions.values()), None)
    for operation in function.block.operations if function is not None else ():
        if operation.operator_name.rpartition(".")[2] == CONSTANT:
            continue
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        yield (
            None if usage is None else _unit(usage.preferred_compute_device),
            None if cost is None else cost.weight,
        )


def _unit(device: Any) -> str:
    name = type(device).__name__
    return UNIT_NAMES.get(name, name)
