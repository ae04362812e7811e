"""What the emulated service answers when it refuses: errors as data, raised by the rules, rendered by the routes."""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """A refusal with HTTP status, Vast's error code and message, and whatever else the body carries."""

    def __init__(self, status: int, code: str, msg: str, **extra: Any) -> None:
        self.status = status
        self.code = code
        self.msg = msg
        self.extra = extra
        super().__init__(msg)

    def body(self) -> dict[str, Any]:
        return {"success": False, "error": self.code, "msg": self.msg, **self.extra}


def no_such_ask(ask_id: int) -> ServiceError:
    """The offer was taken, or never was."""
    text = f"error 410/3907: no_such_ask Instance type {ask_id} is no longer available."
    return ServiceError(410, "no_such_ask", text, ask_id=ask_id)


def no_such_instance(instance_id: int) -> ServiceError:
    """There is no such contract."""
    return ServiceError(404, "no_such_instance", f"Instance {instance_id} not found.")


def invalid(msg: str) -> ServiceError:
    """The request is malformed."""
    return ServiceError(400, "invalid_args", f"error 400/1782: Invalid args: {msg}")


def insufficient_credit() -> ServiceError:
    """The account has no credit left."""
    text = "error 400: insufficient_credit: your account lacks credit; see the billing page."
    return ServiceError(400, "insufficient_credit", text)
