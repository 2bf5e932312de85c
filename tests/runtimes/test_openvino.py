"""What is special to OpenVINO: precisions that follow the CPU, its silence, its errors."""

import dataclasses
import shutil
import subprocess
import sys
from textwrap import dedent

import msgspec
import numpy as np
import pytest

from elit_edge import Bundle
from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.export.exporter import export
from elit_edge.runtimes.openvino_ import RUNTIMES

pytest.importorskip("openvino")
from elit_edge.runtimes.openvino_ import session as openvino_session

(RUNTIME,) = RUNTIMES
HAS_BF16 = "BF16" in openvino_session.cpu_capabilities()


@pytest.fixture(scope="module")
def files(tiny_bundle_path):
    return Bundle.open(tiny_bundle_path).files


@pytest.fixture
def cpu_with(monkeypatch):
    """Stand in for a CPU that is not here: what OpenVINO says of it, not what it computes."""
    return lambda *found: monkeypatch.setattr(openvino_session, "cpu_capabilities", lambda: list(found))


def test_a_cpu_without_bf16_computes_fp32_alone(files, cpu_with):
    cpu_with("FP32", "INT8", "BIN", "EXPORT_IMPORT")
    assert RUNTIME.precisions(files.manifest) == ("fp32",)
    with pytest.raises(BundleError, match=r"cannot compute bundle \S+ in bf16 on this CPU; choose one of: fp32"):
        RUNTIME.prepare(files, "bf16", 1)


def test_a_cpu_with_bf16_offers_it_after_fp32(files, cpu_with):
    cpu_with("FP32", "BF16", "INT8")
    assert RUNTIME.precisions(files.manifest) == ("fp32", "bf16")


@pytest.mark.skipif(HAS_BF16, reason="this CPU has bf16")
def test_bf16_that_the_library_would_quietly_replace_is_refused(files, cpu_with):
    """The list of capabilities is made up here; OpenVINO itself then takes float32 without a word."""
    cpu_with("FP32", "BF16")
    with pytest.raises(BundleError, match="asked for bf16 and computes in f32"):
        RUNTIME.prepare(files, "bf16", 1)


@pytest.fixture
def compiled_with(monkeypatch):
    """The settings of every model that is compiled meanwhile."""
    core, seen = openvino_session._core(), []

    class Listening:
        def __getattr__(self, name):
            return getattr(core, name)

        def compile_model(self, path, device, config):
            seen.append((device, config))
            return core.compile_model(path, device, config)

    monkeypatch.setattr(openvino_session, "_core", Listening)
    return seen


def test_fp32_is_said_and_not_left_to_a_default(files, compiled_with):
    RUNTIME.prepare(files, "fp32", None).close()
    assert [device for device, _ in compiled_with] == ["CPU", "CPU"]
    for _, config in compiled_with:
        assert config["INFERENCE_PRECISION_HINT"].to_string() == "f32"
        assert "INFERENCE_NUM_THREADS" not in config


def test_the_threads_wanted_are_those_of_the_compiled_model(files):
    with RUNTIME.prepare(files, "fp32", 1) as opened:
        compiled = opened._velocity._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_nothing_of_the_callers_is_held_after_a_call(files):
    model = files.manifest.model
    x = np.ones((1, model.in_channels, model.image_size, model.image_size), np.float32)
    modulations = np.ones((1, model.modulation_size), np.float32)
    before = (sys.getrefcount(x), sys.getrefcount(modulations))
    with RUNTIME.prepare(files, "fp32", 1) as opened:
        v = opened.velocity_from(x, modulations, 3)
        request = opened._velocity._request
        assert (sys.getrefcount(x), sys.getrefcount(modulations)) == before
        assert not np.shares_memory(request.get_tensor("x").data, x)
        assert not np.shares_memory(request.get_output_tensor().data, v)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        pytest.param("velocity.onnx", lambda path: path.write_bytes(b""), "Unable to read the model", id="no graph"),
        pytest.param("velocity.onnx", lambda path: path.unlink(), "Could not open the file", id="no file"),
        pytest.param("weights.safetensors", lambda path: path.unlink(), "weights.safetensors", id="no weights"),
    ],
)
def test_a_graph_that_openvino_refuses_is_named_with_its_reason(tiny_bundle_path, tmp_path, name, change, reason):
    copy = tmp_path / "tiny.elit"
    shutil.copytree(tiny_bundle_path, copy)
    files = BundleFiles.open(copy)
    change(copy / "onnx" / name)
    with pytest.raises(BundleError, match=rf"OpenVINO \S+ refuses .*onnx: .*{reason}") as caught:
        RUNTIME.prepare(files, "fp32", 1)
    assert "\n" not in str(caught.value)


def test_no_telemetry_is_sent_and_nothing_is_written_to_the_home_folder(tiny_bundle_path, tmp_path):
    """In a process of its own, as a library that was imported before would prove nothing."""
    home = tmp_path / "home"
    home.mkdir()
    code = """
        import sys
        seen = []
        sys.addaudithook(lambda event, values: seen.append(event) if event.startswith("socket.") else None)
        from elit_edge import Bundle
        from elit_edge.runtimes.openvino_ import RUNTIMES

        (RUNTIME,) = RUNTIMES
        files = Bundle.open(sys.argv[1]).files
        model = files.manifest.model
        with RUNTIME.prepare(files, "fp32", 1) as session:
            import numpy as np
            x = np.zeros((1, model.in_channels, model.image_size, model.image_size))
            session.velocity(x, [0.5], [0], 1)
        print(seen, [name for name in sys.modules if "telemetry" in name and "openvino.tools" not in name])
        from openvino import convert_model  # what else OpenVINO offers is there
    """
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", dedent(code), str(tiny_bundle_path)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[] []"
    assert list(home.rglob("*")) == []


def test_a_first_call_with_one_key_spoils_no_later_one(tiny_checkpoint, tmp_path):
    """Where Write reads the kept latents alone, the least budget gives its attention one key."""
    config = msgspec.structs.replace(tiny_checkpoint.config, write_latents="kept")
    export(dataclasses.replace(tiny_checkpoint, config=config), tmp_path / "kept.elit", check=False)
    bundle = Bundle.open(tmp_path / "kept.elit")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, config.in_channels, config.image_size, config.image_size))
    t, y = np.full(4, 0.5), np.zeros(4, np.int64)
    with bundle.prepare("openvino", threads=1) as ours, bundle.prepare("onnxruntime", threads=1) as theirs:
        for latents in (1, 2, 8, 16):
            right = theirs.velocity(x, t, y, latents)
            np.testing.assert_allclose(ours.velocity(x, t, y, latents), right, atol=1e-5)
