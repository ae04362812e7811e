"""All errors that this project raises on purpose; resources, ops and examples print their texts unchanged."""

from __future__ import annotations


class VastRerankerError(Exception):
    """Root of all errors raised on purpose. The text has the problem, the id, the last state and the next step."""


class ConfigError(VastRerankerError):
    """The stack's config has unusable values; the text lists every problem by config key."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class StateError(VastRerankerError):
    """The state cannot be written, or does not come from this project."""


class VastError(VastRerankerError):
    """Root of errors of the marketplace."""


class ApiUnreachable(VastError):
    """The API gives no usable answer: connection refused, reset or timed out."""


class ApiError(VastError):
    """The API answers with an error: HTTP status, Vast's `error` code and `msg`."""

    def __init__(self, text: str, *, status: int, code: str = "") -> None:
        self.status = status
        self.code = code
        super().__init__(text)


class AuthError(ApiError):
    """The Vast key is missing, wrong, expired or lacks a scope. It is no sign that a resource is gone."""


class RateLimited(ApiError):
    """HTTP 429 after all retries of the client."""


class OfferTaken(ApiError):
    """The offer is no longer available (`no_such_ask`); try another offer."""


class CreateFailed(ApiError):
    """Vast.ai refused to rent. `leaked_id`: the contract that it made nevertheless, for example for a low bid."""

    def __init__(self, text: str, *, status: int, code: str = "", leaked_id: int | None = None) -> None:
        self.leaked_id = leaked_id
        super().__init__(text, status=status, code=code)


class MalformedAnswer(VastError):
    """The body is not JSON, or lacks required fields. It is no empty list and no missing instance."""


class QueryError(VastError):
    """The offer query cannot be parsed; the text has the position and the accepted input there."""


class NoOffer(VastError):
    """No offer satisfies the query; the text has a count for each constraint, and the nearest miss."""


class RentalFailed(VastError):
    """No instance serves, and none that was rented is left; the text has the result of each candidate."""


class DestroyFailed(RentalFailed):
    """An instance could not be destroyed and may be billed; the text has its id and a command that destroys it."""

    def __init__(self, text: str, *, instance_id: int) -> None:
        self.instance_id = instance_id
        super().__init__(text)


class Interrupted(VastError):
    """The operation was interrupted, or the Pulumi CLI is gone. Booting instances are destroyed."""


class ServingError(VastRerankerError):
    """Root of errors of the server on an instance."""


class ServerUnreachable(ServingError):
    """Nothing answers at the server's URL."""


class ServerError(ServingError):
    """The server answers with an error: its HTTP `status` and its own `message`."""

    def __init__(self, text: str, *, status: int, message: str = "") -> None:
        self.status = status
        self.message = message
        super().__init__(text)


class ValidationFailed(ServingError):
    """A check failed; the text has the check, the observed result and the next step."""


class GatewayError(VastRerankerError):
    """Root of errors of the gateway."""


class CaddyUnreachable(GatewayError):
    """Caddy's admin API gives no answer."""


class CaddyError(GatewayError):
    """Caddy's admin API answers with an error; the text does not contain the config."""
