"""`python -m ops preview`: the changes of an `up`, the price before and after, the offers, and policy results."""

from __future__ import annotations

from dataclasses import asdict

import click

from ops import report
from ops.command import Outcome, verb
from ops.cost import budget_warning
from ops.engine import Pulumi
from ops.exits import OK, PENDING

CREATE = click.option("--create", is_flag=True, help="Create the stack if it does not exist; it needs a config file.")


@verb("preview")
@CREATE
@click.option("--expect-no-changes", is_flag=True, help="Exit with the code of undeployed changes if there are any.")
def preview(pulumi: Pulumi, *, create: bool, expect_no_changes: bool) -> Outcome:
    """Show the changes that `up` would make to a stack, the price before and after, and the offers to rent from."""
    if create:
        pulumi.ensure()
    plan = pulumi.preview().plan()
    # a plan that rents has the budget warning among its warnings
    budget = "" if plan.choices else budget_warning(pulumi, plan.after_usd or 0.0)
    parts = [
        report.prices(plan.now_usd, plan.after_usd),
        *report.changes(plan),
        report.bullets("Drift", plan.drift),
        report.bullets("Budget", filter(None, [budget])),
        "**Policy:** nothing is blocked.",
        report.offers(plan.offers) if plan.offers else "",
    ]
    facts = {"in_sync": plan.in_sync, "changes": plan.counts(), **asdict(plan)}
    code = PENDING if expect_no_changes and not plan.in_sync else OK
    return Outcome(code, report.plan_line(plan), parts, facts)
