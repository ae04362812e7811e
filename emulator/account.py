"""The account: ssh keys, templates, payments. No HTTP. Called by `account_routes`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from emulator.errors import refusal

USER_ID = 1001
KEY_ID = 501
Row = dict[str, Any]
# The fields of a template and their defaults; other fields of a request are dropped.
TEMPLATE: Row = {
    "name": None, "image": None, "tag": "latest", "env": "", "onstart": None, "runtype": "args", "args_str": "",
    "ssh_direct": False, "jup_direct": False, "use_ssh": False, "use_jupyter_lab": False, "jupyter_dir": None,
    "docker_login_repo": None, "extra_filters": {}, "recommended_disk_space": 8.0, "href": None, "repo": None,
    "desc": None, "readme": None, "readme_visible": True, "private": True,
}  # fmt: skip
TEMPLATE_RUNTYPES = ("ssh", "jupyter", "args")


@dataclass
class Account:
    """The account without its contracts. Rows have the form of the API."""

    ssh_keys: list[Row] = field(default_factory=list)
    templates: list[Row] = field(default_factory=list)
    payments: list[Row] = field(default_factory=list)
    last_id: int = 330_000
    # HTTP status for a wrong key when instances are read: 401 as documented; the live API also returned 404.
    wrong_key_status: int = 401

    def _next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    # ---- ssh keys ------------------------------------------------------------------------------------------------

    def add_key(self, text: Any, now: float) -> Row:
        """Add a public key. Raises ServiceError."""
        key = _public_key(text)
        row = {"id": self._next_id(), "user_id": USER_ID, "key": key, "public_key": key}
        self.ssh_keys.append(row | {"created_at": _date(now), "deleted_at": None})
        return self.ssh_keys[-1]

    def change_key(self, key_id: int, text: Any) -> Row:
        key = _public_key(text)
        row = self._key(key_id)
        row.update(key=key, public_key=key)
        return row

    def delete_key(self, key_id: int) -> None:
        self.ssh_keys.remove(self._key(key_id))

    def _key(self, key_id: int) -> Row:
        for row in self.ssh_keys:
            if row["id"] == key_id:
                return row
        raise refusal("no_key_given")  # the documented code for an unknown key

    # ---- templates -----------------------------------------------------------------------------------------------

    def add_template(self, body: Row, now: float) -> Row:
        """Add a template, or return the existing template with the same content. Raises ServiceError."""
        values = _template(TEMPLATE, body)
        for row in self.templates:
            if row["hash_id"] == _hash(values):
                return row
        ids = {"id": self._next_id(), "creator_id": USER_ID, "created_at": now, "count_created": 0}
        self.templates.append({**values, **ids, "hash_id": _hash(values)})
        return self.templates[-1]

    def change_template(self, body: Row) -> Row:
        """Change the fields in `body`. The id stays, the hash changes. Raises ServiceError."""
        row = self.template(body.get("id"), body.get("hash_id"))
        values = _template({name: row[name] for name in TEMPLATE}, body)
        row.update(values, hash_id=_hash(values))
        return row

    def delete_template(self, template_id: Any) -> None:
        self.templates.remove(self.template(template_id, None))

    def template(self, template_id: Any, hash_id: Any) -> Row:
        """Return a template by id, or by hash if the id is None. Raises ServiceError."""
        name, value = ("id", template_id) if template_id is not None else ("hash_id", hash_id)
        for row in self.templates:
            if value is not None and str(row[name]) == str(value):
                return row
        raise refusal("no_such_template")

    # ---- money ---------------------------------------------------------------------------------------------------

    def add_payment(self, usd: float, now: float) -> None:
        """Record a payment. A negative amount is a transfer to another account."""
        self.payments.append({"id": self._next_id(), "when": int(now), "usd": usd})  # clients filter by whole seconds


def invoice(payment: Row) -> Row:
    """Return a payment as an entry of the list of invoices: the amount charged to a card is negative."""
    is_credit = payment["usd"] >= 0
    service = "stripe_payments" if is_credit else "transfer"
    return {
        "start": payment["when"],
        "end": payment["when"],
        "type": "credit" if is_credit else "transfer",
        "source": "stripe" if is_credit else "someone@example.com",
        "description": f"{'Manual Billing' if is_credit else 'Transfer'} {payment['id']}",
        "amount": -payment["usd"],
        "metadata": {"invoice_id": payment["id"], "service": service},
        "items": [],
    }


def _public_key(text: Any) -> str:
    key = str(text or "").strip()
    if not key:
        raise refusal("no_key_given")
    return key


def _template(base: Row, body: Row) -> Row:
    """Return the fields of `base`, updated from `body`. Raises ServiceError."""
    values = {name: default if body.get(name) is None else body[name] for name, default in base.items()}
    if not values["name"]:
        raise refusal("template_without_name")
    if not values["image"] or values["runtype"] not in TEMPLATE_RUNTYPES:
        raise refusal("invalid_args", what=f"image is required, runtype is one of {', '.join(TEMPLATE_RUNTYPES)}")
    if not isinstance(values["extra_filters"], str):
        values["extra_filters"] = json.dumps(values["extra_filters"])
    return values


def _hash(values: Row) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _date(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
