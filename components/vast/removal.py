"""Destroying an instance for good, and seeing that it is gone. Used by `rental`, the Instance resource and ops."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.errors import ApiError, ApiUnreachable, DestroyFailed, MalformedAnswer
from components.vast.client import VastClient


def destroy_surely(
    client: VastClient,
    instance_id: int,
    *,
    verify_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Destroy an instance and see that it is gone; False when it was gone before. Raises DestroyFailed, with the id."""
    try:
        existed = client.destroy(instance_id)
        deadline = clock() + verify_s
        while client.instance(instance_id) is not None:
            if clock() >= deadline:
                raise ApiError(f"it is still there {verify_s:g} s after it was destroyed", status=200)
            sleep(1.0)
    except (ApiError, ApiUnreachable, MalformedAnswer) as error:
        raise DestroyFailed(
            f"instance {instance_id} could not be destroyed and MAY STILL BE BILLED: {error}; "
            f"remove it with `vastai destroy instance {instance_id}`",
            instance_id=instance_id,
        ) from None
    return existed
