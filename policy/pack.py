"""The rules as policies of Pulumi's policy SDK, which passes resources to an analyzer. Called by `__main__`.

Each Instance is checked before the engine creates or updates it, also in a preview; the rule `validation` needs the
complete stack. The limits are in limits.yaml in this folder, by the name of the stack.
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
    return [_policy(rule) for rule in RULES]


def _policy(rule: Rule) -> Policy:
    about = f"{rule.summary} Otherwise: {rule.remedy}."
    if rule.name == "validation":
        return StackValidationPolicy(rule.name, about, _stack_check(rule), enforcement_level=EnforcementLevel.MANDATORY)
    check = _resource_check(rule)
    return ResourceValidationPolicy(rule.name, about, check, enforcement_level=EnforcementLevel.MANDATORY)


def _resource_check(rule: Rule) -> Any:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type == INSTANCE:
            inputs = _plain(args.props)
            offers = inputs.get("candidates") or ()
            # the certificate may be unknown, and reading it would end the rule, so check only that it is set
            tls = "ca_certificate" in set(args.props) and inputs.get("ca_certificate") != ""
            _report_violation(rule, instance_facts(inputs, offers, tls=tls), args.urn, report)

    return validate


def _stack_check(rule: Rule) -> Any:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for resource in args.resources:
            if resource.resource_type == INSTANCE:
                facts = Facts(validated=_is_validated(resource, args.resources))
                _report_violation(rule, facts, resource.urn, report)

    return validate


def _report_violation(rule: Rule, facts: Facts, urn: str, report: ReportViolation) -> None:
    limits = load_limits(urn.split(":")[2])  # urn:pulumi:<stack>::<project>::<type>::<name>
    if rule.binds(limits) and (message := rule.judge(facts, limits)):
        report(f"{message}; {rule.remedy}", urn)  # the engine adds the rule's name


def _is_validated(instance: PolicyResource, resources: Sequence[PolicyResource]) -> bool | None:
    """Whether a validation depends on this instance and has skipped no checks; None for the instance of a gateway."""

    def dependents(kind: str, key: str) -> list[PolicyResource]:
        typed = (resource for resource in resources if resource.resource_type == kind)
        return [item for item in typed if instance.urn in (x.urn for x in item.property_dependencies.get(key, ()))]

    if dependents(GATEWAY, "admin_url"):
        return None
    validations = dependents(VALIDATION, "servers")
    summaries = [_plain(validation.props).get("summary") or {} for validation in validations]
    return bool(validations) and not any(summary.get("skipped") for summary in summaries)


def _plain(value: Any) -> Any:
    """Return a value as plain data without unknown entries, at every depth."""
    if isinstance(value, Mapping):
        known = {}
        for key in value:
            with suppress(UnknownValueError):
                known[key] = _plain(value[key])
        return known
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
