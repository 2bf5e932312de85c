"""Both layouts compute what the torch model computes, for every kind of model, budget, batch and number of rows."""

from __future__ import annotations

import numpy as np
import pytest
from export.to_coreml.tools import micro_config, random_model, relative_rms, states, torch_velocity, write

from elit_edge.errors import BundleError
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.to_coreml.weights import arrays_of, model_of, shapes_of
from elit_edge.export.verify import trajectory_cases
from elit_edge.runtimes.reference.session import ModelSession

GATE = 1e-6
LAYOUTS = ("gpu", "ane")
CONFIGS = {
    "plain": {"architecture": "sit", "head_depth": 2, "core_depth": 0, "tail_depth": 0, "group_size": 1},
    "write kept, patch of one, one head": {
        "write_latents": "kept",
        "patch_size": 1,
        "image_size": 4,
        "num_heads": 1,
    },
    "groups of three, patch of four, no head, no tail": {
        "group_size": 3,
        "patch_size": 4,
        "image_size": 24,
        "head_depth": 0,
        "tail_depth": 0,
        "core_depth": 2,
        "num_heads": 4,
    },
    "one group, one channel": {"group_size": 4, "in_channels": 1},
}
"""What `micro` is not."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_model(name, tmp_path):
    model = random_model(micro_config(**CONFIGS[name]))
    budgets = tuple(sorted({1, max(1, model.config.latents_per_group - 1)}))
    x, t, y = states(model.config, 3)
    found = {}
    for layout in LAYOUTS:
        session = write(model, Recipe(layout, "fp32"), tmp_path / layout, budgets, (2,)).session()
        for latents in budgets:
            velocity = found[layout, latents] = session.velocity(x, t, y, latents)
            assert relative_rms(velocity, torch_velocity(model, x, t, y, latents)) < GATE, (layout, latents)
    for latents in budgets:
        assert relative_rms(found["ane", latents], found["gpu", latents]) < GATE
    if model.config.is_elastic:  # the numbers above say something: budgets are not alike
        assert relative_rms(found["ane", 1], found["ane", budgets[-1]]) > 1e-3


@pytest.mark.parametrize("latents", [3, 4])
def test_layouts_agree_with_torch_and_each_other_at_each_budget(packages, micro, latents):
    x, t, y = states(micro.config, 3)
    ane, gpu = (packages(layout).session().velocity(x, t, y, latents) for layout in ("ane", "gpu"))
    assert relative_rms(ane, torch_velocity(micro, x, t, y, latents)) < GATE
    assert relative_rms(gpu, torch_velocity(micro, x, t, y, latents)) < GATE
    assert relative_rms(ane, gpu) < GATE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_package_gives_what_the_authors_code_gives(tiny_checkpoint, expected, layout, tmp_path):
    """Their numbers hold to four digits and more on other machines; what is said of torch holds to seven."""
    written = write(tiny_checkpoint.model(), Recipe(layout, "fp32"), tmp_path, (5,), (2,))
    found = written.session().velocity(expected["x"], expected["t"], expected["y"], 5)
    assert relative_rms(found, expected["v_05"]) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 2, 5, 17])
def test_any_number_of_rows(packages, micro, layout, rows):
    """17 rows take two calls of the conditions, and the last one is filled up."""
    x, t, y = states(micro.config, rows)
    found = packages(layout).session().velocity(x, t, y, 3)
    wanted = torch_velocity(micro, x, t, y, 3)
    assert found.shape == wanted.shape
    assert [relative_rms(*pair) < GATE for pair in zip(found, wanted, strict=True)] == [True] * rows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_does_not_depend_on_its_neighbour(packages, micro, layout):
    """The function of two samples keeps them apart."""
    x, t, y = states(micro.config, 2)
    session = packages(layout).session()
    one = session.velocity(x, t, y, 4)
    other = session.velocity(np.stack([x[0], 100 * x[1]]), t, y, 4)
    assert relative_rms(other[0], one[0]) < GATE
    assert relative_rms(other[1], one[1]) > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conditions_are_the_models_modulations(packages, micro, layout):
    _, t, y = states(micro.config, 6)
    found = packages(layout).session().condition(t, y)
    wanted = ModelSession(micro, packages(layout).manifest).condition(t, y)
    assert found.shape == (6, micro.config.modulation_size)
    assert relative_rms(found, wanted) < GATE


@pytest.mark.parametrize(("layout", "ios"), [("gpu", 16), ("gpu", 17), ("ane", 16), ("ane", 26)])
def test_every_ios_computes_the_same(packages, micro, layout, ios):
    """In other operators, all with weights in float16, computed exactly."""
    own, other = packages(layout, "fp16", ios=ios), packages(layout, "fp16")
    x, t, y = states(micro.config, 2)
    assert relative_rms(own.session().velocity(x, t, y, 3), other.session().velocity(x, t, y, 3)) < GATE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_stays_near_in_both_ways_of_computing(packages, micro, layout):
    """The bounds of the gate, on states of trajectories; a float16 number holds 11 bits."""
    written = packages(layout, "fp16")
    cases = trajectory_cases(ModelSession(micro, written.manifest), 3)
    for mode, bound in (("exact", 1e-3), ("stored", 3e-3)):
        found = written.session(mode).velocity(cases.x, cases.t, cases.y, 3)
        assert 1e-5 < relative_rms(found, cases.velocity) < bound


def test_a_budget_that_was_not_written_is_named(packages, micro):
    x, t, y = states(micro.config, 1)
    with pytest.raises(BundleError, match="no function for 2 latents; they have: 3, 4"):
        packages("gpu").session().velocity(x, t, y, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 1},
        {"architecture": "sit", "head_depth": 2, "core_depth": 0, "tail_depth": 0, "group_size": 1},
    ],
)
def test_arrays_and_their_shapes_and_the_model_made_of_them(changes):
    """What is arranged for graphs can be told from the config, and gives the model back."""
    model = random_model(micro_config(**changes))
    arrays = arrays_of(model)
    assert shapes_of(model.config) == {name: array.shape for name, array in arrays.items()}
    x, t, y = states(model.config, 2)
    latents = max(1, model.config.latents_per_group - 1)
    again = torch_velocity(model_of(model.config, arrays), x, t, y, latents)
    assert relative_rms(again, torch_velocity(model, x, t, y, latents)) < 1e-6


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_the_root_of_any_head_size_is_near_enough_in_float16(layout, tmp_path):
    """Of 72, as the largest published model has it, float16 alone is off by 7e-5."""
    model = random_model(micro_config(hidden_size=72, num_heads=1))
    assert write(model, Recipe(layout, "fp16"), tmp_path, (3,)).held().graph < 1e-6
