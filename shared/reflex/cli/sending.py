"""`reflex send`: one event over HTTP, the way any client would."""

import sys
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from pydantic import SecretStr

from reflex.core.api_keys import key_id_of
from reflex.core.errors import ConfigurationError, EventRejected, ReflexError

__all__ = ["authorization", "explain", "send_event"]

ANSWER_S: Final = 30.0


def send_event(
    gateway: str,
    fields: dict[str, Any],
    payload: str,
    *,
    api_key: SecretStr | None = None,
    wait_s: float | None = None,
    as_json: bool,
) -> None:
    """Send, and print the id or what was wrong. With `wait_s`, print what its deliveries came to, too.

    Raises:
        ConfigurationError: The API key is none.
        ReflexError: The gateway is not there, or refuses the event.
    """
    import httpx2

    if payload == "-":
        payload = sys.stdin.read()
    elif payload.startswith("@"):
        try:
            payload = Path(payload[1:]).read_text("utf-8")
        except OSError as error:
            raise EventRejected(f"cannot read {payload[1:]!r}: {error.strerror}", field="payload") from None
    try:
        decoded: object = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise EventRejected(f"not JSON: {error}", field="payload") from None
    body = {name: value for name, value in fields.items() if value is not None} | {"payload": decoded}
    try:
        answer = httpx2.post(
            f"{gateway.rstrip('/')}/events",
            params={} if wait_s is None else {"wait": f"{wait_s:g}"},
            json=body,
            headers=authorization(api_key),
            timeout=ANSWER_S + (wait_s or 0),
        )
    except httpx2.HTTPError as error:
        raise ReflexError(f"no gateway answers at {gateway}: {error or type(error).__name__}") from None
    if answer.status_code not in (200, 202):
        raise ReflexError(f"the gateway refuses the event ({answer.status_code}): {explain(answer.content)}")
    accepted = answer.json()
    if as_json:
        typer.echo(answer.text)
    elif accepted.get("duplicate"):
        typer.echo(f"{accepted['id']} (was there already)")
    else:
        typer.echo(accepted["id"])
    if wait_s is not None and not as_json:
        say_outcome(accepted, wait_s)


def say_outcome(answer: dict[str, Any], wait_s: float) -> None:
    """One line a delivery."""
    if "deliveries" not in answer:
        typer.echo(f"not settled within {wait_s:g} s; see GET {answer['see']}")
    elif not answer["deliveries"]:
        typer.echo("no trigger matches it")
    for delivery in answer.get("deliveries", ()):
        said = delivery["error"] if delivery["output"] is None else orjson.dumps(delivery["output"]).decode()
        typer.echo(f"{delivery['trigger']}  {delivery['state']}" + (f"  {said}" if said else ""))


def explain(content: bytes) -> str:
    """The detail of a problem document, with the fields it names."""
    try:
        problem = orjson.loads(content)
        errors = problem.get("errors", [])
        # Of a single error the detail says the same.
        fields = [f"{error['field']}: {error['reason']}" for error in errors] if len(errors) > 1 else []
        return "; ".join([problem.get("detail") or problem["title"], *fields])
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        return content[:200].decode("utf-8", "replace")


def authorization(api_key: SecretStr | None) -> dict[str, str]:
    """The header that a gateway wants.

    Raises:
        ConfigurationError: It is no API key. The sentence does not repeat it: most of it may be a secret.
    """
    if api_key is None:
        return {}
    secret = api_key.get_secret_value().strip()
    if key_id_of(secret) is None:
        raise ConfigurationError(
            "REFLEX_API_KEY is no API key; one is rfx_ and 41 characters more, as `reflex keys create` prints it"
        )
    return {"authorization": f"Bearer {secret}"}
