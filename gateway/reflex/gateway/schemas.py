"""What payloads must look like: the JSON Schemas that apps registered, compiled, and kept up with the database.

A type is known if an app registered it, or if the pattern of some trigger matches it (a trigger on '*' makes every
type known). What becomes of an event of an unknown type is REFLEX_UNKNOWN_TYPES.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, Self

import jsonschema_rs
import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.database import connect, describe
from reflex.core.errors import DatabaseUnavailable, EventRejected
from reflex.core.events import candidate_patterns
from reflex.core.listening import listen_to, notified
from reflex.core.registration import REGISTRY_CHANNEL, payload_schemas
from reflex.core.strict_json import pointer
from reflex.gateway.problems import BatchRejected

__all__ = ["PayloadRejected", "PayloadSchemas", "UnknownType"]

MAX_ERRORS: Final = 10
POLL_INTERVAL_S: Final = 5.0
RECONNECT_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PayloadRejected(EventRejected):
    """The payload breaks the schema of its type."""

    code = "payload_rejected"


class UnknownType(EventRejected):
    """The type is unknown, and this gateway takes known types only."""

    code = "unknown_type"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The schemas of one type as they were read, and a validator for each that compiles."""

    schemas: list[dict[str, Any]]
    validators: tuple[jsonschema_rs.Validator, ...]


class PayloadSchemas:
    """The schemas of all types. Use as `async with`: it then follows the database."""

    def __init__(self, database_url: str | None, *, unknown_types: Literal["accept", "reject"] = "accept") -> None:
        """`database_url` None: there are no schemas, and every type is taken."""
        self._url = database_url
        self._unknown_types = unknown_types if database_url else "accept"
        self._types: Mapping[str, Compiled] = {}
        self._patterns: frozenset[str] = frozenset()
        self._following: asyncio.Task[None] | None = None
        self._loaded = False
        self._tried = asyncio.Event()

    def knows(self, type: str) -> bool:
        """Whether an app has registered the type."""
        return type in self._types

    def check(self, type: str, payload: dict[str, Any], *, at: str = "") -> None:
        """Whether an event may be taken in.

        Args:
            at: Where it is in the request, as a JSON Pointer.

        Raises:
            PayloadRejected: No schema of its type accepts the payload. BatchRejected if there are several reasons.
            UnknownType: Nothing knows the type.
            DatabaseUnavailable: The schemas could not be read since this process started.
        """
        compiled = self._types.get(type)
        if compiled is None:
            if self._url and not self._loaded:
                raise DatabaseUnavailable("the schemas could not be read from the database yet; nothing was stored")
            if self._unknown_types == "reject" and self._patterns.isdisjoint(candidate_patterns(type)):
                raise UnknownType(
                    f"{type!r} is unknown: no app registered it and no trigger's pattern matches it. "
                    "GET /event-types lists what is known; REFLEX_UNKNOWN_TYPES=accept takes any",
                    field=f"{at}/type",
                )
            return
        for validator in compiled.validators:
            if validator.is_valid(payload):
                return
        # A type with a schema that does not compile counts as one without: better unchecked than lost.
        if compiled.validators:
            reasons = min((explain(validator, payload, at) for validator in compiled.validators), key=len)
            raise reasons[0] if len(reasons) == 1 else BatchRejected(reasons)

    async def load(self, conn: AsyncConnection[Any]) -> None:
        """Read the registry. What did not change is not compiled again."""
        found = await payload_schemas(conn)
        self._types = {type: self._compiled(type, schemas) for type, schemas in found.items()}
        if self._unknown_types == "reject":
            cursor = await conn.execute("SELECT DISTINCT pattern FROM reflex.route")
            self._patterns = frozenset([pattern for (pattern,) in await cursor.fetchall()])
        self._loaded = True
        self._tried.set()

    async def wait_for_first_load(self, timeout_s: float) -> None:
        """Return when the schemas were read, or could not be, or when it takes too long."""
        if self._following is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), timeout_s)

    async def __aenter__(self) -> Self:
        if self._url is not None:
            self._following = asyncio.create_task(self._follow(self._url))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            # On a path that went dead it takes psycopg ten seconds to give up; nothing depends on it any more.
            await asyncio.wait([self._following], timeout=CLOSE_TIMEOUT_S)

    async def _follow(self, url: str) -> None:
        """Read again whenever an app registers: told by NOTIFY, and by looking where NOTIFY does not reach.

        The last schemas stay in force while the database is away.
        """
        reachable = True
        while True:
            try:
                async with await connect(url, name="reflex gateway: schemas") as conn:
                    # Listening first: what is registered between the two is then announced or read, or both.
                    with contextlib.suppress(psycopg.NotSupportedError):
                        await listen_to(conn, [REGISTRY_CHANNEL])
                    while True:
                        await self.load(conn)
                        reachable = True
                        await notified(conn, within_s=POLL_INTERVAL_S)
            except (psycopg.Error, OSError) as error:
                if reachable:
                    log.warning("cannot read the schemas, trying again", database=describe(url), error=str(error))
                reachable = False
            except Exception:
                log.exception("reading the schemas failed, trying again")
            self._tried.set()
            await asyncio.sleep(RECONNECT_S)

    def _compiled(self, type: str, schemas: list[dict[str, Any]]) -> Compiled:
        known = self._types.get(type)
        if known is not None and known.schemas == schemas:
            return known
        try:
            return Compiled(schemas, tuple(compile_schema(schema) for schema in schemas))
        except Exception as error:  # noqa: BLE001 - the compiler is not ours; one schema must not stop the others
            reason = str(error).partition("\n")[0]
            log.error("a registered schema does not compile, payloads go unchecked", type=type, reason=reason)
            return Compiled(schemas, ())


def compile_schema(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A validator that opens no file and no connection (`$ref`), and matches patterns in linear time.

    Raises:
        ValueError: The schema is invalid, or needs what is ruled out here.
    """
    return jsonschema_rs.validator_for(
        schema,
        validate_formats=True,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
        mask="[hidden]",  # error messages go into logs of clients; values stay out
    )


def explain(validator: jsonschema_rs.Validator, payload: dict[str, Any], at: str) -> Sequence[EventRejected]:
    """The first few things that are wrong with a payload."""
    reasons: list[EventRejected] = []
    for error in islice(validator.iter_errors(payload), MAX_ERRORS):
        path = f"{at}/payload"
        for part in error.instance_path:
            path = pointer(path, part)
        reasons.append(PayloadRejected(error.message.replace("[hidden]", "the value"), field=path))
    return reasons
