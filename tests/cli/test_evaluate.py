"""`elit-edge evaluate`: the table printed and kept, refusals in one line."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
from click.testing import CliRunner

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.evaluation import evaluating, plans
from elit_edge.quality import QualityTable


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A cache of the test's own, and a reference of few steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plans, "REFERENCE_STEPS", 4)


@pytest.fixture
def bundle(tiny_bundle_path, tmp_path):
    return shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit")


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def evaluate(bundle, *more):
    return cli("evaluate", bundle, "--pictures", 3, "--steps", "1,2", "--latents", "1,16", *more)


def test_the_table_is_printed_and_kept_in_the_bundle(bundle):
    before = cli("inspect", bundle).stdout
    result = evaluate(bundle, "--json")
    assert result.exit_code == 0, result.output
    table = msgspec.json.decode(result.stdout, type=QualityTable)
    assert Bundle.open(bundle).manifest.quality == table
    assert {cell.steps for cell in table.cells} == {1, 2}
    assert table.pictures == 3
    assert "not evaluated" in before
    after = cli("inspect", bundle).stdout
    assert f"{len(table.cells)} plans measured on 3 pictures" in after


def test_people_read_a_grid_of_steps_by_latents(bundle):
    result = evaluate(bundle)
    table = Bundle.open(bundle).manifest.quality
    (cell,) = (c for c in table.cells if (c.steps, c.latents, c.guidance, c.weak_latents) == (2, 1, "ccfg", 1))
    assert f"{cell.distance:.3f}" in result.stdout
    assert "J = 16" in result.stdout


def test_a_second_run_measures_nothing_and_leaves_the_bundle_alone(bundle, monkeypatch):
    evaluate(bundle)
    stamp = (bundle / "manifest.json").stat()
    monkeypatch.setattr(evaluating, "_measure", None)
    result = evaluate(bundle, "--json")
    assert json.loads(result.stdout)["pictures"] == 3
    now = (bundle / "manifest.json").stat()
    assert (now.st_ino, now.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pictures", "1"), "at least two"),
        (("--features", "nothing.onnx"), "no such file"),
        (("--latents", "1,99"), "1 to 16"),
        (("--steps", "0"), "one step"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bundle, options, words):
    result = cli("evaluate", bundle, *options)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert Bundle.open(bundle).manifest.quality is None


def test_a_list_that_is_none_is_a_usage_error(bundle):
    assert cli("evaluate", bundle, "--steps", "1,two").exit_code == 2
