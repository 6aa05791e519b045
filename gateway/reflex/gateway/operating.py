"""What requests of operators have in common: the id in the address, the JSON in the body, and that no page of another
site sent them."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar, cast

from starlette.requests import Request

from reflex.core.errors import EventRejected, NotFound
from reflex.core.pages import QueryRejected
from reflex.core.strict_json import MalformedJson, parse
from reflex.gateway.bodies import Bodies, MediaType, media_type
from reflex.gateway.problems import RequestRefused

__all__ = ["id_of", "read_json", "read_object", "refuse_cross_site"]

IdT = TypeVar("IdT")


def refuse_cross_site(request: Request) -> None:
    """A page of another site can make a visitor's browser send a POST without a body, without asking first."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "cross_site", "a page of another site may not change anything here")


def id_of(request: Request, parse_id: Callable[[str], IdT], *, what: str, example: str, shown: str) -> IdT:
    """The id in the address, in its one spelling.

    Args:
        parse_id: Raises ValueError if a text is none.
        what: What has such an id, `example` is one, and `shown` says where they are found.

    Raises:
        NotFound: It is no id.
    """
    text = request.path_params["id"]
    try:
        found = parse_id(text)
    except ValueError:
        found = None
    if found is None or str(found) != text.lower():
        raise NotFound(f"there is no {what} {text[:80]!r}: an id looks like {example}, as {shown}")
    return found


async def read_json(request: Request, refused: type[QueryRejected] | type[EventRejected]) -> object:
    """The JSON value in the body.

    Raises:
        QueryRejected: The content type is another one.
        MalformedJson: It is not JSON.
        EventRejected, QueryRejected: It is JSON that cannot be stored, as `refused` says it: the body is no event.
    """
    settings = request.app.state.settings
    headers = dict(request.scope["headers"])
    if media_type(headers) is not MediaType.JSON:
        raise QueryRejected("must be application/json", field="content-type")
    body = await Bodies(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s).read(
        headers, request.receive
    )
    try:
        return parse(body or b"", max_nesting=settings.max_nesting)
    except MalformedJson:
        raise
    except EventRejected as error:
        raise refused(error.reason, field=error.field) from None


async def read_object(request: Request, *, example: str) -> dict[str, object]:
    """The JSON object in the body. Raises as `read_json`, and QueryRejected with an example if it is no object."""
    value = await read_json(request, QueryRejected)
    if not isinstance(value, dict):
        raise QueryRejected(f"must be a JSON object, such as {example}", field="body")
    return cast("dict[str, object]", value)
