import pytest

from components.errors import RentalFailed
from components.vast.bill import MonthToDate
from components.vast.models import Account, Contract, Offer
from components.vast.money import Budget, hourly_cost, monthly_cost
from components.vast.ranking import Candidate
from components.vast.rental_spec import Bid
from tests.unit.wire_samples import instance, offer

CANDIDATE = Candidate.of(Offer.parse(offer(dph_total=0.10, inet_down_cost=0.01)), 12)


def test_credit_that_does_not_last_until_it_serves_is_an_error():
    with pytest.raises(RentalFailed, match=r"the credit is \$0.10, but until it serves .* nothing was rented"):
        Budget().check(Account(1, 0.10), CANDIDATE, 1)


def test_a_month_over_its_budget_is_a_warning_beside_that_of_the_credit():
    month = MonthToDate(2.0, 100.0)
    check = Budget(budget_usd_month=12.5, min_runway_h=24).check
    assert check(Account(1, 100.0), CANDIDATE, 1, month=month) is None
    assert check(Account(1, 100.0), CANDIDATE, 2) is None
    over = "the month will have cost $22.00 ($2.00 so far, $0.2000/h), over budget_usd_month of $12.5"
    assert check(Account(1, 100.0), CANDIDATE, 2, month=month) == over
    assert (check(Account(1, 1.0), CANDIDATE, 2, month=month) or "").startswith(f"{over}; the credit of $1.00 lasts")


def test_credit_for_less_than_the_runway_is_a_warning_with_the_time_left():
    assert "lasts for 8 h" in (Budget(min_runway_h=24).check(Account(1, 1.0), CANDIDATE, 1) or "")
    assert Budget(min_runway_h=4).check(Account(1, 1.0), CANDIDATE, 1) is None


def test_the_runway_is_that_of_the_whole_fleet_and_a_hedge_costs_the_boot_only():
    assert Budget(min_runway_h=24).check(Account(1, 10.0), CANDIDATE, 1) is None
    warning = Budget(min_runway_h=24).check(Account(1, 10.0), CANDIDATE, 8) or ""
    assert "lasts for 11 h" in warning
    assert "at $0.8000/h" in warning
    assert "lasts for 97 h 22 min" in (Budget(min_runway_h=99).check(Account(1, 10.0), CANDIDATE, 1, hedge=2) or "")


def test_the_runway_counts_what_else_the_account_pays():
    check = Budget(min_runway_h=99).check
    assert "lasts for 97 h 22 min at $0.1000/h; add" in (check(Account(1, 10.0), CANDIDATE, 1, hedge=2) or "")
    warning = check(Account(1, 10.0), CANDIDATE, 1, others_usd=0.30) or ""
    assert "lasts for 24 h 40 min at $0.4000/h, of which $0.3000 for other instances of the account; add" in warning


def test_the_cap_counts_every_machine_that_runs_at_once():
    assert Budget(max_hourly_usd=0.15).over(0.10, 1) is None
    assert (
        Budget(max_hourly_usd=0.15).over(0.10, 2)
        == "max_hourly_usd allows $0.15/h, but 2 machines at $0.1000/h cost $0.2000/h"
    )
    with pytest.raises(RentalFailed, match="max_hourly_usd"):
        Budget(max_hourly_usd=0.05).check(Account(1, 99.0), CANDIDATE, 1)


def test_costs_are_split_into_gpu_and_disk():
    split = hourly_cost(Contract.parse(instance(dph_total=0.09, storage_cost=0.15)), 40)
    assert split == {"gpu": 0.08178, "disk": 0.00822, "total": 0.09}
    assert monthly_cost(split) == 65.7


def test_a_bid_stays_under_its_cap():
    floor = Offer.parse(offer(min_bid=0.04))
    assert Bid(factor=1.5).price_for(floor) == 0.06
    assert Bid(factor=1.5, cap_usd=0.05).price_for(floor) == 0.05
    assert Bid(price_usd=0.07).price_for(floor) == 0.07
