"""The page of a synthetic calibration: whole by itself, escaped, and with the record's own figures.

Every figure in it is made up. It was looked at in Chromium at desktop and phone width, light and dark; that is not
part of the tests.
"""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from decoder_graphs import SCALE, SEEDS, SHIFT, entry, pixels_of, with_decoders
from PIL import Image

from elit_edge import Bundle
from elit_edge.calibration.record import (
    Headroom,
    Layer,
    Node,
    Range,
    Record,
    Sensitivity,
    SetSummary,
    Wide,
)
from elit_edge.calibration.report import plots
from elit_edge.calibration.report.page import Sheet, draw_sheet, page
from elit_edge.calibration.report.ranking import by_harm, kind, movement
from elit_edge.errors import RuntimeUnavailable
from elit_edge.generation import generate
from elit_edge.manifest import Budget, Manifest, Provenance, SamplerDefaults
from elit_edge.model_config import ModelConfig
from elit_edge.runtimes.contract import Session
from elit_edge.verdict import BudgetVerdict, Calibration, Interval, Speed, Verdict

HOSTILE = "<script>alert('x')</script> \"[red]$\\frac{</style>& \N{SNOWMAN}_name"
VOID = {"meta", "br", "hr", "img", "input", "link"}
BUDGETS = (1, 2, 4, 8, 16)
TIMES = (0.02, 0.16, 0.3, 0.44, 0.58, 0.72, 0.86, 1.0)
PARTS = ("modulation", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
ENDS = ("attn.q_proj", "attn.kv_proj", "attn.proj", "mlp.fc1", "mlp.fc2")


class Parsed(HTMLParser):
    """Elements, text and tables; fails where an end tag does not meet its start."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words, self.tables = [], [], [], []
        self._cell = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
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

    def table(self, *heads):
        """The one whose first heads are these."""
        (found,) = [table for table in self.tables if tuple(table[0][: len(heads)]) == heads]
        return found[1:]


def layer_names(blocks):
    ends = [f"{room}.{part}" for room in ("read", "write") for part in ENDS]
    return [
        *("time.fc1", "time.fc2", "patch"),
        *(f"blocks.{block}.{part}" for block in range(blocks) for part in PARTS),
        *(*ends, "read.modulation", "final_modulation"),
    ]


def made_layer(name, random):
    least = 36 + random.uniform(0, 20)
    size, by_budget, by_time = random.uniform(0.5, 20), random.uniform(0, 1), random.uniform(0, 2)
    return Layer(
        name=name,
        inputs=192,
        outputs=768,
        treatment="fp32" if least < 38 else "int8",
        observer=None if least < 38 else "mse",
        bound=None if least < 38 else 1.5 * size,
        alpha=None if least < 38 else 0.5,
        sensitivity=tuple(Sensitivity(latents=j, psnr_db=least + 0.5 * i) for i, j in enumerate(BUDGETS)),
        ranges=tuple(
            Range(latents=j, t=t, conditional=c, low=-high / 2, high=high)
            for j in BUDGETS
            for t in TIMES
            for c in (True, False)
            for high in (size * (1 + by_budget * j / 16) * (1 + by_time * t) * (1 if c else 0.9),)
        ),
    )


def made_record(blocks):
    random = np.random.default_rng(0)
    return Record(
        precision="int8",
        source_sha256="b" * 64,
        elit_edge="0.1.0",
        set=SetSummary(sha256="a" * 64, states=960, budgets=BUDGETS, times=TIMES, classes=12, seed=3),
        layers=tuple(made_layer(name, random) for name in layer_names(blocks)),
        headroom=None,
    )


def made_calibration(**changes):
    def interval(value, half):
        return Interval(low=value - half, value=value, high=value + half)

    budgets = tuple(
        BudgetVerdict(
            latents=latents,
            psnr_db=31.5 + 2 * place,
            departure=interval(0.031 - 0.004 * place, 0.003),
            loss=interval(0.002 - 0.0004 * place, 0.0015),
            frechet=interval(0.022 - 0.004 * place, 0.024),
        )
        for place, latents in enumerate(BUDGETS)
    )
    fields = {
        "gate_db": 30.0,
        "pictures": 256,
        "steps": 25,
        "seed": 7,
        "features_sha256": "c" * 64,
        "budgets": budgets[::-1],
        "speeds": (
            Speed(runtime="onnxruntime", version="1.23.2", latents=16, fp32_ms=24.0, own_ms=16.0),
            Speed(runtime="openvino", version="2026.4.0", latents=16, fp32_ms=30.0, own_ms=12.0),
            Speed(runtime="onnxruntime", version="1.23.2", latents=1, fp32_ms=8.0, own_ms=10.0),
            Speed(runtime="openvino", version="2026.4.0", latents=1, fp32_ms=9.0, own_ms=None),
        ),
        "size_ratio": 0.262,
        "device": "Synthetic CPU",
        "faults": (),
    }
    return Calibration(
        precision="int8",
        record="calibration/int8.json",
        set_sha256="a" * 64,
        float_layers=(),
        verdict=Verdict(**{**fields, **changes}),
    )


def made_sheet(labels=("cat", "dog", "owl")):
    random = np.random.default_rng(1)
    pictures = random.integers(0, 256, (2, 2, len(labels), 8, 8, 3), np.uint8)
    return Sheet(labels, (1, 16), *pictures)


@pytest.fixture(scope="module")
def manifest():
    """Of a model of pixels that has no graphs."""
    model = ModelConfig(
        architecture="elit-sit",
        image_size=8,
        in_channels=3,
        patch_size=2,
        hidden_size=4,
        num_heads=1,
        mlp_ratio=4.0,
        head_depth=1,
        core_depth=1,
        tail_depth=0,
        group_size=4,
        num_classes=9,
    )
    return Manifest(
        name="synthetic",
        model=model,
        sample_space="pixels",
        ladder=tuple(Budget(latents=latents, velocity_flops=1000 * latents) for latents in range(1, 17)),
        graphs=(),
        files={},
        sampler=SamplerDefaults(steps=4),
        verification=None,
        provenance=Provenance(
            source="none", source_sha256="0" * 64, elit_edge="0", torch="0", onnx_ir="0", onnxscript="0", opset=23
        ),
    )


@pytest.fixture(scope="module")
def record():
    return made_record(6)


@pytest.fixture(scope="module")
def text(manifest, record):
    return page(manifest, made_calibration(), record, made_sheet())


@pytest.fixture(scope="module")
def hostile_text(manifest, record):
    layers = tuple(
        msgspec.structs.replace(layer, name=f"{HOSTILE}{place}") for place, layer in enumerate(record.layers)
    )
    calibration = made_calibration(
        device=HOSTILE,
        faults=(HOSTILE,),
        failed=(HOSTILE,),
        speeds=(Speed(runtime=HOSTILE, version=HOSTILE, latents=16, fp32_ms=3.0, own_ms=2.0),),
    )
    calibration = msgspec.structs.replace(calibration, precision=HOSTILE, record=HOSTILE)
    return page(
        msgspec.structs.replace(manifest, name=HOSTILE),
        calibration,
        msgspec.structs.replace(record, layers=layers, elit_edge=HOSTILE),
        made_sheet((HOSTILE, "dog", "owl")),
    )


def test_names_from_outside_are_text_and_nothing_else(record, hostile_text):
    parsed = Parsed(hostile_text)
    assert {"script", "red", "x"}.isdisjoint(tag for tag, _ in parsed.seen)
    assert [tag for tag, _ in parsed.seen].count("style") == 1 + hostile_text.count("<defs>\n  <style")
    assert not any(name.startswith("on") for _, attrs in parsed.seen for name in attrs)
    assert sum(HOSTILE in words for words in parsed.words) >= 8 + 2 * len(record.layers)
    assert any(HOSTILE in attrs.get("alt", "") for tag, attrs in parsed.seen if tag == "img")


@pytest.mark.parametrize("which", ["text", "hostile_text"])
def test_nothing_comes_from_elsewhere(request, which):
    text = request.getfixturevalue(which)
    for tag, attrs in Parsed(text).seen:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href", "action", "data"):
            allowed = "data:image/png;base64," if (tag, name) == ("img", "src") else "#"
            assert attrs.get(name, allowed).startswith(allowed), (tag, attrs)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_page_is_one_document(text):
    parsed = Parsed(text)
    tags = [tag for tag, _ in parsed.seen]
    assert [tags.count(tag) for tag in ("html", "head", "body", "main", "h1")] == [1] * 5
    ids = [attrs["id"] for _, attrs in parsed.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert all(attrs.get("alt") for tag, attrs in parsed.seen if tag == "img")
    told = [attrs["aria-label"] for _, attrs in parsed.seen if attrs.get("role") == "img"]
    assert len(told) == tags.count("svg") == 3 + 2 + 6


def test_the_verdict_stands_first(text):
    words = " ".join("".join(Parsed(text).words).split())
    assert "Accepted. PSNR to float32 is 31.5 dB at its worst budget, 1 latent; at least 30 dB are asked." in words
    assert "It is 2.00 times as fast at 16 latents, on openvino 2026.4.0; float32 on onnxruntime 1.23.2." in words
    assert "have 0.262 of float32's bytes" in words
    order = [
        words.index(part) for part in ("Accepted.", "At a glance", "As good, at", "Faster?", "Pictures", "Context")
    ]
    assert order == sorted(order)


def test_caveats_stand_with_the_verdict(text):
    words = " ".join("".join(Parsed(text).words).split())
    slower = words.index("Slower than fp32 at 1 latents: 0.80 times as fast.")
    assert words.index("Accepted.") < slower < words.index("At a glance")


def test_a_refused_one_says_why(manifest, record):
    slow = (Speed(runtime="onnxruntime", version="1.23.2", latents=16, fp32_ms=10.0, own_ms=15.0),)
    text = page(manifest, made_calibration(faults=("too far", "too slow"), speeds=slow), record, None)
    words = " ".join("".join(Parsed(text).words).split())
    assert "REFUSED." in words
    assert "Accepted" not in words
    assert "It is slower: it takes 1.50 times as long at 16 latents, both on onnxruntime 1.23.2." in words
    warned = [words.index(part) for part in ("Refused: too far", "Refused: too slow", "At a glance")]
    assert warned == sorted(warned)


def test_the_verdicts_figures_stand_in_its_tables(text):
    parsed = Parsed(text)
    rows = parsed.table("latents", "PSNR, dB")
    assert rows[0] == [
        "1",
        "31.5",
        "3.1% (2.8 to 3.4)",
        "+0.20% (+0.05 to +0.35)",
        "+2.2% (-0.2 to +4.6)",
    ]
    assert [(row[0], row[1]) for row in rows] == [
        ("1", "31.5"),
        ("2", "33.5"),
        ("4", "35.5"),
        ("8", "37.5"),
        ("16", "39.5"),
    ]
    assert parsed.table("runtime", "latents") == [
        ["onnxruntime 1.23.2", "1", "8", "10", "0.80×"],
        ["openvino 2026.4.0", "1", "9", "–", "–"],
        ["onnxruntime 1.23.2", "16", "24", "16", "1.50×"],
        ["openvino 2026.4.0", "16", "30", "12", "2.50×"],
    ]


@pytest.mark.parametrize(("blocks", "count"), [(6, 45), (22, 125)])
def test_every_layer_stands_in_the_tables_with_its_figures(manifest, blocks, count):
    record = made_record(blocks)
    parsed = Parsed(page(manifest, made_calibration(), record, None))
    rows = parsed.table("layer", "shape")
    assert len(rows) == count
    for row, layer in zip(rows, record.layers, strict=True):
        assert row[:3] == [layer.name, "192 → 768", layer.treatment]
        assert row[3] == ("mse" if layer.treatment == "int8" else "–")
        if layer.bound is not None:
            assert float(row[4]) == pytest.approx(layer.bound, rel=5e-3)
        assert float(row[6]) == pytest.approx(layer.sensitivity[0].psnr_db, abs=0.05)
        assert row[7] == "1"
    moved = {row[0]: row for row in parsed.table("layer", "greatest |x|")}
    assert len(moved) == count
    for layer in record.layers:
        by_stratum = {(each.latents, each.t, each.conditional): each.high for each in layer.ranges}
        row = moved[layer.name]
        assert float(row[1]) == pytest.approx(by_stratum[16, 1.0, True], rel=5e-3)
        assert row[2] == "16 latents, t 1, class"
        ratios = [float(cell.removesuffix("×")) for cell in row[3:]]
        wanted = [
            by_stratum[16, 1.0, True] / by_stratum[1, 1.0, True],
            by_stratum[1, 1.0, True] / by_stratum[1, 0.02, True],
            1 / 0.9,
        ]
        assert ratios == pytest.approx(wanted, abs=0.0051)


def bars_of(svg):
    """Lengths of the bars from the top, as they stand in the drawing."""
    found = re.findall(r'<path d="M ([\d.]+) ([\d.]+) ?\n?L ([\d.]+) [\d.]+ [^"]*z\s*" clip-path[^>]*fill: var', svg)
    return [abs(float(right) - float(left)) for left, _, right in sorted(found, key=lambda each: float(each[1]))]


@pytest.mark.parametrize("blocks", [6, 22])
def test_bars_stand_in_the_order_of_harm(blocks):
    ranked = by_harm(made_record(blocks).layers)
    worst = [found.psnr_db for _, found in ranked]
    assert worst == sorted(worst)
    svg = plots.sensitivity(ranked, 30.0, {"int8": 0, "fp32": 1})
    names = re.findall(r">([a-z_]+[\w.]*)</text>", svg)
    assert names == [layer.name for layer, _ in ranked[:30]]
    lengths = bars_of(svg)
    assert len(lengths) == 30
    assert lengths == sorted(lengths, reverse=True)
    per_db = (lengths[0] - lengths[-1]) / (worst[29] - worst[0])
    assert lengths[3] - lengths[17] == pytest.approx(per_db * (worst[17] - worst[3]), abs=0.01)
    colours = re.findall(r"clip-path[^>]*fill: var\(--series-(\d)\)", svg)
    assert colours == ["2" if layer.treatment == "fp32" else "1" for layer, _ in ranked[:30]]


def test_exact_and_broken_layers_leave_the_others_readable():
    layers = [
        made_layer("ordinary", np.random.default_rng(2)),
        *(
            msgspec.structs.replace(
                made_layer(name, np.random.default_rng(2)), sensitivity=(Sensitivity(latents=1, psnr_db=psnr_db),)
            )
            for name, psnr_db in (("exact", 999.0), ("broken", -999.0))
        ),
    ]
    ranked = by_harm(layers)
    lengths = bars_of(plots.sensitivity(ranked, 30.0, {"int8": 0, "fp32": 1}))
    assert [layer.name for layer, _ in ranked] == ["broken", "ordinary", "exact"]
    assert lengths[0] > lengths[1] > lengths[0] / 5
    assert lengths[2] == 0


def test_a_kind_is_a_layer_without_its_block():
    assert kind("blocks.17.mlp.fc2") == "blocks.*.mlp.fc2"
    assert kind("read.attn.q_proj") == "read.attn.q_proj"
    assert kind("17") == "17"
    svg = plots.kinds(by_harm(made_record(22).layers), 30.0, {"int8": 0, "fp32": 1})
    assert svg.count("blocks.*.mlp.fc2") == 1
    assert len(re.findall(r"<use [^>]*var\(--series", svg)) == 125


def stratum(latents, t, conditional, high):
    return Range(latents=latents, t=t, conditional=conditional, low=-1.0, high=high)


def test_a_ratio_is_that_of_one_axis_all_else_equal():
    layer = made_layer("x", np.random.default_rng(0))
    ranges = (stratum(1, 0.1, True, 2.0), stratum(4, 0.1, True, 6.0), stratum(1, 0.9, True, 10.0))
    found = movement(msgspec.structs.replace(layer, ranges=ranges))
    assert (found.by_budget, found.by_time, found.by_class) == (3.0, 5.0, None)
    assert found.widest == ranges[2]
    low = msgspec.structs.replace(ranges[0], low=-40.0)
    assert movement(msgspec.structs.replace(layer, ranges=(low, ranges[1]))).by_budget == pytest.approx(40 / 6)
    dead = msgspec.structs.replace(ranges[0], low=0.0, high=0.0)
    assert movement(msgspec.structs.replace(layer, ranges=(dead, ranges[1]))).by_budget == float("inf")
    assert movement(msgspec.structs.replace(layer, ranges=(dead,))).by_budget is None
    assert movement(msgspec.structs.replace(layer, ranges=())) is None


def test_ranges_that_move_most_are_drawn(manifest, record, text):
    captions = re.findall(r"<figcaption>([^<]*× by budget, [^<]*× by time)</figcaption>", text)
    moved = [movement(layer) for layer in record.layers]
    with_budget = sorted(moved, key=lambda each: -each.by_budget)[:3]
    with_time = sorted((each for each in moved if each not in with_budget), key=lambda each: -each.by_time)[:3]
    assert [caption.split(":")[0] for caption in captions] == [each.layer for each in (*with_budget, *with_time)]


def test_a_line_a_budget_rises_with_what_was_seen(record):
    layer = record.layers[0]
    svg = plots.ranges("ranges", layer, BUDGETS)
    lines = re.findall(r'd="M ([\d.]+) ([\d.]+) ([^"]*)" clip-path[^>]*stroke: var\(--series-(\d)\)', svg)
    assert [number for *_, number in lines] == ["1", "2", "3", "4", "5"]
    assert all(rest.count("L") == len(TIMES) - 1 for _, _, rest, _ in lines)
    # the first point is t = 0.02, to the right of all others, and every budget holds more than the one before
    heights = [float(y) for _, y, _, _ in lines]
    assert heights == sorted(heights, reverse=True)
    assert all(float(x) > float(rest.split()[-2]) for x, _, rest, _ in lines)


def test_each_picture_is_the_sheets(text):
    sheet = made_sheet()
    shown = [attrs for tag, attrs in Parsed(text).seen if tag == "img"]
    wanted = [
        (f"{label} at {words}, {name}", images[place, column])
        for place, words in enumerate(("1 latent", "16 latents"))
        for name, images in (("float32", sheet.float32), ("int8", sheet.quantized))
        for column, label in enumerate(sheet.labels)
    ]
    assert [attrs["alt"] for attrs in shown] == [alt for alt, _ in wanted]
    for attrs, (_, picture) in zip(shown, wanted, strict=True):
        data = base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,"))
        drawn = np.asarray(Image.open(io.BytesIO(data)))
        factor = len(drawn) // len(picture)
        assert (drawn == picture.repeat(factor, 0).repeat(factor, 1)).all()
    assert "image-rendering: pixelated" in text


def test_what_was_not_measured_is_said(manifest, record):
    bare = msgspec.structs.replace(
        record,
        set=None,
        layers=tuple(msgspec.structs.replace(layer, sensitivity=(), ranges=()) for layer in record.layers),
    )
    unseen = tuple(
        BudgetVerdict(latents=latents, psnr_db=999.0, departure=None, loss=None, frechet=None) for latents in BUDGETS
    )
    text = page(manifest, made_calibration(budgets=unseen, speeds=(), pictures=0, features_sha256=None), bare, None)
    parsed = Parsed(text)
    words = " ".join("".join(parsed.words).split())
    for part in (
        "PSNR to float32 is exact",
        "Nothing is known of its speed at 16 latents",
        "so no speed was measured",
        "No layer was quantized alone",
        "No ranges were recorded",
        "No pictures were drawn",
        "none: this precision needs none",
        "on no pictures of 25 steps",
    ):
        assert part in words
    assert sum(tag == "svg" for tag, _ in parsed.seen) == 1
    assert parsed.table("latents", "PSNR, dB")[0] == ["1", "exact", "–", "–", "–"]


def test_what_fp16_leaves_in_float32_is_shown_with_its_peaks(manifest, record):
    assert "Left in float32" not in page(manifest, made_calibration(), record, None)

    def node(number, op, layer, peak):
        return {"graph": "velocity", "name": f"node_{number}", "op": op, "layer": layer, "peak": peak}

    found = Headroom(
        wide=(
            Wide(**node(1, "Unsqueeze", None, 0.0), why="angles"),
            Wide(**node(2, "ReduceL2", "read.attn.q_proj", 6550.4), why="sum of squares"),
            Wide(**node(3, "Div", "read.attn.q_proj", 12.0), why="sum of squares"),
            Wide(**node(4, "MatMul", HOSTILE, 655040.0), why="overflow"),
            Wide(**node(5, "Add", HOSTILE, 6550.4), why="overflow"),
            Wide(**node(6, "Add", HOSTILE, 6550.4), why="overflow"),
        ),
        least=Node(**node(7, "Gelu", "blocks.0.mlp.fc1", 1310.08)),
        factor=50.0,
    )
    text = page(manifest, made_calibration(), msgspec.structs.replace(record, headroom=found), None)
    parsed = Parsed(text)
    assert parsed.table("layer", "nodes", "why", "greatest", "head-room") == [
        ["–", "Unsqueeze", "angles", "0", "∞"],
        ["read.attn.q_proj", "ReduceL2, Div", "sum of squares", "6550", "10×"],
        [HOSTILE, "MatMul, Add", "overflow", "655040", "0.1×"],
    ]
    words = " ".join("".join(parsed.words).split())
    assert "Gelu of blocks.0.mlp.fc1 (node_7) has the least head-room" in words
    assert "its greatest magnitude is 1310, and 65504 is 50 times that" in words


def test_a_model_of_latents_has_no_pictures(manifest, record):
    latent = msgspec.structs.replace(manifest, sample_space="latents")
    assert "the bundle holds no decoder" in page(latent, made_calibration(), record, None)


def test_the_plots_follow_light_and_dark(text):
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in drawn
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r'href="#[^"]*"', "", drawn))) == set()
    assert "prefers-color-scheme: dark" in text


def test_a_missing_library_is_said_with_its_remedy(manifest, record, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'elit-edge\[report\]', or calibrate without --report"):
        page(manifest, made_calibration(), record, None)


class Field(Session):
    """In place of a pixel model, which would take minutes to export: a velocity in closed form."""

    def __init__(self, manifest, precision):
        super().__init__(manifest, "closed form", precision)

    def condition(self, t, y):
        return np.stack([t, y.astype(np.float32)], 1)

    def velocity_from(self, x, modulations, latents):
        off = 0.2 if self.precision == "int8" else 0.0
        return x * (modulations[:, 1] / 50 + latents / 40 + off)[:, None, None, None]

    def close(self):
        pass


def test_a_sheet_holds_what_generate_makes_of_the_seed(manifest):
    float32, quantized = Field(manifest, "fp32"), Field(manifest, "int8")
    sheet = draw_sheet(float32, quantized, (1, 16), 5, classes=3)
    assert (sheet.latents, sheet.labels) == ((1, 16), ("class 0", "class 4", "class 8"))
    for place, latents in enumerate((1, 16)):
        assert (sheet.float32[place] == generate(float32, [0, 4, 8], latents=latents, seed=5).images).all()
        assert (sheet.quantized[place] == generate(quantized, [0, 4, 8], latents=latents, seed=5).images).all()
    assert (sheet.float32 != sheet.quantized).any()


def test_latents_are_drawn_through_a_decoder_alone(tiny_bundle_path, tmp_path):
    bundle = Bundle.open(with_decoders(tiny_bundle_path, tmp_path / "tiny.elit", entry()))
    full = bundle.manifest.latents_per_group
    float32, quantized = Field(bundle.manifest, "fp32"), Field(bundle.manifest, "int8")
    assert draw_sheet(float32, quantized, (1, full), 5) is None
    with bundle.prepare_decoder(runtime="onnxruntime") as decoder:
        sheet = draw_sheet(float32, quantized, (1, full), 5, decoder, classes=2)
    chosen = [0, bundle.manifest.model.num_classes - 1]
    for images, session in ((sheet.float32, float32), (sheet.quantized, quantized)):
        for drawn, latents in zip(images, (1, full), strict=True):
            samples = generate(session, chosen, latents=latents, seed=5).samples
            pixels = np.moveaxis(pixels_of(samples / SCALE + SHIFT, SEEDS["full"]), 1, -1)
            assert np.abs(drawn - np.clip((pixels + 1) / 2 * 255, 0, 255)).max() < 0.51


def test_why_there_are_no_pictures_is_said(manifest, record):
    latents = msgspec.structs.replace(manifest, sample_space="latents")
    assert "the bundle holds no decoder" in page(latents, made_calibration(), record, None)
    decoded = msgspec.structs.replace(latents, decoders=(entry(),))
    assert "no decoder" not in page(decoded, made_calibration(), record, None)
