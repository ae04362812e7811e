"""The allowed range of replicas at a given time, from a config's schedule. Pure; called by ops.scale."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

from components.config import Config, Day, Replicas, Window

DAYS = get_args(Day)


def allowed(config: Config, now: datetime) -> Replicas:
    """Return the range of the first window that contains `now` (with time zone), else the config's `replicas`."""
    local = now.astimezone(ZoneInfo(config.schedule.time_zone))
    return next((window.replicas for window in config.schedule.windows if _contains(window, local)), config.replicas)


def _contains(window: Window, local: datetime) -> bool:
    """Whether a window contains a local time. A window with `to` at or before `start` ends on the next day."""
    start, end, now = time.fromisoformat(window.start), time.fromisoformat(window.to), local.time()
    today, yesterday = (DAYS[day.weekday()] in window.days for day in (local, local - timedelta(days=1)))
    if start < end:
        return today and start <= now < end
    return (today and now >= start) or (yesterday and now < end)
