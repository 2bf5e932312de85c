"""Two reports side by side: what is refused, and what is noise. All reports here are synthetic."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from elit_edge.bench.comparing import UnlikeContexts, compare, interval_of_ratio
from elit_edge.bench.report import ReportError, context_digest, encode, read
from elit_edge.errors import RequestError


def scaled(candidate, factor):
    """The same passes, each of them so many times longer."""

    def longer(times):
        samples = tuple(factor * each for each in times.samples_ms)
        return msgspec.structs.replace(times, median_ms=factor * times.median_ms, samples_ms=samples)

    return msgspec.structs.replace(
        candidate, rows=tuple(msgspec.structs.replace(row, times=longer(row.times)) for row in candidate.rows)
    )


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "within noise"), (1.015, "within noise"), (1.2, "slower"), (0.8, "faster")]
)
def test_a_ratio_is_called_what_it_is(made_report, factor, verdict):
    a = made_report()
    b = msgspec.structs.replace(a, candidates=(scaled(a.candidates[0], factor),))
    found = compare(a, b)
    assert [row.latents for row in found.ratios] == [1, 2, 4]
    for row in found.ratios:
        assert row.ratio == pytest.approx(factor)
        assert row.low <= factor <= row.high
        assert row.verdict == verdict


def test_a_difference_within_a_wide_spread_is_noise():
    draw = np.random.default_rng(1)
    low, high = interval_of_ratio(
        (10 * draw.lognormal(0, 0.8, 40)).tolist(), (11 * draw.lognormal(0, 0.8, 40)).tolist()
    )
    assert low < 1 < high
    low, high = interval_of_ratio(
        (10 * draw.lognormal(0, 0.01, 40)).tolist(), (11 * draw.lognormal(0, 0.01, 40)).tolist()
    )
    assert 1.05 < low < high < 1.15


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        low, high = interval_of_ratio(
            (10 * draw.lognormal(0, 0.1, 60)).tolist(), (11 * draw.lognormal(0, 0.1, 60)).tolist()
        )
        held += low <= 1.1 <= high
    assert 85 <= held <= 99


def test_moods_of_the_machine_widen_the_interval():
    """Waves of slow seconds: independent samples of the same spread would look far surer than they are."""
    draw = np.random.default_rng(2)
    waves = 10 + np.repeat(draw.normal(0, 1, 10), 20) + draw.normal(0, 0.05, 200)
    shuffled = draw.permutation(waves)
    low, high = interval_of_ratio(waves.tolist(), waves.tolist())
    low_shuffled, high_shuffled = interval_of_ratio(shuffled.tolist(), shuffled.tolist())
    assert high - low > 1.5 * (high_shuffled - low_shuffled)


@pytest.mark.parametrize(
    ("part", "value", "kind"),
    [
        ("device", "another", "device"),
        ("bundle", "c" * 64, "bundle"),
        ("threads", "2", "threads"),
        ("onnxruntime", "1.99.0", "versions"),
        ("python", "3.13.0", "versions"),
    ],
)
def test_unlike_contexts_are_refused_by_name_unless_told(made_report, part, value, kind):
    a, b = made_report(), made_report(identity={part: value})
    with pytest.raises(UnlikeContexts, match=rf"differ in {part} \(.*{value[:16]}\).*--across {kind}$"):
        compare(a, b)
    others = {"device", "bundle", "threads", "versions"} - {kind}
    with pytest.raises(UnlikeContexts):
        compare(a, b, others)
    found = compare(a, b, [kind])
    assert [(each.part, each.b) for each in found.differences] == [(part, value)]
    assert len(found.ratios) == 3


def test_what_to_add_is_told_in_full(made_report):
    a, b = made_report(), made_report(identity={"device": "another", "threads": "2"})
    with pytest.raises(UnlikeContexts, match=r"--across device,threads$"):
        compare(a, b, ["device"])


def test_a_kind_that_is_none_is_refused(made_report):
    with pytest.raises(RequestError, match=r"across weather: there is only device"):
        compare(made_report(), made_report(), ["weather"])


def test_what_one_report_alone_has_is_named_and_no_obstacle(made_report):
    a = made_report()
    more = msgspec.structs.replace(a.candidates[0], runtime="openvino", version="2026.1")
    b = made_report(identity={"openvino": "2026.1"}, candidates=(*a.candidates, more))
    found = compare(a, b)
    assert found.alone == ("openvino fp32 at 1, 2, 4 latents: only in B",)
    assert len(found.ratios) == 3


def test_reports_with_nothing_in_common_are_refused(made_report):
    a = made_report()
    other = msgspec.structs.replace(a.candidates[0], precision="bf16")
    with pytest.raises(RequestError, match=r"nothing in common: onnxruntime fp32 .* only in A"):
        compare(a, msgspec.structs.replace(a, candidates=(other,)))


def test_a_busy_or_unfinished_report_is_said(made_report):
    found = compare(made_report(busy=True, load_start=7.5), made_report(cut_short=True))
    assert found.warnings == ("A was measured on a busy machine (load 7.5)", "B was cut short")


def test_a_report_is_read_as_it_was_written(made_report, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(encode(made_report(throttled=True)))
    assert read(path) == made_report(throttled=True)


def damaged(report, change):
    found = json.loads(encode(report))
    change(found)
    return json.dumps(found).encode()


def first_times(found):
    return found["candidates"][0]["rows"][0]["times"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: b"", "no bench report"),
        (lambda _: b"\xff\xfe", "no bench report"),
        (lambda _: b"[" * 100_000, "no bench report"),
        (lambda _: b"[1, 2]", "no bench report"),
        (lambda _: b"{}", "schema version None"),
        (lambda _: b'{"schema_version": 99}', "schema version 99"),
        (lambda report: encode(report)[:500], "no bench report"),
        (lambda report: damaged(report, lambda found: found.update(surplus=1)), "no bench report"),
        (lambda report: damaged(report, lambda found: first_times(found).update(median_ms=0)), "no bench report"),
        (lambda report: damaged(report, lambda found: found["candidates"][0].update(rows=[])), "no bench report"),
        (lambda report: damaged(report, lambda found: found["context"]["identity"].update(device="me")), "was changed"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_a_typed_error(made_report, tmp_path, make, words):
    path = tmp_path / "report.json"
    path.write_bytes(make(made_report()))
    with pytest.raises(ReportError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_digest_covers_all_parts(made_report):
    report = made_report()
    assert report.context_sha256 == context_digest(report.context.identity)
    for part in report.context.identity:
        assert context_digest({**report.context.identity, part: "x"}) != report.context_sha256
