"""The golden vectors that the Swift planner and governor are held to hold plans and runs of every kind.

That they are what the package decides today is checked with all others: test_golden_vectors.py.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "clients" / "swift" / "Tests" / "ElitEdgeTests" / "Golden"


def stored(name):
    return json.loads((GOLDEN / name).read_bytes())


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
