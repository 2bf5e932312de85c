"""Muon against linear algebra and against itself written again, one matrix at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elit_edge.model.muon import Muon, orthogonalise

SHAPES = [(8, 32), (32, 8), (24, 24), (1, 8)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall", "square", "row"])
LR, MOMENTUM, DECAY = 0.02, 0.95, 0.1


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known_decomposition(shape, count=3):
    """U [count, m, r], singular values from 0.02 to 1, V [count, n, r]."""
    rank = min(shape)
    left = torch.linalg.qr(random(count, shape[0], rank, seed=1)).Q
    right = torch.linalg.qr(random(count, shape[1], rank, seed=2)).Q
    return left, torch.logspace(math.log10(0.02), 0, rank) if rank > 1 else torch.ones(1), right


@shapes
def test_matrices_come_out_nearly_orthogonal(shape):
    left, values, right = known_decomposition(shape)
    found = torch.linalg.svdvals(orthogonalise(left * values @ right.mT))
    assert found.min() > 0.65
    assert found.max() < 1.2


@shapes
def test_orthogonalised_matrices_keep_their_singular_directions(shape):
    left, values, right = known_decomposition(shape)
    turned = left.mT @ orthogonalise(left * values @ right.mT) @ right
    gains = turned.diagonal(dim1=-2, dim2=-1)
    assert gains.min() > 0.65
    torch.testing.assert_close(turned, torch.diag_embed(gains), rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_size_of_a_matrix_does_not_matter(factor):
    matrices = random(2, 8, 32)
    torch.testing.assert_close(orthogonalise(factor * matrices), orthogonalise(matrices), rtol=0, atol=1e-5)


def test_a_zero_matrix_stays_zero():
    assert not orthogonalise(torch.zeros(2, 4, 6)).any()


def naive_steps(weight, gradients):
    """One matrix, float64. Source: K. Jordan, "Muon" (2024), Nesterov form; step size as in arXiv 2502.16982."""
    weight, average = weight.double(), torch.zeros_like(weight).double()
    for gradient in gradients:
        average = MOMENTUM * average + (1 - MOMENTUM) * gradient.double()
        x = MOMENTUM * average + (1 - MOMENTUM) * gradient.double()
        x = x / x.square().sum().sqrt()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight - LR * DECAY * weight - LR * 0.2 * math.sqrt(max(weight.shape)) * x
    return weight


def stepped(weights, gradients, decay=DECAY):
    """The weights after one optimizer has taken them all through `gradients`, a list a weight."""
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = Muon(parameters, LR, MOMENTUM, decay)
    for step in zip(*gradients, strict=True):
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def some_of_each_shape():
    """Weights of mixed shapes, those of one shape not in a row, and three gradients for each."""
    mixed = [SHAPES[number] for number in (0, 1, 0, 2, 1, 0, 3)]
    weights = [random(*shape, seed=number) for number, shape in enumerate(mixed)]
    gradients = [[random(*shape, seed=100 + 10 * n + k) for k in range(3)] for n, shape in enumerate(mixed)]
    return weights, gradients


def test_steps_are_those_of_the_published_algorithm():
    weights, gradients = some_of_each_shape()
    by_hand = [naive_steps(*one) for one in zip(weights, gradients, strict=True)]
    torch.testing.assert_close(stepped(weights, gradients), by_hand, rtol=0, atol=1e-5, check_dtype=False)


def test_matrices_taken_in_batches_step_as_they_would_alone():
    weights, gradients = some_of_each_shape()
    alone = [stepped([weight], [gradient])[0] for weight, gradient in zip(weights, gradients, strict=True)]
    torch.testing.assert_close(stepped(weights, gradients), alone, rtol=0, atol=1e-6)


@shapes
def test_a_step_is_as_large_as_one_of_adamw_whatever_the_shape_and_the_gradient(shape):
    """A root mean square of about 0.2 learning rates. Source: arXiv 2502.16982."""
    left, values, right = known_decomposition(shape, count=1)
    weight, gradient = torch.zeros(shape), 1e-3 * (left * values @ right.mT)[0]
    (moved,) = stepped([weight], [[gradient]], decay=0.0)
    assert 0.65 * 0.2 * LR < moved.square().mean().sqrt() < 1.2 * 0.2 * LR


def test_a_weight_without_a_gradient_neither_moves_nor_decays():
    still, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([still, moved], LR, MOMENTUM, DECAY)
    moved.grad = torch.eye(2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))


def test_a_zero_gradient_leaves_the_decay_alone():
    (weight,) = stepped([torch.ones(3, 5)], [[torch.zeros(3, 5)]])
    torch.testing.assert_close(weight, torch.full((3, 5), 1 - LR * DECAY), rtol=0, atol=1e-7)
