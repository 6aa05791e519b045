"""The filter of a live reader, as clients write it."""

from collections.abc import Sequence
from typing import Final

from reflex.core.events import check_type_pattern
from reflex.core.log_filter import LogFilter
from reflex.core.pages import QueryRejected

__all__ = ["read_filter"]

MAX_VALUES: Final = 100


def read_filter(
    *,
    types: Sequence[str] = (),
    sources: Sequence[str] = (),
    key: str | None = None,
    correlation_id: str | None = None,
) -> LogFilter:
    """The filter. Order and repetition in `types` and `sources` mean nothing: clients that want the same share it.

    Raises:
        QueryRejected: A pattern is none, or there are too many values.
    """
    for name, values in (("type", types), ("source", sources)):
        if len(values) > MAX_VALUES:
            raise QueryRejected(f"has {len(values)} values; the limit is {MAX_VALUES}", field=name)
    for pattern in types:
        try:
            check_type_pattern(pattern)
        except TypeError as reason:
            raise QueryRejected(str(reason), field="type") from None
    return LogFilter(tuple(sorted(set(types))), tuple(sorted(set(sources))), key, correlation_id)
