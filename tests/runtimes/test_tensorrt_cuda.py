"""The driver: what there is, what is said where it cannot be used, and that nothing of it is kept. On a SIMULATION."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from elit_edge.errors import BundleError, FitError, RuntimeUnavailable
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.tensorrt_.cuda import CudaError, Device, failures, find_gpu, need_gpu
from elit_edge.runtimes.tensorrt_.library import TENSORRT

pytest.importorskip("onnx")


def opened():
    need_gpu()
    return Device()


def test_the_gpu_is_named_with_what_engines_depend_on(gpu):
    gpu.name, gpu.compute_capability, gpu.driver = "Orin", "8.7", 12020
    found = find_gpu()
    assert (found.name, found.compute_capability, found.driver) == ("Orin", "8.7", "12.2")


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        pytest.param({"installed": False}, "no NVIDIA driver is installed", "--gpus all", id="no driver"),
        pytest.param({"driver": 11080}, "too old: it knows CUDA 11.8, and 12 is needed", "update", id="old driver"),
        pytest.param({"devices": 0}, "CUDA sees no GPU", "CUDA_VISIBLE_DEVICES", id="no device"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_reason_and_a_remedy(gpu, change, reason, remedy):
    for name, value in change.items():
        setattr(gpu, name, value)
    found = find_gpu()
    assert isinstance(found, Missing)
    assert reason in found.reason
    assert "\n" not in found.reason
    assert remedy in found.remedy
    with pytest.raises(RuntimeUnavailable, match=remedy):
        need_gpu()


@pytest.mark.parametrize("call", range(6))
def test_a_driver_that_does_not_answer_is_a_reason_at_any_call(gpu, call):
    gpu.fail_at(call)
    found = find_gpu()
    assert isinstance(found, Missing)
    assert "CUDA_ERROR_UNKNOWN" in found.reason


def test_stubs_alone_are_no_library():
    """As they are installed here for the type checker; where nothing is installed, the answer is the same."""
    import importlib.util

    spec = importlib.util.find_spec("tensorrt")
    if spec is not None and spec.origin is not None:
        pytest.skip("TensorRT itself is installed here")
    state = TENSORRT.state()
    assert isinstance(state, Missing)
    assert "not installed" in state.reason


def test_what_is_uploaded_comes_back(gpu):
    device = opened()
    buffer = device.allocate(400)
    sent = np.arange(100, dtype=np.float32)
    device.upload(buffer, sent)
    got = np.empty_like(sent)
    device.download(buffer, got)
    device.synchronize()
    np.testing.assert_array_equal(got, sent)
    with pytest.raises(AssertionError, match="too small"):
        device.upload(buffer, np.zeros(101, np.float32))
    buffer.free()
    buffer.free()
    device.close()
    device.close()


@pytest.mark.parametrize("call", range(4))
def test_a_device_that_cannot_be_opened_keeps_nothing(gpu, call):
    need_gpu()
    gpu.fail_at(call)
    with pytest.raises(CudaError, match="CUDA_ERROR_UNKNOWN"):
        Device()


def test_a_device_is_closed_by_any_thread(gpu):
    device = opened()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    assert gpu.held == {}


def capture(device, work):
    with device.capturing() as captured:
        work()
    return captured


def test_a_failure_while_capturing_is_the_one_that_is_raised_and_leaves_no_graph(gpu):
    device = opened()

    def work():
        raise BundleError("the library fails")

    with pytest.raises(BundleError, match="the library fails"):
        capture(device, work)
    assert "graphs" not in gpu.held
    capture(device, lambda: None).destroy()
    device.close()


def test_a_capture_that_the_failure_itself_ended_hides_no_cause(gpu):
    device = opened()

    def work():
        device.synchronize()

    with pytest.raises(CudaError, match="cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        capture(device, work)
    capture(device, lambda: None).destroy()
    device.close()


@pytest.mark.parametrize("name", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_a_capture_that_fails_keeps_no_graph(gpu, name):
    device = opened()
    gpu.fail(name)
    with pytest.raises(CudaError, match=name):
        capture(device, lambda: None)
    assert "graphs" not in gpu.held
    assert "executables" not in gpu.held
    device.close()


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_that_a_gpu_shares_is_free_where_the_system_can_make_room(gpu, monkeypatch, integrated):
    gpu.integrated, gpu.total_bytes = integrated, 1000
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5000))
    device = opened()
    assert device.free_bytes() == (5000 if integrated else 1000)
    device.close()


def test_memory_that_is_full_is_an_error_of_its_own(gpu):
    device = opened()
    gpu.total_bytes = 1000
    with pytest.raises(FitError, match="drawing ran out of GPU memory"), failures("drawing"):
        device.allocate(1001)
    gpu.fail("cuMemAlloc", code="CUDA_ERROR_LAUNCH_FAILED")
    with pytest.raises(BundleError, match=r"drawing failed on the GPU .*LAUNCH_FAILED"), failures("drawing"):
        device.allocate(1)
    device.close()
