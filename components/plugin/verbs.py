"""Base classes of providers and resources, and the wrapper of verbs: session, concurrency, errors, log row.

A provider's class and module path are pickled into every state, so they must not change. Providers have an empty
`__init__`; `configure` prepares them in the plugin process.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import pulumi
from pulumi.dynamic import CheckFailure, ConfigureRequest, Resource, ResourceProvider
from pulumi.output import Unknown

from components.errors import VastError, VastRerankerError
from components.plugin.engine import ENGINE, current_urn
from components.records import record
from components.redaction import plain

P = ParamSpec("P")
R = TypeVar("R")
MAX_THREADS = int(os.environ.get("RERANKER_PLUGIN_THREADS") or 128)


def add_threads() -> bool:
    """Raise the number of threads of the pool that runs the caller, found in the frame of its worker. The SDK's
    servicer has four, and a boot occupies one for minutes. False if there is no such pool (other SDK version)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_worker" and "executor_reference" in frame.f_locals:
            executor = frame.f_locals["executor_reference"]()
            if isinstance(executor, ThreadPoolExecutor):
                executor._max_workers = max(executor._max_workers, MAX_THREADS)
                # the pool creates a thread only when work is submitted, so create threads for queued work
                for _ in range(executor._work_queue.qsize()):
                    executor._adjust_thread_count()
                return True
        frame = frame.f_back
    return False


class VastProvider(ResourceProvider):
    """A dynamic provider that uses the process's session."""

    def configure(self, req: ConfigureRequest) -> None:
        """Open the session for the stack's config and raise the number of parallel operations."""
        from components.plugin.session import open_session  # noqa: PLC0415 - the program's process never needs it

        ENGINE.handle_cancel()
        if ENGINE.address and not add_threads():
            ENGINE.warn("this Pulumi SDK runs only four operations at a time; more servers boot one after another")
        self.session = open_session(req.config.get)


class VastResource(Resource):
    """A dynamic resource. Its outputs are the annotations of its class; `secret`: names of secret inputs and outputs.

    Types are short, without module, to leave space for progress messages in the CLI's rows.
    """

    def __init__(
        self,
        provider: ResourceProvider,
        name: str,
        args: Any,
        opts: pulumi.ResourceOptions | None,
        secret: Sequence[str] = (),
    ) -> None:
        inputs = record(args)
        inputs |= {key: pulumi.Output.secret(inputs[key]) for key in secret if key in inputs}
        options = pulumi.ResourceOptions(additional_secret_outputs=list(secret))
        classes = [cls for cls in type(self).__mro__ if not issubclass(Resource, cls)]  # without Pulumi's classes
        outputs = {output: None for cls in classes for output in inspect.get_annotations(cls)}
        super().__init__(provider, name, {**outputs, **inputs}, pulumi.ResourceOptions.merge(options, opts))


def verb(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a provider's verb: our errors lose their traceback, others keep it; messages get the resource's row."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        request = sys._getframe(1).f_locals.get("request")
        token = current_urn.set(str(getattr(request, "urn", "")))
        try:
            with ENGINE:
                return method(*args, **kwargs)
        except VastRerankerError as error:
            # the servicer prints format_exc(): without frames and module that is "Name: text"
            sys.tracebacklimit = 0
            rented = _rented_summary(args[0], current_urn.get()) if method.__name__ in ("create", "update") else ""
            text = f"{error}\n{rented}" if rented else str(error)
            raise type(type(error).__name__, (Exception,), {"__module__": "builtins"})(plain(text)) from None
        except Exception:
            sys.tracebacklimit = 100
            raise
        finally:
            current_urn.reset(token)

    return wrapped


def _rented_summary(provider: object, urn: str) -> str:
    """Return the rented instances of this stack, by their labels, with prices and next steps, for a failed deploy."""
    from components.vast.label import Label  # noqa: PLC0415 - the program's process never needs it

    stack, _, rest = urn.removeprefix("urn:pulumi:").partition("::")
    if not isinstance(provider, VastProvider) or not rest:
        return ""
    try:
        contracts = provider.session.instance_cache.contracts(max_age_s=5.0)
    except VastError:
        return ""
    base = f"{rest.partition('::')[0]}/{stack}/"
    rows = [
        f"instance {contract.id} (${contract.dph_total_usd:.4f}/h)"
        for contract in contracts.values()
        if (label := Label.parse(contract.label)) and label.base.startswith(base) and not label.pending
    ]
    steps = "fix the error above and run `pulumi up`, or destroy the stack with `pulumi destroy`"
    return f"still rented: {', '.join(rows)}; {steps}" if rows else ""


def check_failure(error: VastRerankerError) -> CheckFailure:
    """Return an error as failure of a check, in the form of other verbs: "Name: text"."""
    return CheckFailure("", plain(f"{type(error).__name__}: {error}"))


def is_known(value: Any) -> bool:
    """Whether a value is known at every depth: in a preview, outputs of resources to create are unknown."""
    if isinstance(value, Unknown):
        return False
    if isinstance(value, dict):
        return all(is_known(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(is_known(item) for item in value)
    return True


def drop_unknowns(value: Any) -> Any:
    """Return a value without the unknown entries of maps, at every depth; lists stay unchanged."""
    if isinstance(value, dict):
        return {key: item for key, raw in value.items() if is_known(item := drop_unknowns(raw))}
    return value
