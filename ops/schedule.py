"""Which numbers of replicas a config allows at a time: its schedule's, else `replicas`. Pure; called by ops.scale."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

from components.config import Config, Day, Replicas, Window

DAYS = get_args(Day)


def allowed(config: Config, now: datetime) -> Replicas:
    """Return the numbers of the first window that `now`, with its zone, is in; outside of all `replicas`."""
    local = now.astimezone(ZoneInfo(config.schedule.time_zone))
    return next((one.replicas for one in config.schedule.windows if holds(one, local)), config.replicas)


def holds(window: Window, local: datetime) -> bool:
    """Whether a local time is in a window. One that ends no later than it starts ends on the next day."""
    start, end, now = time.fromisoformat(window.start), time.fromisoformat(window.to), local.time()
    today, yesterday = (DAYS[day.weekday()] in window.days for day in (local, local - timedelta(days=1)))
    if start < end:
        return today and start <= now < end
    return (today and now >= start) or (yesterday and now < end)
