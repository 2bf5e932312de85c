"""The faults are real without the mending, and gone with it."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from elit_edge.export.mil import coremltools_fixes

pytestmark = pytest.mark.skipif(
    not coremltools_fixes.needed(), reason="the installed coremltools and numpy do not have the faults"
)


class Halved(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0] // 2, -1)


def convert(ct):
    x = torch.zeros(4, 6)
    traced = torch.jit.trace(Halved().eval(), x, check_trace=False)
    return ct.convert(
        traced,
        inputs=[ct.TensorType("x", x.shape)],
        skip_model_load=True,
        minimum_deployment_target=ct.target.iOS18,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_traced_shape_converts(ct, monkeypatch):
    model = convert(ct)
    assert list(model.get_spec().description.output[0].type.multiArrayType.shape) == [2, 12]
    frontend = importlib.import_module(coremltools_fixes.CASTS)
    monkeypatch.setattr(frontend, "_cast", frontend._cast.__wrapped__)
    with pytest.raises(TypeError, match="0-dimensional arrays"):
        convert(ct)


@pytest.mark.parametrize(("op_type", "wanted"), [("reduce_l2_norm", [[5], [13]]), ("reduce_mean", [[3.5], [8.5]])])
def test_a_reduction_of_constants_has_a_value(ct, infer, monkeypatch, op_type, wanted):
    arguments = {
        "x": np.array([[3, 4], [5, 12]], np.float32),
        "axes": [1],
        "keep_dims": np.bool_(True),
    }  # as read from a file
    np.testing.assert_array_equal(infer(op_type, **arguments), wanted)
    reductions = importlib.import_module(coremltools_fixes.REDUCTIONS)
    original = reductions.ReductionAxes.value_inference.__wrapped__
    monkeypatch.setattr(reductions.ReductionAxes, "value_inference", original)
    with pytest.raises(TypeError, match="bool"):
        infer(op_type, **arguments)


def test_mending_twice_changes_nothing(ct):
    frontend = importlib.import_module(coremltools_fixes.CASTS)
    mended = frontend._cast
    coremltools_fixes.mend()
    assert frontend._cast is mended


@pytest.mark.parametrize(("versions", "wanted"), [(("9.0", "2.3.5"), False), (("9.1", "2.4.6"), False)])
def test_other_versions_are_left_alone(ct, monkeypatch, versions, wanted):
    monkeypatch.setattr(ct, "__version__", versions[0])
    monkeypatch.setattr(np, "__version__", versions[1])
    assert coremltools_fixes.needed() is wanted


def test_the_import_is_quiet():
    code = "from elit_edge.export.mil.library import coremltools; coremltools()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_the_level_of_its_log_is_as_it_was(ct):
    assert logging.getLogger("coremltools").level != logging.ERROR
