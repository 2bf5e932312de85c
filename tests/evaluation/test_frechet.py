"""The Frechet distance against closed forms, and the feature network's interface."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from elit_edge.errors import RequestError
from elit_edge.evaluation.features import FeatureNetwork
from elit_edge.evaluation.frechet import frechet_distance

SHAPE = (3, 4, 4)


def normal_set(mean, covariance, rows=400, seed=0):
    """Rows whose sample mean and covariance are just those given."""
    mean, covariance = np.atleast_1d(mean), np.atleast_2d(covariance)
    draws = np.random.default_rng(seed).standard_normal((rows, len(mean)))
    draws -= draws.mean(0)
    white = draws @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(draws, rowvar=False)))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def test_one_dimension_is_the_square_of_both_differences():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    assert frechet_distance(normal_set(3.0, 4.0), normal_set(-1.0, 25.0, seed=1)) == pytest.approx(16 + 9)


def test_independent_features_add_up():
    first = normal_set([0, 1, 2], np.diag([1.0, 4.0, 9.0]))
    second = normal_set([0, 0, 0], np.diag([4.0, 4.0, 1.0]), seed=1)
    assert frechet_distance(first, second) == pytest.approx((0 + 1 + 4) + (1 + 0 + 4))


def test_covariances_that_do_not_commute():
    """2 x 2: tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2)))."""
    one, two = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[5.0, -1.0], [-1.0, 1.0]])
    product = one @ two
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(one) + np.trace(two) - 2 * cross
    assert frechet_distance(normal_set([0, 0], one), normal_set([0, 0], two, seed=1)) == pytest.approx(wanted)


def test_it_is_symmetric_and_zero_for_the_same_set():
    first, second = normal_set([0, 1], np.eye(2)), normal_set([1, 1], np.diag([2.0, 3.0]), seed=1)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_a_feature_that_never_changes_breaks_nothing():
    first = np.column_stack([normal_set(0.0, 1.0), np.full(400, 2.0)])
    second = np.column_stack([normal_set(0.0, 1.0), np.full(400, 5.0)])
    assert frechet_distance(first, second) == pytest.approx(9)


def network_file(folder, nodes, takes, gives, takes_type=TensorProto.FLOAT, gives_type=TensorProto.FLOAT):
    """An ONNX file of one graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("x", takes_type, takes)],
        [helper.make_tensor_value_info("y", gives_type, gives)],
    )
    path = folder / "features.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def flatten():
    return [helper.make_node("Flatten", ["x"], ["y"])]


def test_a_network_computes_in_batches_what_it_says(tmp_path):
    network = FeatureNetwork(network_file(tmp_path, flatten(), ["b", *SHAPE], ["b", 48]), SHAPE)
    samples = np.random.default_rng(0).standard_normal((130, *SHAPE))
    assert network.size == 48
    np.testing.assert_array_equal(network(samples), samples.reshape(130, 48).astype(np.float32))


@pytest.mark.parametrize(
    ("takes", "gives", "types", "fault"),
    [
        (["b", 3, 8, 8], ["b", 192], {}, "[B, 3, 4, 4]"),
        ([1, 3, 4, 4], [1, 48], {}, "any batch B"),
        (["b", 48], ["b", 48], {}, "[B, 3, 4, 4]"),
        (["b", *SHAPE], ["b", 48], {"takes_type": TensorProto.FLOAT16, "gives_type": TensorProto.FLOAT16}, "float16"),
    ],
    ids=["another size", "a fixed batch", "another rank", "another type"],
)
def test_another_interface_is_refused_by_name(tmp_path, takes, gives, types, fault):
    path = network_file(tmp_path, flatten(), takes, gives, **types)
    with pytest.raises(RequestError) as refusal:
        FeatureNetwork(path, SHAPE)
    assert str(path) in str(refusal.value)
    assert fault in str(refusal.value)


def test_an_output_that_is_no_row_a_picture_is_refused(tmp_path):
    path = network_file(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], ["b", *SHAPE], ["b", *SHAPE])
    with pytest.raises(RequestError, match=r"one output"):
        FeatureNetwork(path, SHAPE)


def test_features_that_are_not_finite_are_refused(tmp_path):
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Log", ["flat"], ["y"])]
    with pytest.raises(RequestError, match="finite features"):
        FeatureNetwork(network_file(tmp_path, nodes, ["b", *SHAPE], ["b", 48]), SHAPE)


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path):
    path = network_file(tmp_path, flatten(), ["b", *SHAPE], ["b", 48])
    with pytest.raises(RequestError, match="no such file"):
        FeatureNetwork(tmp_path / "nothing.onnx", SHAPE)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RequestError, match="refuses it"):
        FeatureNetwork(path, SHAPE)
