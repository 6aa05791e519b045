"""`reflex cancel`: end one delivery."""

import typer

from reflex.cli.connecting import connected, database_url
from reflex.cli.tables import print_json
from reflex.core.cancelling import cancel_delivery
from reflex.core.errors import EventRejected
from reflex.core.ids import DeliveryId
from reflex.core.settings import Settings

__all__ = ["cancel_one"]


async def cancel_one(settings: Settings, id: str, *, reason: str | None, as_json: bool) -> None:
    """Cancel it, and say what becomes of it.

    Raises:
        EventRejected: The id cannot be one.
        NotFound: There is no such delivery.
        NotCancellable: It has ended, or is being cancelled already.
        DatabaseUnavailable, ConfigurationError: As `connected`.
    """
    try:
        delivery_id = DeliveryId.parse(id)
    except ValueError as error:
        raise EventRejected(str(error), field="delivery") from None
    if reason is not None and "\0" in reason:
        raise EventRejected("contains a NUL character", field="reason")
    async with connected(database_url(settings), name="reflex cancel") as conn:
        state = await cancel_delivery(conn, delivery_id, reason=reason)
    if as_json:
        print_json({"id": str(delivery_id), "event_id": delivery_id.event_id, "state": state})
    elif state == "cancelled":
        typer.echo(f"{delivery_id} is cancelled")
    else:
        typer.echo(f"{delivery_id} runs; its worker stops it now")
