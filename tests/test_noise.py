"""The noise stream, against a Philox written here from its paper, and against the normal distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elit_edge import noise
from elit_edge.errors import RequestError
from elit_edge.noise import NoiseStream

WORD = (1 << 64) - 1
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
LARGEST_SEED = (1 << 64) - 1
SHAPE = (3, 8, 8)


def philox(counter, key):
    """Philox-4x64-10. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3."""
    (a, b, c, d), (left, right) = counter, key
    for _ in range(10):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (second >> 64) ^ b ^ left, second & WORD, (first >> 64) ^ d ^ right, first & WORD
        left, right = (left + WEYL[0]) & WORD, (right + WEYL[1]) & WORD
    return a, b, c, d


def words(seed, picture, count):
    """The first words of a picture's stream: numpy counts blocks of four from 1."""
    blocks = (philox((block, 0, 0, 0), (seed, picture)) for block in range(1, count // 4 + 2))
    return [word for block in blocks for word in block][:count]


def box_muller(first, second):
    """Two normal numbers of two words."""
    radius = math.sqrt(-2 * math.log(((first >> 11) + 0.5) / 2**53))
    angle = 2 * math.pi * ((second >> 11) + 0.5) / 2**53
    return radius * math.cos(angle), radius * math.sin(angle)


def normals(stream, size):
    """The next `size` numbers as they are defined: radii of the first half of the words, angles of the second."""
    pairs = (size + 1) // 2
    found = [box_muller(stream[i], stream[pairs + i]) for i in range(pairs)]
    return [cosine for cosine, _ in found] + [sine for _, sine in found][: size - pairs]


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
        ),
        (
            (WORD, WORD, WORD, WORD),
            (WORD, WORD),
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
)
def test_the_philox_of_these_tests_gives_its_authors_known_answers(counter, key, block):
    """Source: kat_vectors of https://github.com/DEShawResearch/random123."""
    assert philox(counter, key) == block


@pytest.mark.parametrize("seed", [0, 1, 42, 1 << 53, (1 << 53) + 1, LARGEST_SEED])
@pytest.mark.parametrize("size", [1, 7, 12])
def test_numbers_are_philox_and_box_muller_and_nothing_else(seed, size):
    drawn = NoiseStream(seed, 3).draw((size,))
    wanted = [normals(words(seed, picture, size + 1), size) for picture in range(3)]
    np.testing.assert_allclose(drawn, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("word", [0, WORD])
def test_the_smallest_and_the_largest_word_give_finite_numbers(word):
    """No seed is known that draws them: a generator that gives nothing else stands in."""

    class Constant:
        def random_raw(self, count):
            return np.full(count, word, np.uint64)

    np.testing.assert_allclose(noise._normal(Constant(), 2), box_muller(word, word), rtol=1e-6, atol=1e-12)


def test_a_later_draw_goes_on_where_the_last_one_ended():
    stream = NoiseStream(7, 2)
    first, second = stream.draw((6,)), stream.draw((2, 2))
    for picture in range(2):
        given = words(7, picture, 10)
        np.testing.assert_allclose(first[picture], normals(given[:6], 6), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(second[picture].ravel(), normals(given[6:], 4), rtol=1e-12, atol=1e-14)


def test_a_draw_has_one_float64_array_a_picture():
    drawn = NoiseStream(3, 5).draw(SHAPE)
    assert drawn.shape == (5, *SHAPE)
    assert drawn.dtype == np.float64


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, LARGEST_SEED), alone=st.integers(1, 6), batch=st.integers(1, 6))
def test_a_picture_draws_the_same_alone_and_in_any_batch(seed, alone, batch):
    one, other = NoiseStream(seed, alone), NoiseStream(seed, batch)
    for _ in range(2):
        shared = min(alone, batch)
        np.testing.assert_array_equal(one.draw(SHAPE)[:shared], other.draw(SHAPE)[:shared])


def test_numbers_are_standard_normal():
    """Bounds of five standard errors each; the seed is fixed, so this passes always or never."""
    count = 200_000
    z = NoiseStream(2026, 1).draw((count,))[0]
    assert abs(z.mean()) < 5 / math.sqrt(count)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / count)
    for bound in (0.5, 1.0, 2.0, 3.0):
        share = math.erf(bound / math.sqrt(2))
        assert abs((np.abs(z) < bound).mean() - share) < 5 * math.sqrt(share * (1 - share) / count)


def test_numbers_do_not_follow_from_their_neighbours_or_from_other_pictures_seeds_or_draws():
    count = 50_000
    stream, neighbour = NoiseStream(11, 2), NoiseStream(12, 2)
    (first, second), (other, _) = stream.draw((count,)), neighbour.draw((count,))
    later = stream.draw((count,))[0]
    half = count // 2
    pairs = {
        "picture": (first, second),
        "seed": (first, other),
        "draw": (first, later),
        "neighbour": (first[:-1], first[1:]),
        "the other half of its pair": (first[:half], first[half:]),
        "the size of the other half": (first[:half] ** 2, first[half:] ** 2),
    }
    for name, (one, two) in pairs.items():
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(len(one)), name


def test_the_second_picture_of_a_seed_is_not_the_first_of_the_next():
    assert not np.array_equal(NoiseStream(0, 2).draw(SHAPE)[1], NoiseStream(1, 1).draw(SHAPE)[0])


@pytest.mark.parametrize("seed", [-1, 1 << 64, -(1 << 64), 1.5, math.nan])
def test_a_seed_outside_its_range_is_refused(seed):
    with pytest.raises(RequestError, match=r"must be .*in 0 \.\. 2\^64 - 1"):
        NoiseStream(seed, 1)


def test_a_seed_may_be_a_numpy_integer():
    drawn = NoiseStream(np.uint64(LARGEST_SEED), 1).draw(SHAPE)
    np.testing.assert_array_equal(drawn, NoiseStream(LARGEST_SEED, 1).draw(SHAPE))
