"""`python -m ops preview`: what an up would do, what it costs now and after, the offers, and what policies say."""

from __future__ import annotations

from dataclasses import asdict

import click

from ops import report
from ops.command import Outcome, verb
from ops.cost import budget_warning
from ops.engine import Pulumi
from ops.exits import OK, PENDING

CREATE = click.option("--create", is_flag=True, help="Make the stack if it is not there; it needs a config file.")


@verb("preview")
@CREATE
@click.option("--expect-no-changes", is_flag=True, help="End with the code for undeployed changes if anything changes.")
def preview(pulumi: Pulumi, *, create: bool, expect_no_changes: bool) -> Outcome:
    """Show what `up` would do to a stack, its price now and after, and the offers it would rent from."""
    if create:
        pulumi.ensure()
    plan = pulumi.preview().plan()
    # what would be rented is judged in the plan itself, and then among its warnings
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
