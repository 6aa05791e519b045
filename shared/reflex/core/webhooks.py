"""The webhooks that apps have declared: where gateways find them. Secrets are not here, but in the gateways'
environment: `REFLEX_WEBHOOK_<NAME>_SECRET`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import structlog
from psycopg import AsyncConnection

from reflex.core.reads import fetch
from reflex.core.statements import statement
from reflex.core.webhook_signatures import SCHEMES, Scheme

__all__ = ["WebhookDefinition", "WebhookRow", "forget_webhook", "list_webhooks", "register_webhooks", "secret_variable",
           "secrets_in"]  # fmt: skip

SEPARATORS: Final = re.compile(r"[\s,]+")

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.webhooks")


@dataclass(frozen=True, slots=True)
class WebhookDefinition:
    """What `POST /webhooks/<name>` takes, and which events it makes of it."""

    name: str
    scheme: Scheme
    type: str
    key: str | None = None
    tolerance_s: float = 300

    def to_json(self) -> str:
        # A scheme of ours goes by its name, so that a newer gateway may know better what it is.
        scheme = self.scheme.name if self.scheme == SCHEMES.get(self.scheme.name) else asdict(self.scheme)
        said = {"scheme": scheme, "type": self.type, "key": self.key, "tolerance_s": self.tolerance_s}
        return orjson.dumps(said).decode()


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """A webhook as the database has it."""

    definition: WebhookDefinition
    app: str
    registered_at: datetime


async def register_webhooks(conn: AsyncConnection[Any], app_id: int, definitions: Sequence[WebhookDefinition]) -> None:
    """Add or update an app's webhooks. A name is an address, and there is one of each: the app that registers it last
    has it. None is removed, for old and new code may run side by side."""
    if not definitions:
        return
    cursor = await conn.execute(
        statement("register_webhooks"),
        {
            "app_id": app_id,
            "name": [definition.name for definition in definitions],
            "definition": [definition.to_json() for definition in definitions],
        },
    )
    for name, before in await cursor.fetchall():
        if before is not None:
            log.warning("a webhook was another app's before", webhook=name, app_before=before)


async def list_webhooks(conn: AsyncConnection[Any]) -> list[WebhookRow]:
    """All of them, by name."""
    found: list[WebhookRow] = []
    for row in await fetch(conn, "list_webhooks", {}):
        try:
            found.append(WebhookRow(definition(row["name"], row["definition"]), row["app"], row["registered_at"]))
        except (KeyError, TypeError):
            log.warning(
                "a webhook was declared by a newer Reflex than this, and is not known here", webhook=row["name"]
            )
    return found


async def forget_webhook(conn: AsyncConnection[Any], name: str) -> bool:
    """Remove one; whether there was one. An app that still declares it adds it again when a worker starts."""
    cursor = await conn.execute(statement("forget_webhook"), {"name": name})
    return cursor.rowcount > 0


def definition(name: str, stored: Mapping[str, Any]) -> WebhookDefinition:
    said: Any = stored["scheme"]
    if isinstance(said, str):
        scheme = SCHEMES[said]
    else:
        paths: dict[str, Any] = {"id_path": (*said["id_path"],), "event_paths": (*map(tuple, said["event_paths"]),)}
        scheme = Scheme(**{**said, **paths})
    return WebhookDefinition(name, scheme, stored["type"], stored["key"], stored["tolerance_s"])


def secret_variable(name: str) -> str:
    """The variable that holds a webhook's secret."""
    return f"REFLEX_WEBHOOK_{re.sub('[^A-Z0-9]', '_', name.upper())}_SECRET"


def secrets_in(environment: Mapping[str, str], name: str) -> list[str]:
    """The secrets of a variable: several, with commas or blanks between, while one takes the place of another."""
    return [secret for secret in SEPARATORS.split(environment.get(name, "")) if secret]
