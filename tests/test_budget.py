"""Budgets against the published figures, against exact arithmetic and against torch's own count of operations."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from elit_edge.budget import (
    check_latents,
    flops,
    guidance_saving,
    guided_flops,
    latents_from_fraction,
    parameters,
    velocity_work,
)
from elit_edge.errors import BudgetError
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

XL_256PX = ModelConfig(
    architecture="elit-sit",
    image_size=32,
    in_channels=4,
    patch_size=2,
    hidden_size=1152,
    num_heads=16,
    mlp_ratio=4.0,
    head_depth=8,
    core_depth=16,
    tail_depth=4,
    group_size=4,
    num_classes=1000,
)
SMALL = msgspec.structs.replace(
    XL_256PX,
    image_size=8,
    in_channels=3,
    hidden_size=16,
    num_heads=2,
    mlp_ratio=2.0,
    head_depth=1,
    core_depth=2,
    tail_depth=1,
    group_size=2,
    num_classes=3,
)


def with_groups_of(side):
    return msgspec.structs.replace(XL_256PX, image_size=4 * side, group_size=side)


def plain(depth, width, heads):
    """A plain SiT at 256 px."""
    return msgspec.structs.replace(
        XL_256PX,
        architecture="sit",
        hidden_size=width,
        num_heads=heads,
        head_depth=depth,
        core_depth=0,
        tail_depth=0,
        group_size=1,
    )


@pytest.mark.parametrize("latents", [1, 2, 15, 16])
def test_every_number_of_latents_up_to_the_full_group_is_a_budget(latents):
    assert check_latents(latents, XL_256PX) == latents


@pytest.mark.parametrize("latents", [-1, 0, 17])
def test_a_budget_outside_the_group_is_refused_and_the_range_is_named(latents):
    with pytest.raises(BudgetError, match=rf"latents = {latents}: this model keeps 1 to 16 latents a group"):
        check_latents(latents, XL_256PX)


def test_a_model_without_a_latent_path_has_one_budget():
    model = plain(28, 1152, 16)
    assert check_latents(1, model) == 1
    with pytest.raises(BudgetError, match="1 to 1"):
        flops(model, 2)


@pytest.mark.parametrize("side", range(2, 9))
def test_a_budget_written_as_a_fraction_and_read_back_is_the_same_budget(side):
    config = with_groups_of(side)
    everything = range(1, side**2 + 1)
    assert [latents_from_fraction(latents / side**2, config) for latents in everything] == list(everything)


@given(side=st.integers(2, 8), permille=st.integers(1, 1000))
def test_a_fraction_keeps_the_whole_latents_that_it_covers(side, permille):
    covered = side**2 * permille // 1000
    if covered:
        assert latents_from_fraction(permille / 1000, with_groups_of(side)) == covered
    else:
        with pytest.raises(BudgetError):
            latents_from_fraction(permille / 1000, with_groups_of(side))


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.0001, 0.0624, float("nan"), float("inf")])
def test_a_fraction_that_keeps_no_latent_or_more_than_all_is_refused_and_the_least_is_named(fraction):
    with pytest.raises(BudgetError, match=r"must be in \(0, 1\] and keep at least one; the least is 0\.0625"):
        latents_from_fraction(fraction, XL_256PX)


def published_gigaflops(*budgets):
    """One pass for each budget given, as the authors count: Read's query is projected for every group."""
    queries = 2 * XL_256PX.tokens * XL_256PX.hidden_size**2
    return sum(flops(XL_256PX, latents).total + queries for latents in budgets) / 1e9


@pytest.mark.parametrize(("latents", "figure"), [(2, 253.1), (4, 286.1), (8, 353.2), (12, 421.4), (16, 490.9)])
def test_the_work_of_a_batch_of_two_is_the_published_figure(latents, figure):
    assert published_gigaflops(latents, latents) == pytest.approx(figure, rel=5e-4)


@pytest.mark.parametrize(("unconditional", "figure"), [(1, 363.8), (2, 372.0), (16, 490.9)])
def test_the_work_of_a_guided_step_is_the_published_figure(unconditional, figure):
    assert published_gigaflops(16, unconditional) == pytest.approx(figure, rel=5e-4)


@pytest.mark.parametrize(("weak", "costs", "percent"), [(1, 363.8, 25.9), (2, 372.0, 24.2), (16, 490.9, 0)])
def test_cheap_guidance_saves_the_published_share(weak, costs, percent):
    """Which counts Read's queries in each pass: a tenth of a point less than the graphs save."""
    assert guided_flops(XL_256PX, 16, weak) / 1e9 == pytest.approx(costs, rel=5e-3)
    assert 100 * guidance_saving(XL_256PX, 16, weak) == pytest.approx(percent, abs=0.11)


def test_the_papers_own_split_saves_a_third():
    """Blocks 4-20-4 at 512 px, 4 of 64 latents: 33%."""
    config = msgspec.structs.replace(XL_256PX, image_size=64, group_size=8, head_depth=4, core_depth=20)
    assert 100 * guidance_saving(config, 64, 4) == pytest.approx(33, abs=0.5)
    published = msgspec.structs.replace(config, head_depth=8, core_depth=16)
    assert 100 * guidance_saving(published, 64, 4) == pytest.approx(26, abs=0.5)


@pytest.mark.parametrize("latents", [1, 3, 4])
@pytest.mark.parametrize("config", [SMALL, msgspec.structs.replace(SMALL, write_latents="kept")])
def test_the_work_is_what_torch_counts_in_the_model_itself(config, latents):
    assert_counted_by_torch(config, latents, read_queries=2 * config.latents_per_group * config.hidden_size**2)


def test_the_work_of_a_plain_sit_is_what_torch_counts_in_the_model_itself():
    config = msgspec.structs.replace(SMALL, architecture="sit", head_depth=3, core_depth=0, tail_depth=0, group_size=1)
    assert_counted_by_torch(config, 1, read_queries=0)


def assert_counted_by_torch(config, latents, *, read_queries):
    """`read_queries`: a product of weights alone, which torch computes once a pass and a compiled graph not at all."""
    batch = 3
    model = DiffusionTransformer(config).requires_grad_(False)
    samples = torch.zeros(batch, config.in_channels, config.image_size, config.image_size)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of a CPU are not counted
        with FlopCounterMode(display=False) as conditioning:
            modulations = model.condition(torch.zeros(batch), torch.zeros(batch, dtype=torch.long))
        with FlopCounterMode(display=False) as step:
            model.velocity(samples, modulations, latents)
    work = flops(config, latents)
    assert conditioning.get_total_flops() == batch * work.condition
    assert step.get_total_flops() == batch * work.velocity + read_queries


def test_the_bytes_of_a_step_by_hand():
    """One block of width 4 over one token that is one pixel of three channels; MLP of 8; no Read, no Write."""
    config = msgspec.structs.replace(
        XL_256PX,
        architecture="sit",
        image_size=1,
        in_channels=3,
        patch_size=1,
        hidden_size=4,
        num_heads=1,
        mlp_ratio=2.0,
        head_depth=1,
        core_depth=0,
        tail_depth=0,
        group_size=1,
    )
    patch, qkv, projection = 3 * 4 + 4, 4 * 12 + 12, 4 * 4 + 4
    mlp, final, position = 4 * 8 + 8 + 8 * 4 + 4, 4 * 3 + 3, 4
    work = velocity_work(config, 1)
    assert work.weight_bytes == 4 * (patch + qkv + projection + mlp + final + position)
    attention = 3 * 4 + 4
    assert work.activation_bytes == 4 * ((3 + 4) + (4 + 12) + attention + (4 + 4) + (4 + 8) + (8 + 4) + (4 + 3))


def test_a_smaller_budget_moves_less_beside_the_same_weights():
    work = [velocity_work(XL_256PX, latents) for latents in range(1, 17)]
    moved = [each.activation_bytes for each in work]
    assert moved == sorted(set(moved))
    assert len({each.weight_bytes for each in work}) == 1


def test_a_smaller_budget_is_less_work_in_the_steps_and_no_less_in_the_conditions():
    work = [flops(XL_256PX, latents) for latents in range(1, 17)]
    steps = [one.velocity for one in work]
    assert steps == sorted(set(steps))
    assert len({one.condition for one in work}) == 1


@pytest.mark.parametrize(
    ("model", "millions"),
    [(plain(12, 384, 6), 33), (plain(12, 768, 12), 130), (plain(24, 1024, 16), 458), (plain(28, 1152, 16), 675)],
    ids=["S", "B", "L", "XL"],
)
def test_a_plain_sit_has_the_published_number_of_weights(model, millions):
    """Source: arXiv 2401.08740, table of model sizes."""
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.6)


def test_the_largest_published_model_fills_the_published_file_size():
    """2.8 GB in float32."""
    assert 4 * parameters(XL_256PX) / 1e9 == pytest.approx(2.8, abs=0.05)
