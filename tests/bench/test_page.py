"""The page of a synthetic report: whole by itself, escaped, and with the report's own figures.

It was looked at in Chromium at desktop and phone width, light and dark; that is not part of the tests.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from elit_edge.bench import plots
from elit_edge.bench.page import page
from elit_edge.errors import RuntimeUnavailable
from elit_edge.profiling.choosing import PassedOver

HOSTILE = "<script>alert('x')</script> [red]$\\frac{</style>\"& _name"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Parsed(HTMLParser):
    """Elements, text and tables; fails where an end tag does not meet its start."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words, self.ids, self.tables = [], [], [], [], []
        self._cell = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture
def hostile(made_report):
    report = made_report(throttled=True, bundle=HOSTILE, notes=(HOSTILE,))
    (candidate,) = report.candidates
    named = msgspec.structs.replace(candidate, runtime=HOSTILE, version=HOSTILE)
    device = msgspec.structs.replace(report.context.device, name=HOSTILE, os=HOSTILE)
    return msgspec.structs.replace(
        report,
        candidates=(named, candidate),
        lost=(PassedOver(runtime=HOSTILE, precision=None, reason=HOSTILE),),
        context=msgspec.structs.replace(report.context, device=device),
    )


def test_names_from_outside_are_text_and_nothing_else(hostile):
    text = page(hostile)
    parsed = Parsed(text)
    assert "script" not in {tag for tag, _ in parsed.seen}
    assert [tag for tag, _ in parsed.seen].count("style") == 1 + text.count("<defs>\n  <style")
    assert not any(name.startswith("on") for _, attrs in parsed.seen for name in attrs)
    assert sum(HOSTILE in words for words in parsed.words) >= 8
    assert {"red", "x"}.isdisjoint(tag for tag, _ in parsed.seen)


def test_nothing_comes_from_elsewhere(hostile):
    text = page(hostile)
    for tag, attrs in Parsed(text).seen:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attrs.get(name, "#").startswith("#"), (tag, attrs)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert "default-src 'none'" in text


def test_ids_are_unique_and_references_lead_to_one(hostile):
    text = page(hostile)
    ids = Parsed(text).ids
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted
    assert wanted <= set(ids)


def test_every_plot_has_its_alternative_text(made_report):
    parsed = Parsed(page(made_report(throttled=True)))
    drawn = [attrs for tag, attrs in parsed.seen if tag == "svg"]
    told = [attrs["aria-label"] for _, attrs in parsed.seen if attrs.get("role") == "img"]
    assert len(drawn) == len(told) == 4
    assert [words.split(":")[0] for words in told] == [
        "One pass by budget",
        "Peak memory",
        "Quality against time",
        "Sustained run",
    ]
    assert all("onnxruntime fp32" in words for words in told)


def test_the_figures_are_the_reports(made_report):
    report = made_report(throttled=True)
    parsed = Parsed(page(report))
    (passes,) = [table for table in parsed.tables if table[0][0] == "latents"]
    rows = report.candidates[0].rows
    assert passes[0][1:5] == ["median", "p90", "p99", "min"]
    for shown, row in zip(passes[1:], rows, strict=True):
        assert int(shown[0]) == row.latents
        found = (row.times.median_ms, row.times.p90_ms, row.times.p99_ms, row.times.min_ms)
        assert [float(value) for value in shown[1:5]] == pytest.approx(found, rel=5e-3)
        assert int(shown[5]) == row.times.n
        assert float(shown[6]) == pytest.approx(row.predicted_ms, rel=5e-3)
        assert shown[7:11] == ["+5%", "12.5", "25%", "–"], "energy without a sensor is no figure"
        assert float(shown[12]) == pytest.approx(row.distance, rel=5e-3)
    words = " ".join(parsed.words)
    assert "20 ms in the first quarter, 28 ms in the last (+40%)" in words
    assert report.context_sha256 in words
    glance = parsed.tables[0]
    assert glance[1][:4] == ["onnxruntime fp32", "1.23.0", "321", "54.3"]
    assert glance[1][6:] == ["123", "–"]


def test_a_plot_shows_each_budget_where_it_was_measured(made_report):
    """Heights of the dots in the drawing rise with the medians."""
    report = made_report()
    svg = plots.latency(report)
    dots = re.findall(r'<use xlink:href="#latency-m\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series-1\)', svg)
    assert len(dots) == 3
    heights = [-float(y) for _, y in dots]
    medians = [row.times.median_ms for row in report.candidates[0].rows]
    scale = (heights[2] - heights[0]) / (medians[2] - medians[0])
    assert heights[1] - heights[0] == pytest.approx(scale * (medians[1] - medians[0]), abs=0.01)


def test_what_is_not_known_leaves_its_plot_out(made_report):
    report = made_report()
    (candidate,) = report.candidates
    bare = msgspec.structs.replace(candidate, front=None, peak_bytes=None)
    parsed = Parsed(page(msgspec.structs.replace(report, candidates=(bare,))))
    words = " ".join(parsed.words)
    assert sum(tag == "svg" for tag, _ in parsed.seen) == 1
    assert "no measured quality table" in words
    assert "does not tell how much memory" in words
    assert "Sustained" not in words


def test_warnings_stand_first(made_report):
    words = " ".join(Parsed(page(made_report(busy=True, load_start=9.5, cut_short=True, throttled=True))).words)
    warned = [words.index(part) for part in ("Cut short", "busy machine (load 9.5", "Throttled", "At a glance")]
    assert warned == sorted(warned)


def test_the_plots_follow_light_and_dark(made_report):
    svg = plots.latency(made_report())
    assert "currentColor" in svg
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r'href="#[^"]*"', "", svg))) == set()


def test_a_missing_library_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match=r"matplotlib and jinja2; pip install 'elit-edge\[report\]'.*--json"):
        plots.require_plots()
