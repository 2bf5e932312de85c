"""Quantities with units, as a person writes them on the command line."""

import click
import pytest

from elit_edge.cli.quantities import Duration, Size


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("2s", 2),
        ("800ms", 0.8),
        ("1min", 60),
        ("0.5 s", 0.5),
        (" 2S ", 2),
        (".25s", 0.25),
        ("1e", None),
        ("1500MS", 1.5),
    ],
)
def test_a_duration(words, seconds):
    if seconds is None:
        with pytest.raises(click.BadParameter, match="a number with a unit is wanted"):
            Duration().convert(words, None, None)
    else:
        assert Duration().convert(words, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize(("words", "size"), [("500MB", 5e8), ("2GiB", 2**31), ("1.5GB", 1.5e9), ("64kb", 64e3)])
def test_a_size(words, size):
    assert Size().convert(words, None, None) == pytest.approx(size)


@pytest.mark.parametrize(
    "words", ["2", "s", "", "2 parsecs", "-2s", "nans", "infs", "2s3", "1,5s", "0x2s", "٢s", "1e400s"]
)
def test_nonsense_is_refused_with_the_units_there_are(words):
    with pytest.raises(click.BadParameter, match=r"a number with a unit is wanted \(ms, s, min\)"):
        Duration().convert(words, None, None)


@pytest.mark.parametrize("words", ["0s", "0.0ms", "9" * 400 + "s"])
def test_nothing_and_too_much_are_no_bounds(words):
    with pytest.raises(click.BadParameter, match="must be more than nothing"):
        Duration().convert(words, None, None)
