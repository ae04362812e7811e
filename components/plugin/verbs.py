"""The bases of providers and resources, and the wrapper of each verb: session, width, clean errors, a row to write on.

A provider's class and module path are pickled into every state: they never move. Providers have an empty `__init__`;
what they need is made in `configure`, in the plugin process.
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
WIDTH = int(os.environ.get("RERANKER_PLUGIN_THREADS") or 128)


def widen() -> bool:
    """Raise the number of threads of the pool that runs the caller, found through the frame of its worker: the SDK's
    servicer has four, and a boot holds one for minutes. False where there is no such pool (another version)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_worker" and "executor_reference" in frame.f_locals:
            executor = frame.f_locals["executor_reference"]()
            if isinstance(executor, ThreadPoolExecutor):
                executor._max_workers = max(executor._max_workers, WIDTH)
                # what waits already would wait for the stock four: a thread is made when work comes, not afterwards
                for _ in range(executor._work_queue.qsize()):
                    executor._adjust_thread_count()
                return True
        frame = frame.f_back
    return False


class VastProvider(ResourceProvider):
    """A dynamic provider with the process's session behind it."""

    def configure(self, req: ConfigureRequest) -> None:
        """Open the session that the stack's config names, and let as many operations run as are asked for."""
        from components.plugin.session import open_session  # noqa: PLC0415 - the program's process never needs it

        ENGINE.handle_cancel()
        if ENGINE.address and not widen():
            ENGINE.warn("this Pulumi SDK runs four operations at a time; a wider stack boots in turns")
        self.session = open_session(req.config.get)


class VastResource(Resource):
    """A dynamic resource: its outputs are what its class annotates. `secret` names the inputs and outputs that are.

    The widest type and name on the screen leave that much less of the row to progress: types are short, without module.
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
        classes = [one for one in type(self).__mro__ if not issubclass(Resource, one)]  # without Pulumi's classes
        outputs = {output: None for one in classes for output in inspect.get_annotations(one)}
        super().__init__(provider, name, {**outputs, **inputs}, pulumi.ResourceOptions.merge(options, opts))


def verb(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a provider's verb: errors of ours become one line, real bugs keep their trace, messages find their row."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        request = sys._getframe(1).f_locals.get("request")
        token = current_urn.set(str(getattr(request, "urn", "")))
        try:
            with ENGINE:
                return method(*args, **kwargs)
        except VastRerankerError as error:
            # the servicer prints format_exc(): with no frames and no module what is left is "Name: text"
            sys.tracebacklimit = 0
            rented = still_rented(args[0], current_urn.get()) if method.__name__ in ("create", "update") else ""
            text = f"{error}\n{rented}" if rented else str(error)
            raise type(type(error).__name__, (Exception,), {"__module__": "builtins"})(plain(text)) from None
        except Exception:
            sys.tracebacklimit = 100
            raise
        finally:
            current_urn.reset(token)

    return wrapped


def still_rented(provider: object, urn: str) -> str:
    """Return what a deploy that failed leaves rented of this stack, by its labels, at which price, and the ways on."""
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
        f"instance {one.id} (${one.dph_total_usd:.4f}/h)"
        for one in contracts.values()
        if (label := Label.parse(one.label)) and label.base.startswith(base) and not label.pending
    ]
    ways = "mend what is said above and `pulumi up`, or end it with `pulumi destroy`"
    return f"still rented: {', '.join(rows)}; {ways}" if rows else ""


def check_failure(error: VastRerankerError) -> CheckFailure:
    """Return an error as what a check found, told as other verbs tell it: "Name: text"."""
    return CheckFailure("", plain(f"{type(error).__name__}: {error}"))


def is_known(value: Any) -> bool:
    """Whether a value, and all in it, is known: in a preview an input may be unknown until something is created."""
    if isinstance(value, Unknown):
        return False
    if isinstance(value, dict):
        return all(is_known(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(is_known(item) for item in value)
    return True


def drop_unknowns(value: Any) -> Any:
    """Return what is known of a value: maps without their unknown entries, at every depth; a list is known or not."""
    if isinstance(value, dict):
        kept = {key: drop_unknowns(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if is_known(item)}
    return value
