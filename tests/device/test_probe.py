"""The probe of the machine that runs the tests, and what cannot be here: a Mac, an NVIDIA GPU, a dead driver."""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import onnxruntime
import pytest

from elit_edge.device import Device, gpu, optional, probe
from elit_edge.device.apple import apple_cpu, apple_facts, parse_sysctl
from elit_edge.device.cpu import read_cpu
from elit_edge.device.integer_product import constant, product_model
from elit_edge.device.tree import Tree
from elit_edge.runtimes.registry import all_runtimes

SCHEMA = Path(__file__).parents[2] / "docs" / "probe.schema.json"


def current():
    return json.dumps(msgspec.json.schema(Device), indent=1, sort_keys=True) + "\n"


@pytest.fixture(scope="module")
def measured():
    started = time.perf_counter()
    device = probe()
    return device, time.perf_counter() - started


def test_a_whole_probe_takes_less_than_five_seconds(measured):
    device, seconds = measured
    assert seconds < 5
    assert device.speed.took_s < 3.5


def test_what_was_measured_is_plausible_and_the_rest_has_a_reason(measured):
    speed = measured[0].speed
    rates = {rate.precision: rate for rate in speed.matmul}
    assert set(rates) == {"fp32", "int8", "fp16", "bf16"}
    for precision in ("fp32", "int8"):
        rate = rates[precision]
        assert 0.1 < rate.gops < 1e6
        assert rate.n >= 1
    for rate in rates.values():
        assert (rate.gops is None) is (rate.reason is not None)
    assert 0.1 < speed.memory.copy_gb_s < 10_000
    assert speed.memory.array_bytes > (measured[0].cpu.last_cache_bytes or 0)


def test_the_probe_goes_through_json_and_conforms_to_its_schema(measured):
    data = msgspec.json.encode(measured[0])
    assert msgspec.json.decode(data, type=Device) == measured[0]
    assert SCHEMA.read_text() == current(), "the facts changed: python tests/device/test_probe.py"
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))


def test_runtimes_are_those_of_the_registry(measured):
    states = {state.name: state for state in measured[0].runtimes}
    assert states.keys() == all_runtimes().keys()
    assert states["onnxruntime"].state == "ready"
    assert states["onnxruntime"].version == onnxruntime.__version__
    for state in states.values():
        assert (state.state == "missing") is (state.reason is not None) is (state.remedy is not None)


def test_nothing_is_measured_unless_asked():
    started = time.perf_counter()
    assert probe(measure=False).speed is None
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("side", [3, 16])
def test_the_integer_product_is_the_right_one(side):
    session = onnxruntime.InferenceSession(product_model(side), providers=["CPUExecutionProvider"])
    left = np.random.default_rng(0).integers(0, 128, (side, side), np.uint8)
    (product,) = session.run(None, {"a": left})
    assert product.dtype == np.int32
    np.testing.assert_array_equal(product, left.astype(np.int64) @ constant(side).astype(np.int64))


def test_under_emulation_the_hosts_flags_are_not_claimed(planted):
    tree = Tree(planted("x86-server-cgroup-v2"))
    cpu = read_cpu(tree, None, "aarch64")
    assert cpu.isa == ("neon",)
    assert cpu.model is None
    assert "another processor" in tree.notes[0]


def test_kinds_are_unknown_where_nothing_says_which_is_faster(planted):
    root = planted("android-termux")
    for file in (root / "sys/devices/system/cpu").glob("cpu*/cpufreq/cpuinfo_max_freq"):
        file.unlink()
    kinds = probe(root, measure=False).cpu.cores
    assert {kind.kind for kind in kinds} == {"unknown"}
    assert sum(kind.logical for kind in kinds) == 8


def test_a_mac_by_what_sysctl_prints():
    # Synthetic: the form of `sysctl hw machdep.cpu` on macOS, as sysctl(3) and Apple's documentation name its keys.
    text = """hw.model: Mac14,2
hw.logicalcpu: 8
hw.physicalcpu: 8
hw.perflevel0.logicalcpu: 4
hw.perflevel1.logicalcpu: 4
hw.perflevel0.l2cachesize: 16777216
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.AdvSIMD: 1
machdep.cpu.brand_string: Apple M2
"""
    values = parse_sysctl(text)
    assert (apple_facts(values).chip, apple_facts(values).model) == ("Apple M2", "Mac14,2")
    cpu = apple_cpu(values)
    assert [(kind.kind, kind.logical) for kind in cpu.cores] == [("performance", 4), ("efficiency", 4)]
    assert cpu.isa == ("neon", "asimddp", "i8mm")
    assert (cpu.vendor, cpu.usable_cpus, cpu.last_cache_bytes) == ("Apple", 8.0, 16 << 20)
    assert apple_cpu({}).isa is None


def fake_nvml(**changes):
    """Stands for nvidia-ml-py: there is no NVIDIA GPU here."""

    class NVMLError(Exception):
        pass

    def refuse(*_):
        raise NVMLError("Not Supported")

    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlSystemGetDriverVersion=lambda: b"570.1",
        nvmlDeviceGetName=lambda _: "NVIDIA L4",
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(total=24 << 30),
        nvmlDeviceGetCudaComputeCapability=lambda _: (8, 9),
        nvmlDeviceGetEnforcedPowerLimit=refuse,
    )
    for name, value in changes.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def with_driver(monkeypatch):
    monkeypatch.setattr(gpu, "gpu_names", lambda _: ["NVIDIA L4"])


def test_a_gpu_by_nvml(monkeypatch, with_driver):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    tree = Tree()
    (found,) = gpu.read_gpus(tree)
    assert (found.name, found.memory_bytes, found.compute_capability) == ("NVIDIA L4", 24 << 30, "8.9")
    assert (found.driver, found.power_limit_w) == ("570.1", None)
    assert tree.notes == ("NVML power limit: Not Supported",)


def test_a_driver_that_does_not_answer_holds_nobody_up(monkeypatch, with_driver):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=lambda: time.sleep(30)))
    monkeypatch.setattr(gpu, "NVML_SECONDS", 0.1)
    tree = Tree()
    started = time.perf_counter()
    (found,) = gpu.read_gpus(tree)
    assert time.perf_counter() - started < 5
    assert (found.name, found.memory_bytes) == ("NVIDIA L4", None)
    assert tree.notes == ("NVML: no answer within 0.1 s",)


def test_a_missing_library_is_a_fact_with_its_remedy(monkeypatch, with_driver):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    tree = Tree()
    gpu.read_gpus(tree)
    assert "pip install nvidia-ml-py" in tree.notes[0]


def test_a_library_that_breaks_when_imported_counts_as_missing(monkeypatch):
    def broken(name):
        raise OSError("libnvidia-ml.so.1: invalid ELF header")

    monkeypatch.setattr(importlib, "import_module", broken)
    tree = Tree()
    assert optional.optional_library(tree, "pynvml", "nvidia-ml-py") is None
    assert "invalid ELF header" in tree.notes[0]


if __name__ == "__main__":
    SCHEMA.write_text(current())
