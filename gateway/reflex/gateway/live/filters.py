"""The filter of a live reader, as clients write it."""

from collections.abc import Sequence

from reflex.core.errors import EventRejected
from reflex.core.events import check_type_pattern
from reflex.core.log_filter import LogFilter
from reflex.core.pages import QueryRejected

__all__ = ["read_filter"]

MAX_VALUES = 100


def read_filter(
    *,
    types: Sequence[str] = (),
    sources: Sequence[str] = (),
    key: str | None = None,
    correlation_id: str | None = None,
    field: str = "type",
    error: type[EventRejected] = QueryRejected,
) -> LogFilter:
    """The filter. Order and repetition in `types` and `sources` mean nothing: clients that want the same share it.

    Args:
        field: The name of `types` in the request, for `error`.

    Raises:
        EventRejected: Of the kind `error`, for a pattern that is none, or too many values.
    """
    for name, values in ((field, types), ("source", sources)):
        if len(values) > MAX_VALUES:
            raise error(f"has {len(values)} values; the limit is {MAX_VALUES}", field=name)
    for pattern in types:
        try:
            check_type_pattern(pattern)
        except TypeError as reason:
            raise error(str(reason), field=field) from None
    return LogFilter(tuple(sorted(set(types))), tuple(sorted(set(sources))), key, correlation_id)
