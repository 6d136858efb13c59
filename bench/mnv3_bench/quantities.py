"""Durations and sizes as people type them."""

from __future__ import annotations

import re

from mnv3_bench.errors import UsageError

LONGEST, LARGEST = 10 * 365 * 86400.0, 10**15
"""Seconds and bytes that anybody can mean; what is waited with and what limits processes has an end, too."""
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def seconds(given: str | float, flag: str) -> float:
    """A duration such as 90, '90s', '4m' or '1h', in seconds.

    Raises:
        UsageError: it is none, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", str(given))
    value = float(match[1]) * _SECONDS[match[2] or ""] if match else 0.0
    if not value > 0:
        raise UsageError(f"{flag} {given} is not a duration; type for example {flag} 4m or {flag} 90s")
    if value > LONGEST:
        raise UsageError(
            f"{flag} {str(given)[:20]} is more than ten years; type for example {flag} 4m or {flag} 90s"
        )
    return value


def size(given: str | int, flag: str) -> int:
    """A size such as 2GB or 512MiB, in bytes.

    Raises:
        UsageError: it is none, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b)?\s*", str(given), re.IGNORECASE)
    unit = (match[2] or "").upper() if match else ""
    if match is None or unit not in _BYTES or float(match[1]) <= 0:
        raise UsageError(f"{flag} {given} is not a size; type for example {flag} 2GB")
    if float(match[1]) * _BYTES[unit] > LARGEST:
        raise UsageError(f"{flag} {str(given)[:20]} is more than a petabyte; type for example {flag} 2GB")
    return int(float(match[1]) * _BYTES[unit])
