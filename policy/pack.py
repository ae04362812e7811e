"""The rules as policies of Pulumi's policy SDK: what the engine shows an analyzer becomes Facts. Called by `__main__`.

Each Instance is judged before the engine creates or updates it, in a preview too; whether it is validated shows only in
the whole stack. What binds is in limits.yaml beside this file, by the name of the stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.facts import GATEWAY, INSTANCE, VALIDATION, instance_facts
from policy.limits import load_limits
from policy.rules import RULES, Facts, Rule


def policies() -> list[Policy]:
    """Return one mandatory policy for each rule."""
    return [_policy(rule) for rule in RULES]


def _policy(rule: Rule) -> Policy:
    about = f"{rule.asks} Otherwise: {rule.remedy}."
    if rule.name == "validation":
        return StackValidationPolicy(rule.name, about, _of_stack(rule), enforcement_level=EnforcementLevel.MANDATORY)
    return ResourceValidationPolicy(rule.name, about, _of_resource(rule), enforcement_level=EnforcementLevel.MANDATORY)


def _of_resource(rule: Rule) -> Any:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type == INSTANCE:
            inputs = _known(args.props)
            offers = inputs.get("candidates") or ()
            # not known until it is made, and to look at it would end the rule: that it is asked for is enough
            tls = "ca_certificate" in set(args.props) and inputs.get("ca_certificate") != ""
            _judge(rule, instance_facts(inputs, offers, tls=tls), args.urn, report)

    return validate


def _of_stack(rule: Rule) -> Any:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for one in args.resources:
            if one.resource_type == INSTANCE:
                _judge(rule, Facts(validated=_validated(one, args.resources)), one.urn, report)

    return validate


def _judge(rule: Rule, facts: Facts, urn: str, report: ReportViolation) -> None:
    limits = load_limits(urn.split(":")[2])  # urn:pulumi:<stack>::<project>::<type>::<name>
    if rule.binds(limits) and (message := rule.judge(facts, limits)):
        report(f"{message}; {rule.remedy}", urn)  # the engine names the rule beside it


def _validated(instance: PolicyResource, resources: Sequence[PolicyResource]) -> bool | None:
    """Whether a validation follows this instance, and skipped nothing where it has run already; None for a gateway's,
    which scores nothing itself."""

    def follows(one: PolicyResource, kind: str, key: str) -> bool:
        return one.resource_type == kind and any(
            each.urn == instance.urn for each in one.property_dependencies.get(key, ())
        )

    if any(follows(one, GATEWAY, "admin_url") for one in resources):
        return None
    validations = [one for one in resources if follows(one, VALIDATION, "servers")]
    reports = [_known(one.props).get("summary") or {} for one in validations]
    return bool(validations) and not any(report.get("skipped") for report in reports)


def _known(value: Any) -> Any:
    """Return what is known now, as plain data, at every depth; in a preview some of it is not."""
    if isinstance(value, Mapping):
        plain = {}
        for key in value:
            with suppress(UnknownValueError):
                plain[key] = _known(value[key])
        return plain
    return [_known(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
