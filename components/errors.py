"""Every error this project raises on purpose, in one tree; resources, ops and examples print their text as it is."""

from __future__ import annotations


class VastRerankerError(Exception):
    """Root of all errors raised on purpose. The text says what, which id, the last state and the next step."""


class ConfigError(VastRerankerError):
    """One or more values of the stack's config are unusable; every problem is listed, by config key."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class StateError(VastRerankerError):
    """The state could not be written, or is not one that this project writes."""


class VastError(VastRerankerError):
    """Root of what can go wrong with the marketplace."""


class ApiUnreachable(VastError):
    """No usable answer came from the API: connection refused, reset or timed out."""


class ApiError(VastError):
    """The API answered with an error: HTTP status, Vast's `error` code and `msg`."""

    def __init__(self, text: str, *, status: int, code: str = "") -> None:
        self.status = status
        self.code = code
        super().__init__(text)


class AuthError(ApiError):
    """The Vast key is missing, wrong, expired or lacks a scope. Never means that a resource is gone."""


class RateLimited(ApiError):
    """429 after all waits that the client grants."""


class OfferTaken(ApiError):
    """The offer is no longer available (`no_such_ask`); another one may be."""


class CreateFailed(ApiError):
    """Renting was refused. `leaked_id` is the contract that Vast made anyway (a bid too low does that)."""

    def __init__(self, text: str, *, status: int, code: str = "", leaked_id: int | None = None) -> None:
        self.leaked_id = leaked_id
        super().__init__(text, status=status, code=code)


class MalformedAnswer(VastError):
    """The body is not JSON, or lacks what it must have. Never read as an empty list or a missing instance."""


class QueryError(VastError):
    """The offer query cannot be parsed; the text has the position and what is accepted there."""


class NoOffer(VastError):
    """No offer satisfies the query; the text counts what each constraint removed and names the nearest miss."""


class RentalFailed(VastError):
    """No instance came of it, and nothing rented is left; the text says what happened to each candidate."""


class DestroyFailed(RentalFailed):
    """An instance could not be destroyed and may be billed; its id and the removing command are in the text."""

    def __init__(self, text: str, *, instance_id: int) -> None:
        self.instance_id = instance_id
        super().__init__(text)


class Interrupted(VastError):
    """The operation was interrupted, or the Pulumi CLI that asked for it has died: what was booting is destroyed."""


class ServingError(VastRerankerError):
    """Root of what can go wrong with the server on an instance."""


class ServerUnreachable(ServingError):
    """Nothing answers at the server's URL."""


class ServerError(ServingError):
    """The server answered with an error; `status` and its own message are kept."""

    def __init__(self, text: str, *, status: int, message: str = "") -> None:
        self.status = status
        self.message = message
        super().__init__(text)


class ValidationFailed(ServingError):
    """A check failed; the text names the check, what it saw and what to do."""


class GatewayError(VastRerankerError):
    """Root of what can go wrong with the gateway."""


class CaddyUnreachable(GatewayError):
    """Caddy's admin API gives no answer."""


class CaddyError(GatewayError):
    """Caddy's admin API answered with an error; the config that was sent is not in the text."""
