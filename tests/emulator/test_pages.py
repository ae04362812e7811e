"""A list by the page, in every order, while rows come and go between its pages."""

import itertools
import random

import pytest

from emulator.errors import ServiceError
from emulator.pages import page

COLUMNS = ("label", "price")
ORDERS = [
    list(zip(names, directions, strict=True))
    for count in range(3)
    for names in itertools.permutations(COLUMNS, count)
    for directions in itertools.product(("asc", "desc"), repeat=count)
]


def row(dice, row_id):
    return {"id": row_id, "label": dice.choice((None, "", "a", "b")), "price": dice.choice((None, 1, 2.5))}


def pages(rows, order, between):
    token = None
    while True:
        shown, token = page(list(rows.values()), order, 3, token)
        yield from shown
        if token is None:
            return
        between()


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_what_is_there_all_the_time_is_shown_once_whatever_else_comes_and_goes(order):
    dice = random.Random(7)
    for _ in range(30):
        rows = {n: row(dice, n) for n in range(20)}
        kept, ids = set(dice.sample(range(20), 10)), itertools.count(20)

        def come_and_go(rows=rows, kept=kept, ids=ids):
            gone = dice.choice([n for n in rows if n not in kept] or [next(ids)])
            rows.pop(gone, None)
            new = next(ids)
            rows[new] = row(dice, new)
            if len(rows) > 25:
                rows.pop(new)

        shown = [one["id"] for one in pages(rows, order, come_and_go)]
        assert len(shown) == len(set(shown))
        assert kept <= set(shown)


def test_pages_come_in_the_order_that_is_asked_for():
    rows = {n: {"id": n, "label": "ab"[n % 2], "price": n} for n in range(8)}
    shown = list(pages(rows, [("label", "desc"), ("price", "asc")], lambda: None))
    assert [one["id"] for one in shown] == [1, 3, 5, 7, 0, 2, 4, 6]


@pytest.mark.parametrize("token", ["nonsense", "e30=", "bnVsbA=="])
def test_a_token_of_nobodys_is_refused(token):
    with pytest.raises(ServiceError, match="Invalid pagination token"):
        page([{"id": 1}], [], 3, token)


def test_a_token_of_another_order_is_refused():
    rows = [{"id": n, "label": "a"} for n in range(5)]
    _, token = page(rows, [], 3, None)
    with pytest.raises(ServiceError, match="Invalid pagination token"):
        page(rows, [("label", "asc")], 3, token)
