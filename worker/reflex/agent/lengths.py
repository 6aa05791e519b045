"""Lengths of time that an author gives, as a timedelta or in seconds."""

import math
from datetime import timedelta

__all__ = ["length_of"]


def length_of(where: str, given: timedelta | float, *, most: timedelta) -> timedelta:
    """Raises TypeError or ValueError if it is none, or longer than `most`; the sentence begins with `where`."""
    if isinstance(given, timedelta):
        length = given
    elif not isinstance(given, int | float) or isinstance(given, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{where}: {given!r} is no length of time; pass a timedelta, or seconds")
    elif math.isnan(given):
        raise ValueError(f"{where}: not a number of seconds")
    else:
        length = timedelta(seconds=max(-1e9, min(given, 1e12)))
    if length > most:
        raise ValueError(f"{where}: longer than {most.days} days")
    return length
