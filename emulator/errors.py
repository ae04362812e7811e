"""The refusals of the API: HTTP statuses, error codes and texts. `routes` turns a ServiceError into an answer.

The texts are those of Vast.ai's documentation or of its live API, where known.
"""

from __future__ import annotations

from typing import Any

# Name -> HTTP status, error code, text.
REFUSALS: dict[str, tuple[int, str, str]] = {
    # the account
    "wrong_key": (401, "auth_error", "Invalid user key"),
    "insufficient_credit": (
        400, "insufficient_credit", "error 400: insufficient_credit: your account lacks credit; see the billing page."
    ),
    "no_credit_to_prepay": (411, "insufficient_credit", "Insufficient credit"),
    "no_key_given": (400, "no_ssh_key", "No ssh key provided"),
    "no_such_key": (404, "no_such_ssh_key", "SSH key not found."),
    "template_without_name": (400, "invalid_args", "Template name is required"),
    "no_such_template": (404, "no_such_template", "Template not found"),
    # requests that cannot be read
    "invalid_json": (400, "invalid_request", "Invalid json body"),
    "invalid_format": (400, "invalid_args", "invalid request format"),
    "invalid_query": (400, "invalid_request", "Error in query parameters: {what}"),
    "invalid_search": (400, "invalid_request", "{what}"),
    "invalid_token": (400, "invalid_token", "Invalid pagination token"),
    "invalid_charges_range": (
        400, "invalid_args", "Must provide both 'day' gte and lte filters for instance charges"
    ),
    # offers
    "no_such_ask": (404, "invalid_args", "error 404/3603: no_such_ask Instance type by id {ask_id} is not available."),
    "ask_is_taken": (
        410, "no_such_ask", "error 410/3907: no_such_ask Instance type {ask_id} is no longer available."
    ),
    "no_offer": (404, "no_such_ask", "error 404/3603: no_such_ask No offer matches the query."),
    "invalid_args": (400, "invalid_args", "error 400/1782: Invalid args: {what}"),
    "invalid_price": (400, "invalid_price", "error 400: price {price:g} is not between {low:g} and {high:g}"),
    "bid_too_low": (400, "invalid_price", "error 400: bid {price:g} is below {floor:g}"),
    "temporary": (200, "temporary", "try again"),
    # instances
    "no_such_instance": (404, "no_such_instance", "Instance {id} not found."),
    "no_such_instances": (404, "instances_not_found", "Instances {ids} not found."),
    "no_instance_ids": (400, "invalid_args", "instance_ids array is required"),
    "invalid_instance_id": (400, "invalid_args", "invalid instance_id"),
    "no_such_instance_to_recycle": (400, "invalid_id", "Invalid instance id."),
    "no_such_instance_to_log": (404, "invalid_id", "Invalid instance id."),
    "no_such_instance_to_bid": (404, "no_such_instance", "Instance with that ID does not exist."),
    "no_such_instance_to_prepay": (400, "invalid_id", "No such instance"),
    "label_too_long": (
        400, "label_too_long", "Please limit label length to 1024 characters, ideally less than 128."
    ),
    "nothing_to_change": (400, "invalid_args", "error 400: one of state and label is required"),
    "invalid_state": (400, "invalid_args", "error 400: state is running or stopped"),
    "not_running": (400, "invalid_args", "Instance {id} is not running."),
    "queued": (
        200, "resources_unavailable", "Required resources are currently unavailable, state change queued."
    ),
    "bid_too_small": (400, "invalid_args", "Please set a bid price >= 0.001."),
    "bid_too_large": (400, "invalid_args", "Please set a bid price <= {high:g}."),
    "invalid_command": (400, "invalid_args", "Invalid command given."),
    "invalid_daemon_logs": (400, "invalid_args", "error 400: daemon_logs is \"true\" or absent"),
    "old_list": (410, "deprecated_endpoint", "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead."),
    "no_pending_price_increase": (404, "no_pending_price_increase", "There is no such pending price increase."),
}  # fmt: skip


class ServiceError(Exception):
    """A refusal: HTTP status, Vast.ai's error code and message, and further fields of the body."""

    def __init__(self, status: int, code: str, msg: str, **extra: Any) -> None:
        self.status = status
        self.code = code
        self.msg = msg
        self.extra = extra
        super().__init__(msg)

    def body(self) -> dict[str, Any]:
        return {"success": False, "error": self.code, "msg": self.msg, **self.extra}


def refusal(name: str, extra: dict[str, Any] | None = None, **values: Any) -> ServiceError:
    """Return a refusal of the table. `values` complete its text; `extra` are further fields of the answer."""
    status, code, text = REFUSALS[name]
    return ServiceError(status, code, text.format(**values), **(extra or {}))


def invalid(what: str) -> ServiceError:
    return refusal("invalid_args", what=what)
