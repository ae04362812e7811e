from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from components.vast.bill import USES, Month
from components.vast.ledger import Entry
from components.vast.models import Charge
from ops import cost_plot
from ops.cost import Accounts, summarize
from ops.cost_plot import COLOURS

T = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
NOVEMBER = Month.of(datetime(2026, 11, 1, tzinfo=UTC))
NAME = "vast-reranker/prod/reranker"
SERVED = Entry(1, T - 7200, NAME, dph_usd=1.0, pull_usd=0.5, serving_at=T - 3600)
FAILED = Entry(2, T - 90000, NAME, dph_usd=1.0, until=T - 86400, reason="boot failed")
OCTOBERS = Entry(3, T - 90 * 86400, NAME, dph_usd=1.0, until=T - 60 * 86400, reason="destroyed")


def charge(entry, usd):
    return Charge(entry.instance_id, usd, entry.since, entry.until or T)


def shown(accounts, budget=None):
    found = summarize(accounts, NOVEMBER, T, budget, Path("l.jsonl"))
    return found.headline, "\n".join(found.parts), found.facts


def test_a_month_is_shown_by_day_and_use_with_what_it_will_cost():
    headline, text, facts = shown(Accounts([SERVED, FAILED, OCTOBERS], prices={1: 2.0}))
    assert headline == "$3.50 in 2026-11"
    assert "| 2026-11-25 | - | - | $1.0000 | - | - | $1.0000 |" in text
    assert "| 2026-11-26 | $1.0000 | $1.5000 | - | - | - | $2.5000 |" in text
    assert "| 2026-11 | $1.0000 | $1.5000 | $1.0000 | - | - | $3.5000 |" in text
    assert facts["forecast_usd"] == pytest.approx(3.5 + 2.0 * 4.5 * 24)
    assert "Now $2.0000/h; forecast for 2026-11: $219.50." in text
    assert [one["instance_id"] for one in facts["contracts"]] == [1, 2]


def test_a_forecast_over_the_budget_is_a_warning():
    assert "budget" not in shown(Accounts([SERVED]))[1]
    assert not shown(Accounts([SERVED]), 200.0)[2]["over_budget"]
    _, text, facts = shown(Accounts([SERVED]), 100.0)
    assert "over budget\\_usd\\_month of $100" in text or "over budget_usd_month of $100" in text
    assert facts["over_budget"]


def test_the_difference_to_what_was_charged_is_shown_and_the_contracts_that_make_it():
    _, text, facts = shown(Accounts([SERVED, FAILED], {1: charge(SERVED, 2.75), 2: charge(FAILED, 1.004)}, added=2))
    assert "charged $3.7540 for 2 contracts of this month, from rent to end: +0.2540 to the ledger." in text
    assert "instance 1: +0.2500 to $2.5000" in text
    assert "instance 2:" not in text
    assert "2 missing events added" in text
    assert facts["charged_usd"] == {1: 2.75, 2: 1.004}


def test_a_picture_of_a_month_has_a_bar_for_each_use_of_a_day_as_tall_as_its_dollars():
    names = [name for name, *_ in NOVEMBER.days()]
    days = shown(Accounts([SERVED, FAILED]))[2]["days"]
    drawn = ElementTree.fromstring(cost_plot.svg("vast-reranker/prod: $3.50 in 2026-11", names, days))
    boxes = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))[: -len(USES)]  # then comes the legend
    tall = {one.get("fill"): float(one.get("height")) for one in boxes}
    assert tall[COLOURS["boot"]] == pytest.approx(1.5 * tall[COLOURS["serving"]], abs=0.1)
    assert tall[COLOURS["boot failed"]] == pytest.approx(tall[COLOURS["serving"]], abs=0.1)
    texts = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"vast-reranker/prod: $3.50 in 2026-11", "30", "$0.0", "$2.5", "drain"} <= set(texts)
    assert "31" not in texts


@pytest.mark.parametrize(("most", "step"), [(0, 2e-5), (0.0123, 0.002), (8, 1), (10.8, 2), (41, 10), (1e4, 2e3)])
def test_the_grid_has_round_steps(most, step):
    assert cost_plot.tick(most) == pytest.approx(step)


def test_contracts_without_a_charge_and_charges_that_cannot_be_read_are_named():
    assert "No charge yet for 1 contract." in shown(Accounts([SERVED, FAILED], {1: charge(SERVED, 2.5)}))[1]
    assert "Not compared with Vast.ai's charges: no way" in shown(Accounts([SERVED], unread="no way"))[1]
    assert shown(Accounts([]))[1].startswith("Nothing was rented.")
