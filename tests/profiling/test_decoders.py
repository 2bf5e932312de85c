"""Measuring a bundle's decoder on the ready runtimes: each in its own process, once, cached; and what `auto` takes."""

import json
import shutil

import msgspec
import pytest
from decoder_graphs import entry, with_decoders

from elit_edge.bundle import Bundle
from elit_edge.decoding import DecoderCost
from elit_edge.errors import RuntimeUnavailable
from elit_edge.profiling import decoders
from elit_edge.profiling.decoder_worker import MeasuredDecoder
from elit_edge.profiling.decoders import decoder_costs, decoder_runtimes
from elit_edge.profiling.own_process import WorkerFailed


@pytest.fixture(scope="module")
def path(tiny_bundle_path, tmp_path_factory):
    return with_decoders(tiny_bundle_path, tmp_path_factory.mktemp("bundles") / "tiny.elit", entry(), entry("fast"))


@pytest.fixture
def bundle(path):
    return Bundle.open(path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; its content, once there is some."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: json.loads(next((tmp_path / "elit-edge" / "profiles").glob("*.json")).read_text())


@pytest.fixture
def answers(monkeypatch):
    """In place of processes: figures by runtime. What was asked for is kept."""
    asked, made = [], {}

    def answer_of(module, folder, runtime, kind, threads):
        asked.append((runtime, kind, threads))
        assert module == "elit_edge.profiling.decoder_worker"
        if isinstance(made[runtime], Exception):
            raise made[runtime]
        ms, pixels = made[runtime]
        cost = DecoderCost(runtime=runtime, open_ms=1.0, latents=6, first_ms=ms, median_ms=ms)
        return msgspec.json.encode(MeasuredDecoder(cost=cost, pixels=pixels))

    monkeypatch.setattr(decoders, "answer_of", answer_of)
    return made, asked


PIXELS = (0.0, 0.5, 1.0)


def test_each_runtime_is_measured_in_its_own_process_and_once(bundle, cache):
    said = []
    decoder = bundle.manifest.decoder("full")
    first = decoder_costs(bundle.files, decoder, threads=1, report=said.append)
    assert said == [
        f"measuring the full decoder with {name} on this device (once)" for name in ("onnxruntime", "openvino")
    ]
    assert {cost.runtime for cost in first.found} == {"onnxruntime", "openvino"}
    for cost in first.found:
        assert cost.latents == 6
        assert cost.median_ms > 0
        assert cost.first_ms > 0
        assert cost.open_ms > 0
    assert [cost.median_ms for cost in first.found] == sorted(cost.median_ms for cost in first.found)
    assert {lost.runtime for lost in first.passed_over} >= {"reference", "tensorrt"}
    again = decoder_costs(bundle.files, decoder, threads=1, report=pytest.fail)
    assert again.found == first.found
    assert len(cache()["decoders"]) == 2


def test_auto_takes_the_fastest_and_remembers(bundle, cache, answers):
    made, asked = answers
    made |= {"onnxruntime": (20.0, PIXELS), "openvino": (10.0, PIXELS)}
    for _ in range(2):
        with bundle.prepare_decoder("fast") as decoder:
            assert decoder.runtime == "openvino"
            assert decoder.decoder.kind == "fast"
            assert decoder.expected_ms(1) == pytest.approx(1.25 * 10 * (16 / 6) ** 2)
    assert asked == [("onnxruntime", "fast", "0"), ("openvino", "fast", "0")]
    with bundle.prepare_decoder("full"):
        pass
    with bundle.prepare_decoder("fast", threads=1):
        pass
    assert len(asked) == 6, "another decoder or other threads are measured by themselves"


def test_what_fails_or_computes_something_else_is_passed_over(bundle, cache, answers):
    made, _ = answers
    decoder = bundle.manifest.decoder("full")
    made |= {"onnxruntime": (20.0, PIXELS), "openvino": (10.0, (0.0, 0.6, 1.0))}
    found = decoder_costs(bundle.files, decoder)
    assert [cost.runtime for cost in found.found] == ["onnxruntime"]
    assert any("25 dB from onnxruntime, and the gate is 100 dB" in lost.reason for lost in found.passed_over)
    made["openvino"] = WorkerFailed("ended by signal SIGSEGV")
    found = decoder_costs(bundle.files, decoder, threads=3)
    assert [cost.runtime for cost in found.found] == ["onnxruntime"]
    assert any("it failed when measured: ended by signal SIGSEGV" in lost.reason for lost in found.passed_over)
    made["onnxruntime"] = WorkerFailed("no answer")
    with pytest.raises(RuntimeUnavailable, match=r"no runtime decodes here: .*onnxruntime: it failed"):
        bundle.prepare_decoder(threads=4)


def test_one_runtime_alone_is_not_measured(bundle, cache, answers):
    _, asked = answers
    with bundle.prepare_decoder(runtime="openvino") as decoder:
        assert decoder.runtime == "openvino"
    assert asked == []


def test_a_named_runtime_brings_what_is_known_of_it(bundle, cache, answers):
    made, _ = answers
    made |= {"onnxruntime": (20.0, PIXELS), "openvino": (10.0, PIXELS)}
    bundle.prepare_decoder().close()
    with bundle.prepare_decoder(runtime="onnxruntime") as decoder:
        assert decoder.expected_ms(1) == pytest.approx(1.25 * 20 * (16 / 6) ** 2)


@pytest.mark.parametrize(
    ("name", "words"), [("reference", "it does not compute the full decoder"), ("abacus", "unknown runtime 'abacus'")]
)
def test_a_runtime_that_cannot_is_refused(bundle, name, words):
    with pytest.raises(RuntimeUnavailable, match=words):
        decoder_runtimes(bundle.manifest.decoder("full"), name)


def test_the_same_bundle_elsewhere_is_known(path, cache, answers, tmp_path):
    made, asked = answers
    made |= {"onnxruntime": (20.0, PIXELS), "openvino": (10.0, PIXELS)}
    Bundle.open(path).prepare_decoder().close()
    other = tmp_path / "other.elit"
    shutil.copytree(path, other)
    Bundle.open(other).prepare_decoder().close()
    assert len(asked) == 2
