"""Spans of time as they are typed: 90d, 12w, 2y, or a date."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import naive

DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}


def span(text: str, flag: str) -> timedelta:
    """A length of time such as 90d, 12w, 6m (of 30 days) or 2y.

    Raises:
        HistoryError: it is none.
    """
    match = re.fullmatch(r"(\d{1,4})\s*([dwmy])", text.strip().lower())
    if match is None:
        raise HistoryError(f"{flag} {text} is no length of time; type for example 90d, 12w, 6m or 2y")
    return timedelta(days=int(match[1]) * DAYS[match[2]])


def moment(text: str, flag: str, now: datetime) -> datetime:
    """A date such as 2026-01-31, or a length of time before now; UTC without a zone.

    Raises:
        HistoryError: it is neither.
    """
    if re.match(r"\d{4}-", text.strip()):
        try:
            return naive(datetime.fromisoformat(text.strip()))
        except (ValueError, OverflowError):
            raise HistoryError(f"{flag} {text} is no date; type for example 2026-01-31") from None
    try:
        return naive(now) - span(text, flag)
    except HistoryError:
        raise HistoryError(
            f"{flag} {text} is neither a date nor a length of time; type 2026-01-31 or 90d"
        ) from None
    except OverflowError:
        return datetime(1, 1, 1)
