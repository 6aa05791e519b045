"""Answering those who wait, but for those who have given up meanwhile."""

from asyncio import Future
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ["fail", "fulfil"]

Result = TypeVar("Result")


def fulfil(futures: Iterable[Future[Result]], result: Result) -> None:
    for future in futures:
        if not future.done():
            future.set_result(result)


def fail(futures: Iterable[Future[Any]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
