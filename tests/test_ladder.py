from __future__ import annotations

import pytest

from elit_edge.errors import BudgetError
from elit_edge.ladder import static_budgets


@pytest.mark.parametrize(
    ("ladder", "asked", "dear", "chosen"),
    [
        (range(1, 5), (), False, (1, 2, 3, 4)),
        (range(1, 5), (), True, (1, 2, 4)),
        (range(1, 5), (3,), True, (3,)),
        (range(1, 5), (4, 1, 4), False, (1, 4)),
        (range(1, 17), (), False, tuple(range(1, 17))),
        (range(1, 65), (), False, (1, 2, 4, 8, 16, 32, 64)),
        (range(1, 26), (), False, (1, 2, 4, 8, 16, 25)),
        ((4, 8, 64), (), True, (4, 8, 64)),
        (range(2, 65, 2), (), False, (2, 4, 8, 16, 32, 64)),
        (range(3, 65), (), False, (3, 6, 12, 24, 48, 64)),
        ((1,), (), True, (1,)),
    ],
)
def test_the_ladder_or_what_was_asked_for(ladder, asked, dear, chosen):
    assert static_budgets(ladder, asked, dear=dear) == chosen


@pytest.mark.parametrize("wanted", [0, 2, 5])
def test_budgets_that_are_not_there_are_refused(wanted):
    with pytest.raises(BudgetError, match=f"budget {wanted} is not in this model's ladder: 1, 4"):
        static_budgets((1, 4), (1, wanted))


def test_a_long_ladder_is_named_by_its_ends():
    with pytest.raises(BudgetError, match="ladder: 1 to 64"):
        static_budgets(range(1, 65), (65,))
