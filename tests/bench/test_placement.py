"""Where a library means to compute: in JSON, words and page. The figures are SYNTHETIC; the processes are real."""

from __future__ import annotations

import json
import re
import sys
from textwrap import dedent

import msgspec
import pytest

from elit_edge.bench import sheets
from elit_edge.bench.measuring import bench
from elit_edge.bench.page import page
from elit_edge.bench.report import encode, read
from elit_edge.bundle import Bundle
from elit_edge.cli import bench as command
from elit_edge.runtimes.contract import Placement, UnitShare
from elit_edge.runtimes.registry import all_runtimes

ON_ANE = Placement(
    role="velocity",
    latents=4,
    batch=2,
    units=(
        UnitShare(unit="Neural Engine", operators=412, cost=0.9376),
        UnitShare(unit="CPU", operators=20, cost=0.0624),
    ),
    undecided=3,
)
ON_CPU = Placement(
    role="condition",
    latents=None,
    batch=None,
    units=(UnitShare(unit="CPU", operators=24, cost=None),),
    undecided=0,
)


@pytest.fixture
def placed(made_report):
    report = made_report()
    (candidate,) = report.candidates
    told = msgspec.structs.replace(candidate, placement=(ON_ANE, ON_CPU))
    return msgspec.structs.replace(report, candidates=(told, candidate))


def test_the_table_has_a_column_for_each_unit(placed):
    sheet = sheets.placement(placed.candidates[0])
    assert sheet.heads == ("part", "Neural Engine", "CPU", "no unit named")
    assert sheet.rows == (
        ("velocity, latents 4, batch 2", "412 (94%)", "20 (6%)", "3"),
        ("condition", "0", "24", "0"),
    )


def test_json_has_it_or_null(placed, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(encode(placed))
    told, untold = json.loads(path.read_bytes())["candidates"]
    assert told["placement"][0]["units"][0] == {"unit": "Neural Engine", "operators": 412, "cost": 0.9376}
    assert told["placement"][1]["units"][0]["cost"] is None
    assert untold["placement"] is None
    assert read(path) == placed


def test_a_report_of_before_is_still_read(made_report, tmp_path):
    path = tmp_path / "report.json"
    fields = json.loads(encode(made_report()))
    del fields["candidates"][0]["placement"]
    path.write_text(json.dumps(fields))
    assert read(path).candidates[0].placement is None


def test_the_page_has_a_part_for_it_where_something_is_told(placed, made_report):
    text = page(placed)
    assert text.count("<h2>Placement</h2>") == 1
    assert text.count("412 (94%)") == 1, "one candidate of two says something"
    assert "Placement" not in re.sub(r"<(style|svg).*?</\1>", "", page(made_report()), flags=re.DOTALL)


def test_a_unit_with_a_hostile_name_is_text(placed):
    hostile = UnitShare(unit="<script>alert(1)</script>", operators=1, cost=None)
    part = msgspec.structs.replace(ON_CPU, units=(hostile,))
    candidate = msgspec.structs.replace(placed.candidates[0], placement=(part,))
    text = page(msgspec.structs.replace(placed, candidates=(candidate,)))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_terminal_shows_it_too(placed, made_report, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command._print(placed)
    assert "412 (94%)" in capsys.readouterr().out
    command._print(made_report())
    assert "no unit named" not in capsys.readouterr().out


PLANNER = """
    import os
    from elit_edge.errors import BundleError
    from elit_edge.runtimes.contract import Placement, Ready, Runtime, UnitShare
    from elit_edge.runtimes.onnxruntime_ import RUNTIMES

    (REAL,) = RUNTIMES

    class Planner(Runtime):
        name = "planner"
        def check(self):
            return Ready("1.0")
        def precisions(self, manifest):
            return ("fp32", "fp16", "bf16")
        def prepare(self, files, precision, threads):
            session = REAL.prepare(files, "fp32", threads)
            session.runtime, session.precision = "planner", precision
            def placement():
                if precision == "fp16":
                    os.abort()
                if precision == "bf16":
                    raise BundleError("the library tells no plan")
                unit = UnitShare(unit="made up", operators=7, cost=None)
                return (Placement(role="velocity", latents=None, batch=None, units=(unit,), undecided=0),)
            session.placement = placement
            return session

    PLANNER = Planner()
"""


@pytest.fixture
def planner(tmp_path, monkeypatch):
    """A runtime that says where it computes; in fp16 the library crashes when it is asked, in bf16 it fails."""
    (tmp_path / "planner_bench.py").write_text(dedent(PLANNER))
    info = tmp_path / "planner-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planner\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[elit_edge.runtimes]\nplanner = planner_bench:PLANNER")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    all_runtimes.cache_clear()
    yield
    sys.modules.pop("planner_bench", None)
    all_runtimes.cache_clear()


def test_a_plan_that_fails_loses_the_plan_alone(planner, tiny_bundle_path):
    said = []
    report = bench(Bundle.open(tiny_bundle_path), runtime="planner", window_s=0.02, say=said.append)
    found = {each.precision: each for each in report.candidates}
    assert found.keys() == {"fp32", "fp16", "bf16"}
    assert [share.operators for share in found["fp32"].placement[0].units] == [7]
    assert found["fp16"].placement is None
    assert found["bf16"].placement is None
    assert report.lost == ()
    notes = " ".join(report.notes)
    assert re.search("where planner fp16 is computed is not known: .*SIGABRT", notes)
    assert re.search("where planner bf16 is computed is not known: .*tells no plan", notes)
    assert len(report.notes) == 2


def test_a_runtime_that_says_nothing_has_null(tiny_bundle_path):
    report = bench(Bundle.open(tiny_bundle_path), runtime="onnxruntime", window_s=0.02)
    assert [each.placement for each in report.candidates] == [None]
    assert report.notes == ()
