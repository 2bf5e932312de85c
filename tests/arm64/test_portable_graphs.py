"""A bundle's graphs run anywhere: they hold the standard's operators alone, none of ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

STANDARD = {"", "ai.onnx"}
"""All other domains belong to one runtime: com.microsoft, com.microsoft.nchwc, com.ms.internal.nhwc and so on."""


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of inner graphs among them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for branch in (*inner, *attribute.graphs):
                yield from nodes(branch)


def foreign_domains(path: Path) -> set[str]:
    """The domains of a graph's nodes, functions and imports that the standard does not have."""
    model = onnx.load(path, load_external_data=False)
    used = {node.domain for node in nodes(model.graph)}
    used |= {node.domain for function in model.functions for node in function.node}
    imported = {entry.domain for entry in model.opset_import} | {function.domain for function in model.functions}
    return (used | imported) - STANDARD


def optimised_here(source: Path, target: Path) -> Path:
    """The graph as ONNX Runtime saves it for the processor of this machine."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return target


def test_every_graph_of_a_bundle_holds_standard_operators_alone(tiny_bundle_path):
    graphs = sorted(tiny_bundle_path.rglob("*.onnx"))
    assert len(graphs) >= 19  # condition, velocity, model, and a velocity of each of 16 budgets
    assert {path.name: found for path in graphs if (found := foreign_domains(path))} == {}


def test_a_graph_that_the_runtime_optimised_would_be_found(tiny_bundle_path, tmp_path):
    (tmp_path / "weights.safetensors").symlink_to(tiny_bundle_path / "onnx" / "weights.safetensors")
    saved = optimised_here(tiny_bundle_path / "onnx" / "velocity.onnx", tmp_path / "velocity.onnx")
    domains = {node.domain for node in nodes(onnx.load(saved, load_external_data=False).graph)}
    assert "com.microsoft" in domains
    assert "com.microsoft" in foreign_domains(saved)


@pytest.mark.parametrize("domain", ["com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"])
def test_a_foreign_operator_in_an_inner_graph_would_be_found(tmp_path, domain):
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    branch = helper.make_graph([helper.make_node("Own", ["x"], ["y"], domain=domain)], "branch", [], out)
    choice = helper.make_node("If", ["which"], ["y"], then_branch=branch, else_branch=branch)
    ends = [helper.make_tensor_value_info("which", TensorProto.BOOL, [])]
    ends.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]))
    model = helper.make_model(
        helper.make_graph([choice], "outer", ends, out), opset_imports=[helper.make_opsetid("", 21)]
    )
    onnx.save(model, tmp_path / "inner.onnx")
    assert foreign_domains(tmp_path / "inner.onnx") == {domain}
