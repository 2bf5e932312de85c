"""The golden vectors that the Swift planner and governor are held to are what this package decides today."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "clients" / "swift" / "Tests" / "ElitEdgeTests" / "Golden"
NAMES = ("planning-parts.json", "planning-plans.json", "planning-runs.json")
REWRITE = "python tools/golden_planning.py clients/swift/Tests/ElitEdgeTests/Golden"


def stored(name):
    return json.loads((GOLDEN / name).read_bytes())


@pytest.fixture(scope="module")
def computed():
    spec = importlib.util.spec_from_file_location("golden_planning", ROOT / "tools" / "golden_planning.py")
    tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return {name: json.loads(json.dumps(content)) for name, content in tool.files().items()}


def differences(found, wanted, where=""):
    """Places where two JSON values differ: choices at all, floats in more than their last digits."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [each for key in found for each in differences(found[key], wanted[key], f"{where}.{key}")]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [each for index, (a, b) in pairs for each in differences(a, b, f"{where}[{index}]")]
    if isinstance(found, float) and isinstance(wanted, float):
        return [] if abs(found - wanted) <= 1e-9 * abs(wanted) else [f"{where}: {found}, stored {wanted}"]
    same = type(found) is type(wanted) and found == wanted
    return [] if same else [f"{where}: {found!r:.80}, stored {wanted!r:.80}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_the_package_decides(computed, name):
    assert set(computed) == set(NAMES)
    found = differences(computed[name], stored(name))
    assert not found, f"{len(found)} differ; if they should, {REWRITE} and hold Swift to them: {found[:3]}"


def test_a_difference_is_found():
    """A choice, a number in its ninth digit, a missing field."""
    assert differences({"latents": [4, 4]}, {"latents": [4, 5]})
    assert differences({"ms": 1.00000001}, {"ms": 1.0})
    assert not differences({"ms": 1.0 + 1e-12}, {"ms": 1.0})
    assert differences({"ms": 1.0}, {"ms": 1.0, "plan": None})
    assert differences({"landed": True}, {"landed": 1})


def test_there_are_plans_and_refusals_of_every_kind():
    cases = [case for group in stored("planning-plans.json")["groups"] for case in group["cases"]]
    plans = [case["plan"] for case in cases if "plan" in case]
    refused = [case for case in cases if "refused" in case]
    assert len(plans) > 150
    assert {plan["solver"] for plan in plans} == {"euler", "heun", "euler-maruyama"}
    assert {plan["guidance"] for plan in plans} == {"none", "cfg", "ccfg", "autoguidance"}
    assert len({plan["runtime"] for plan in plans}) > 2
    assert {len(plan["latents"]) for plan in plans} >= {1, 2, 3, 20, 40}
    assert sum(len(set(plan["latents"])) > 1 for plan in plans) > 50, "budgets that change on the way"
    assert {(case["refused"], case["nearest"] is None) for case in refused} == {
        ("deadline", False),
        ("plan", False),
        ("plan", True),
    }


def test_there_are_runs_that_end_as_planned_and_runs_that_do_not():
    runs = stored("planning-runs.json")["runs"]
    assert len({run["name"] for run in runs}) == len(runs)
    landed = [run for run in runs if run["landed"]]
    assert 3 < len(landed) < len(runs) / 2
    assert any(not run["changes"] for run in runs)
    assert {change["why"] for run in runs for change in run["changes"]} >= {
        "behind time",
        "time to spare",
        "the next step would end late",
        "hot",
    }
    assert any(len(run["moves"]) < len(run["plan"]["latents"]) and not run["landed"] for run in runs), "fewer steps"
    weak = [{move[2] for move in run["moves"]} for run in runs]
    assert {1, 4} in weak, "a weaker guidance on the way"


def test_the_files_are_small():
    assert sum((GOLDEN / name).stat().st_size for name in NAMES) < 300_000
