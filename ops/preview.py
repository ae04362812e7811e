"""`python -m ops.preview`: what an up would do, what it costs now and after, the offers, and what policies say."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from ops import plan as plans
from ops import report
from ops.command import Command, Outcome
from ops.deploy import CREATE
from ops.engine import Pulumi
from ops.exits import OK, PENDING
from ops.outputs import Outputs

EXPECT_NONE = "fail with the code for undeployed changes when anything would change"


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Preview the stack. Raises OpsError."""
    if args.create:
        pulumi.ensure()
    now = Outputs.parse(pulumi.outputs())
    plan = plans.read(pulumi.preview())
    after = price_after(now, plan)
    before = now.hourly_cost_usd if now.replicas else None
    parts = [
        f"### {report.code(pulumi.stack)} preview: {report.plan_line(plan)}",
        report.prices(before, after),
        *report.choices(plan),
        *([report.changes(plan)] if plan.steps else []),
        *report.bullets("Drift", plan.drift),
        *report.bullets("Warnings", plan.warnings),
        report.policy(plan),
        *([report.offers(plan.offers)] if plan.offers else []),
    ]
    facts = {
        "in_sync": plan.in_sync,
        "changes": plan.counts(),
        "steps": [asdict(one) for one in plan.steps],
        "drift": plan.drift,
        "pending": plan.pending,
        "price": {"now_usd_h": before, "after_usd_h": after},
        "choices": [asdict(one) for one in plan.choices],
        "offers_considered": len(plan.offers),
        "policies": plan.policies,
        "warnings": plan.warnings,
    }
    code = PENDING if args.expect_no_changes and not plan.in_sync else OK
    return Outcome(code, facts, "\n\n".join(parts))


def price_after(now: Outputs, plan: plans.Plan) -> float | None:
    """Return $/h once the plan is carried out; None where it rents from an offer that it does not name."""
    if plan.renting == 0:
        return now.hourly_cost_usd if now.replicas else None
    if len(plan.choices) < plan.renting:
        return None
    kept = max(len(now.replicas) - plan.renting, 0) if now.replicas else 0
    each_usd = (now.hourly_cost_usd - now.gateway_cost_usd) / len(now.replicas) if now.replicas else 0.0
    kept_usd = each_usd * kept + now.gateway_cost_usd
    return round(kept_usd + sum(one.dph_total_usd for one in plan.choices), 5)


def flags(parser: argparse.ArgumentParser) -> None:
    """Add --create and --expect-no-changes."""
    parser.add_argument("--create", action="store_true", help=CREATE)
    parser.add_argument("--expect-no-changes", action="store_true", help=EXPECT_NONE)


COMMAND = Command(
    "preview",
    "Show what `up` would do to a stack, its price now and after, and the offers it would rent from.",
    work,
    flags,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
