"""The rules as policies of Pulumi's policy SDK: what the engine shows an analyzer becomes Facts. Called by `__main__`.

Each Instance is judged before the engine creates or updates it, in a preview too. Whether it is validated shows only
in the whole stack. What binds comes from the Instance's own `policy` input (from the stack's config), and on top of it
from the pack's config, which no stack's file can loosen: `--policy-pack-config` with {"hourly-price": {"limit": 0.5},
"no-bid": {"bind": true}}. An Instance without a `policy` input is judged by every rule that has no limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.facts import GATEWAY, INSTANCE, VALIDATION, of_instance
from policy.rules import NAMED, RULES, Facts, Limits, Rule

LIMIT_TYPES: dict[str, dict[str, Any]] = {
    "max_hourly_usd": {"type": "number", "minimum": 0},
    "max_disk_gb": {"type": "number", "minimum": 0},
    "countries": {"type": "array", "items": {"type": "string"}},
    "hosting": {"type": "string", "enum": ["datacenter"]},
}


def policies() -> list[Policy]:
    """Return one mandatory policy for each rule."""
    return [_policy(rule) for rule in RULES]


def bound(rule: Rule, stack: Mapping[str, Any] | None, pack: Mapping[str, Any]) -> Limits:
    """Return the limits that bind for one rule: the stack's own, tightened by the pack's config."""
    limits = Limits(rules=NAMED) if stack is None else Limits.parse(stack)
    if not rule.limit:
        return replace(limits, rules=(*limits.rules, rule.name)) if pack.get("bind") else limits
    demanded = getattr(Limits.parse({rule.limit: pack["limit"]} if pack.get("limit") else {}), rule.limit)
    allowed = getattr(limits, rule.limit)
    if isinstance(demanded, float) and isinstance(allowed, float):
        demanded = min(demanded, allowed)
    elif isinstance(demanded, tuple) and demanded and allowed:
        demanded = tuple(code for code in demanded if code in allowed) or demanded
    return replace(limits, **{rule.limit: demanded or allowed})


def _policy(rule: Rule) -> Policy:
    schema: dict[str, dict[str, Any]] = (
        {"limit": LIMIT_TYPES[rule.limit]} if rule.limit else {"bind": {"type": "boolean"}}
    )
    config = PolicyConfigSchema(properties=schema)
    about = f"{rule.asks[0].upper()}{rule.asks[1:]}. Otherwise: {rule.remedy}."
    if rule.name == "validation":
        return StackValidationPolicy(
            rule.name, about, _of_stack(rule), enforcement_level=EnforcementLevel.MANDATORY, config_schema=config
        )
    return ResourceValidationPolicy(
        rule.name, about, _of_resource(rule), enforcement_level=EnforcementLevel.MANDATORY, config_schema=config
    )


def _of_resource(rule: Rule) -> Any:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type == INSTANCE:
            inputs = _known(args.props)
            offers = inputs.get("candidates") or ()
            # not known until it is made, and to look at it would end the rule: that it is asked for is enough
            tls = "ca_certificate" in set(args.props) and inputs.get("ca_certificate") != ""
            _judge(rule, of_instance(inputs, offers, tls=tls), inputs, args.get_config(), report)

    return validate


def _of_stack(rule: Rule) -> Any:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for one in args.resources:
            if one.resource_type == INSTANCE:
                facts = Facts(validated=_validated(one, args.resources))
                _judge(rule, facts, _known(one.props), args.get_config(), report, urn=one.urn)

    return validate


def _judge(
    rule: Rule,
    facts: Facts,
    inputs: Mapping[str, Any],
    config: Mapping[str, Any],
    report: ReportViolation,
    *,
    urn: str | None = None,
) -> None:
    limits = bound(rule, inputs.get("policy"), config)
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


def _known(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known now, as plain data, at every depth; in a preview some of it is not."""
    found = {}
    for key in props:
        try:
            value = props[key]
            found[key] = _known(value) if isinstance(value, Mapping) else _plain(value)
        except UnknownValueError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _known(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value
