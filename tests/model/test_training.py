"""Training with tail dropping, on a toy data set: two classes, each a plain colour."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elit_edge.errors import CheckpointError
from elit_edge.model.training import (
    Recipe,
    Trainer,
    gap,
    has_fast_bfloat16,
    initialise,
    stratified_times,
    velocity_loss,
)
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

TOY = ModelConfig(
    architecture="elit-sit",
    image_size=4,
    in_channels=1,
    patch_size=1,
    hidden_size=16,
    num_heads=2,
    mlp_ratio=2.0,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=2,
)
BATCH = 8


def colours(step):
    """Each batch is another, and follows from the step: half of it bright, half of it dark."""
    labels = torch.arange(BATCH) % 2
    shade = torch.rand(BATCH, generator=torch.Generator().manual_seed(step)) / 5
    return (1 - 2 * labels - shade)[:, None, None, None].expand(-1, 1, 4, 4).contiguous(), labels


def trainer(config=TOY, init_seed=0, **recipe):
    model = DiffusionTransformer(config)
    initialise(model, init_seed)
    return Trainer(model, Recipe(**{"steps": 100, "batch": BATCH, "warmup": 5} | recipe), colours)


def advanced(run, steps):
    """The latents kept and the loss of each step."""
    return [run.advance() for _ in range(steps)]


def copied(weights):
    return {name: value.clone() for name, value in weights.items()}


def assert_identical(actual, wanted):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def losses_by_budget(model):
    """On pictures and noise that no step has seen."""
    generator = torch.Generator().manual_seed(77)
    x0, y = colours(10_000)
    t, noise = stratified_times(BATCH, generator), torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        return [velocity_loss(model, x0, y, t, noise, latents).mean().item() for latents in range(1, 5)]


def test_the_loss_falls_at_every_budget_for_the_weights_and_for_their_average():
    run = trainer()
    before = losses_by_budget(run.model)
    advanced(run, 100)
    after = losses_by_budget(run.model)
    run.model.load_state_dict(run.average)
    averaged = losses_by_budget(run.model)
    for fallen in (after, averaged):
        assert all(late < early / 2 for early, late in zip(before, fallen, strict=True)), (before, fallen)


def test_a_run_killed_and_resumed_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    whole = trainer()
    history = advanced(whole, 8)

    killed = trainer()
    advanced(killed, 3)
    killed.save(tmp_path / "state.pt")
    advanced(killed, 1)  # lost with the kill

    resumed = trainer(init_seed=1)
    resumed.resume(tmp_path / "state.pt")
    assert resumed.step == 3
    assert advanced(resumed, 5) == history[3:]
    assert_identical(resumed.model.state_dict(), whole.model.state_dict())
    assert_identical(resumed.average, whole.average)


def test_a_save_that_fails_leaves_the_one_before_it(tmp_path):
    path = tmp_path / "state.pt"
    run = trainer()
    run.save(path)
    before = copied(run.model.state_dict())
    advanced(run, 2)
    run.average["unwritable"] = (part for part in ())
    with pytest.raises(TypeError, match="pickle"):
        run.save(path)
    resumed = trainer(init_seed=1)
    resumed.resume(path)
    assert_identical(resumed.model.state_dict(), before)


def write_nothing(path): ...


def write_noise(path):
    path.write_bytes(b"noise" * 100)


def write_half(path):
    trainer().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_a_list(path):
    torch.save([1, 2], path)


def write_another_dict(path):
    torch.save({"weights": 1}, path)


def write_another_model(path):
    trainer(msgspec.structs.replace(TOY, hidden_size=32)).save(path)


@pytest.mark.parametrize(
    "write",
    [
        write_another_dict,
        write_another_model,
        write_nothing,
        write_noise,
        write_half,
        write_a_list,
    ],
)
def test_a_file_that_is_no_run_of_this_model_is_refused(tmp_path, write):
    path = tmp_path / "state.pt"
    write(path)
    with pytest.raises(
        CheckpointError, match=r"(?s)state\.pt is no run of this model .*start afresh in another folder"
    ):
        trainer().resume(path)


def test_every_budget_is_drawn_about_as_often():
    drawn = Counter(latents for latents, _ in advanced(trainer(steps=120), 120))
    assert set(drawn) == {1, 2, 3, 4}
    assert min(drawn.values()) > 15


def test_a_plain_sit_trains_at_its_one_budget():
    plain = {"architecture": "sit", "head_depth": 2, "core_depth": 0, "tail_depth": 0, "group_size": 1}
    history = advanced(trainer(msgspec.structs.replace(TOY, **plain)), 40)
    assert {latents for latents, _ in history} == {1}
    assert sum(loss for _, loss in history[-5:]) < sum(loss for _, loss in history[:5])


@pytest.mark.parametrize(("label_drop", "trained"), [(0.0, [True, True, False]), (1.0, [False, False, True])])
def test_a_dropped_label_trains_the_null_class_in_its_place(label_drop, trained):
    run = trainer(label_drop=label_drop)
    before = run.model.label.weight.detach().clone()
    advanced(run, 4)
    assert (run.model.label.weight != before).any(dim=1).tolist() == trained


def test_every_weight_is_trained_by_one_optimizer_and_the_fixed_positions_by_none():
    run = trainer()
    before = copied(run.model.state_dict())
    trained = [
        parameter for optimizer in run.optimizers for group in optimizer.param_groups for parameter in group["params"]
    ]
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    assert sorted(names[id(parameter)] for parameter in trained) == sorted(set(names.values()) - {"position"})
    advanced(run, 3)
    unchanged = [name for name, value in run.model.state_dict().items() if torch.equal(value, before[name])]
    assert unchanged == ["position"]


def test_the_optimizers_follow_the_learning_rate_schedule():
    run = trainer(learning_rate=0.01, warmup=4)
    for expected in (0.0025, 0.005, 0.0075, 0.01, 0.01):
        run.advance()
        rates = [group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([expected] * len(rates))


@pytest.mark.parametrize(
    ("step", "part"),
    [(0, 0.01), (49, 0.5), (99, 1), (100, 1), (599, 1), (600, 1), (700, 0.75), (800, 0.5), (999, 1 / 400), (1000, 0)],
)
def test_the_learning_rate_rises_stays_and_falls_in_straight_lines(step, part):
    recipe = Recipe(steps=1000, batch=1, learning_rate=0.002, warmup=100, decay=0.4)
    assert recipe.learning_rate_at(step) == pytest.approx(0.002 * part)


@given(st.integers(1, 500), st.integers(1, 300), st.floats(0, 1))
def test_the_learning_rate_is_above_zero_in_every_step_of_a_run_and_never_above_its_plateau(steps, warmup, decay):
    recipe = Recipe(steps=steps, batch=1, learning_rate=1.0, warmup=warmup, decay=decay)
    assert all(0 < recipe.learning_rate_at(step) <= 1 for step in range(steps))
    assert recipe.learning_rate_at(steps) == 0


def test_a_run_without_decay_ends_on_the_plateau():
    assert Recipe(steps=50, batch=1, learning_rate=1.0, warmup=5, decay=0.0).learning_rate_at(49) == 1


def test_a_run_without_warmup_starts_on_the_plateau():
    assert Recipe(steps=50, batch=1, learning_rate=1.0, warmup=0).learning_rate_at(0) == 1


def test_the_averaging_window_grows_up_to_its_limit():
    recipe = Recipe(steps=1, batch=1, ema=0.999)
    weights = [recipe.ema_at(step) for step in range(30_000)]
    assert weights[0] < 0.1
    assert weights == sorted(weights)
    assert weights[-1] == 0.999


def test_the_average_is_the_running_mean_of_the_weights_after_each_step():
    run = trainer(ema=0.9)
    by_hand = copied(run.model.state_dict())
    for step in range(5):
        run.advance()
        keep = run.recipe.ema_at(step)
        by_hand = {name: keep * by_hand[name] + (1 - keep) * value for name, value in run.model.state_dict().items()}
    torch.testing.assert_close(run.average, by_hand, rtol=0, atol=1e-6)


def test_without_averaging_the_average_is_the_model():
    run = trainer(ema=0.0)
    advanced(run, 2)
    assert_identical(run.average, dict(run.model.state_dict()))


def stratum_position(t):
    """Where t stands among all times, in [0, 1]: sigmoid(normal)'s cumulative distribution, in float64."""
    return [0.5 * (1 + math.erf(math.log(value / (1 - value)) / math.sqrt(2))) for value in t.double().tolist()]


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**31))
def test_each_stratum_of_times_is_drawn_once(count, seed):
    times = stratified_times(count, torch.Generator().manual_seed(seed))
    assert times.shape == (count,)
    for number, position in enumerate(sorted(stratum_position(times))):
        assert number / count - 1e-5 <= position <= (number + 1) / count + 1e-5


def test_times_fill_their_stratum_evenly():
    generator = torch.Generator().manual_seed(0)
    first_halves = [min(stratum_position(stratified_times(2, generator))) for _ in range(400)]
    quarters = Counter(int(position * 8) for position in first_halves)
    assert set(quarters) == {0, 1, 2, 3}
    assert min(quarters.values()) > 70


def test_times_come_in_random_order():
    generator = torch.Generator().manual_seed(0)
    earliest = Counter(int(stratified_times(4, generator).argmin()) for _ in range(200))
    assert set(earliest) == {0, 1, 2, 3}


class Knowing(nn.Module):
    """The velocity of the straight path that ends in `x0`, of a point x on it."""

    def __init__(self, x0, error=0.0):
        super().__init__()
        self.x0, self.error = x0, error

    def forward(self, x, t, _y, _latents):
        return (x - self.x0) / t[:, None, None, None] + self.error


@pytest.mark.parametrize("error", [0.0, 0.5])
def test_the_loss_of_a_sample_is_the_mean_square_of_its_velocity_error(error):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator)
    t = torch.tensor([0.2, 0.5, 1.0])
    losses = velocity_loss(Knowing(x0, error), x0, torch.zeros(3, dtype=torch.long), t, noise, 1)
    torch.testing.assert_close(losses, torch.full((3,), error**2), rtol=0, atol=1e-5)


def test_a_fresh_model_predicts_no_motion_and_its_seed_makes_it():
    one, same, other = (trainer(init_seed=seed).model for seed in (0, 0, 1))
    x, y = colours(0)
    assert not one(x, torch.full((BATCH,), 0.5), y, 2).any()
    assert_identical(one.state_dict(), same.state_dict())
    assert not torch.equal(one.patch.weight, other.patch.weight)


def test_a_fresh_model_has_an_open_latent_path():
    """With its final layer opened too, what the core makes of the latents is seen."""
    model = trainer().model
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(model.final.weight, generator=generator)
    x = torch.randn(2, 1, 4, 4, generator=generator)
    conditions = model.condition(torch.full((2,), 0.5), torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        full = model.velocity(x, conditions, 4)
        assert (model.velocity(x, conditions, 1) - full).abs().max() > 0.01
        model.read.queries.add_(torch.randn(4, 16, generator=generator))
        assert (model.velocity(x, conditions, 4) - full).abs().max() > 0.01


def test_a_gap_is_the_mean_difference_and_its_interval():
    mean, half_width = gap(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert mean == pytest.approx(2.0)
    assert half_width == pytest.approx(1.96 * 1.0 / math.sqrt(3))


def test_bfloat16_is_trusted_on_gpus():
    assert has_fast_bfloat16(torch.device("cuda"))
