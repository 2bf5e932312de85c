"""`elit-edge bench`: on the command line, as a person and a script use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from textwrap import dedent

import msgspec
import pytest
from click.testing import CliRunner

from elit_edge.bench.context import KINDS
from elit_edge.bench.report import context_digest, encode, read
from elit_edge.cli.bench import ACROSS
from elit_edge.cli.main import main

PATIENCE_S = 120


def cli(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def report_path(tiny_bundle_path, tmp_path_factory):
    """A real report, as the command printed it."""
    answer = cli("bench", tiny_bundle_path, "--runtime", "onnxruntime", "--window", "50ms", "--json")
    assert answer.exit_code == 0, answer.output
    path = tmp_path_factory.mktemp("bench") / "report.json"
    path.write_text(answer.stdout)
    return path


def changed(path, to, **fields):
    to.write_bytes(encode(msgspec.structs.replace(read(path), **fields)))
    return to


def test_json_is_the_report(report_path):
    report = read(report_path)
    assert [each.title for each in report.candidates] == ["onnxruntime fp32"]
    assert report.window_s == 0.05
    assert report.sustained is None


def test_words_and_a_page_of_every_ready_runtime(tiny_bundle_path, tmp_path):
    """The default: auto. What is ready depends on the machine; ONNX Runtime is always."""
    page = tmp_path / "page.html"
    answer = cli("bench", tiny_bundle_path, "--window", "20ms", "--html", page)
    assert answer.exit_code == 0, answer.output
    assert "onnxruntime fp32: one pass of one sample" in answer.stdout
    assert "load average" in answer.stdout
    assert "onnxruntime fp32: one pass of one sample" in page.read_text()


def test_a_page_is_drawn_from_a_report_of_anywhere(report_path, tmp_path):
    page = tmp_path / "page.html"
    assert cli("bench", "page", report_path, "-o", page).exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = cli("bench", "page", report_path, "-o", page)
    assert again.exit_code == 1
    assert "exists" in again.stderr
    assert cli("bench", "page", report_path, "-o", page, "--force").exit_code == 0


def test_a_page_that_exists_is_refused_before_anything_is_measured(tiny_bundle_path, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine")
    answer = cli("bench", tiny_bundle_path, "--html", page)
    assert answer.exit_code == 1
    assert "measuring" not in answer.stderr
    assert page.read_text() == "mine"


def test_a_report_against_itself_is_noise(report_path):
    answer = cli("bench", "compare", report_path, report_path)
    assert answer.exit_code == 0, answer.output
    rows = len(read(report_path).candidates[0].rows)
    assert answer.stdout.count("within noise") == rows
    found = json.loads(cli("bench", "compare", report_path, report_path, "--json").stdout)
    assert {row["ratio"] for row in found["ratios"]} == {1.0}


def test_unlike_contexts_are_refused_in_one_line_unless_told(report_path, tmp_path):
    report = read(report_path)
    identity = {**report.context.identity, "device": "another"}
    other = changed(
        report_path,
        tmp_path / "other.json",
        context=msgspec.structs.replace(report.context, identity=identity),
        context_sha256=context_digest(identity),
    )
    answer = cli("bench", "compare", report_path, other)
    assert answer.exit_code == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: the reports differ in device (")
    assert line.endswith("--across device")
    told = cli("bench", "compare", report_path, other, "--across", "device,versions")
    assert told.exit_code == 0
    assert "across device (" in told.stdout
    assert cli("bench", "compare", report_path, other, "--across", "weather").exit_code == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json"])
def test_a_foreign_file_is_one_line(report_path, tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(content)
    for arguments in (("compare", report_path, path), ("page", path, "-o", tmp_path / "page.html")):
        answer = cli("bench", *arguments)
        assert answer.exit_code == 1
        assert len(answer.stderr.splitlines()) == 1
        assert str(path) in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.elit"], 1, "no bundle at nowhere.elit"),
        (["compare", "a.json", "b.json"], 1, "a.json"),
        (["nowhere.elit", "--window", "0s"], 2, "more than nothing"),
        (["nowhere.elit", "--window", "3"], 2, "unit"),
    ],
)
def test_bad_requests(arguments, code, words):
    answer = cli("bench", *arguments)
    assert answer.exit_code == code
    assert words in answer.stderr


def test_a_runtime_that_is_none_is_refused(tiny_bundle_path):
    answer = cli("bench", tiny_bundle_path, "--runtime", "abacus")
    assert answer.exit_code == 1
    assert "unknown runtime 'abacus'" in answer.stderr


def test_the_kinds_of_difference_are_those_of_compare():
    assert ACROSS == KINDS


def test_help_names_both_forms():
    answer = cli("bench", "--help")
    assert answer.exit_code == 0
    for words in ("BUNDLE", "compare", "page", "run"):
        assert words in answer.stdout
    assert "--sustained" in cli("bench", "run", "--help").stdout


LOUD = """
    import sys
    from contextlib import contextmanager
    import elit_edge.cli.bench as bench

    @contextmanager
    def plain():
        yield lambda name, share: print(name, f"{share:.3f}", file=sys.stderr, flush=True)

    bench.stages = plain
    from elit_edge.cli.main import main
    main()
"""
"""The real program, whose progress bar is plain lines."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no Ctrl-C for one group of processes")
def test_ctrl_c_in_a_sustained_run_keeps_what_was_measured(tiny_bundle_path, tmp_path):
    """To the whole group of processes, as a terminal sends it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # even where this test run ignores it
    command = [sys.executable, "-c", dedent(LOUD), "bench", str(tiny_bundle_path), "--runtime", "onnxruntime"]
    path = tmp_path / "report.json"
    try:
        with path.open("wb") as stdout:
            process = subprocess.Popen(
                [*command, "--window", "20ms", "--sustained", "30s", "--json"],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    heard = []
    with process:
        try:
            end = time.monotonic() + PATIENCE_S
            for line in process.stderr:
                heard.append(line)
                assert time.monotonic() < end
                name, _, share = line.strip().rpartition(" ")
                if name == "sustained" and float(share) > 0.05:
                    os.killpg(process.pid, signal.SIGINT)
                    break
            heard.append(process.stderr.read())
            assert process.wait(PATIENCE_S) == 0, heard
        finally:
            process.kill()
    report = read(path)
    assert report.cut_short
    assert report.sustained is not None
    assert 2 <= len(report.sustained.bins) < 20
    assert report.sustained.wanted_s == 30.0
    assert report.sustained.bins[-1].end_s < 25
    assert len(report.candidates) == 1
    assert "interrupted: this is what was measured until then" in heard[-1]
    assert "Traceback" not in "".join(heard)
