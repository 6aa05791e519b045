"""The description of the interface against the interface: its form, its routes, and real answers."""

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, ClassVar, cast
from uuid import uuid4

import httpx2
import jsonschema
import pytest
from jsonschema import Draft202012Validator
from psycopg import AsyncConnection
from starlette.routing import Route

from reflex.core.envelope import FIELDS
from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from reflex.gateway.docs_page import page
from reflex.gateway.openapi import document
from reflex.gateway.operations import OPERATIONS
from tests.gateway.gateways import post
from tests.gateway.stories import tell

METHODS = {"get", "post", "delete"}


def strict(schema: Any) -> Any:
    """The schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    parts = {name: strict(part) for name, part in cast("dict[str, Any]", schema).items()}
    # A payload or an output has a type and no properties: there anything goes.
    return {**parts, "additionalProperties": False} if "properties" in parts else parts


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    components = {"components": strict(document()["components"])}
    checker = jsonschema.FormatChecker()
    return Draft202012Validator({**strict(schema), **components}, format_checker=checker)


def schema_of(method: str, path: str, answer: httpx2.Response) -> Mapping[str, Any]:
    responses = document()["paths"][path][method.lower()]["responses"]
    documented = responses.get(str(answer.status_code))
    assert documented, f"{method} {path} answered {answer.status_code}, which is documented only as default"
    content = documented["content"]
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in content, f"{media_type} is not documented for {answer.status_code}"
    return content[media_type]["schema"]


def check(method: str, path: str, answer: httpx2.Response) -> None:
    validator(schema_of(method, path, answer)).validate(answer.json())


def test_the_document_says_exactly_what_the_app_has(settings: Settings) -> None:
    """Fails when a route is added without a description, or the other way round."""
    routes = {
        (method.lower(), route.path)
        for route in create_app(settings).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes


def test_the_document_is_a_sound_openapi_document() -> None:
    """No validator is at hand, so its rules are checked here: references, ids, path parameters, schemas, examples."""
    whole = document()
    assert re.fullmatch(r"3\.1\.\d+", whole["openapi"])
    assert {"title", "version"} <= whole["info"].keys()
    assert json.loads(json.dumps(whole)) == whole
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(whole)):
        found = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    names = [operation["operationId"] for methods in whole["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in whole["tags"]}
    for path, methods in whole["paths"].items():
        assert methods.keys() <= METHODS
        for operation in methods.values():
            assert set(operation["tags"]) <= tags
            parameters = operation.get("parameters", [])
            in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")
            keys = [(parameter["in"], parameter["name"]) for parameter in parameters]
            assert len(set(keys)) == len(keys)
            for parameter in parameters:
                Draft202012Validator.check_schema(parameter["schema"])
                Draft202012Validator(parameter["schema"]).validate(parameter["example"])
            assert "default" in operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[2345]\d\d|default", status)
                assert response["description"]
                for content in response["content"].values():
                    if "example" in content:
                        validator(content["schema"]).validate(content["example"])
    for schema in whole["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_real_answers_are_what_the_document_says(client: httpx2.AsyncClient, db: AsyncConnection[Any]) -> None:
    """No field more and none less. Fails when a row gets a field that its class does not declare, or a type changes."""
    story = await tell(db)
    nobody, letter = uuid4(), f"1-{uuid4()}"
    for path, templates in {
        "/events": ("/events", "/events?limit=1", "/events?limit=0"),
        "/events/{id}": tuple(f"/events/{id}" for id in (story.event_id, story.unrouted_id, nobody, f"{nobody}?x=1")),
        "/event-types": ("/event-types", "/event-types?x=1"),
        "/triggers": ("/triggers", "/triggers?x=1"),
        "/schedules": ("/schedules", "/schedules?x=1"),
        "/dead-letters": ("/dead-letters", "/dead-letters?limit=0"),
        "/dead-letters/{id}": (f"/dead-letters/{story.dead}", f"/dead-letters/{letter}", f"/dead-letters/{letter}?x=1"),
        "/health": ("/health",),
        "/health/ready": ("/health/ready", "/health/ready?x=1"),
        "/health/detailed": ("/health/detailed", "/health/detailed?x=1"),
        "/openapi.json": ("/openapi.json",),
        "/asyncapi.json": ("/asyncapi.json",),
    }.items():  # fmt: skip
        for address in templates:
            check("GET", path, await client.get(address))
    retry = "/dead-letters/{id}/retry"
    cross = {"sec-fetch-site": "cross-site"}
    check("POST", retry, await client.post(f"/dead-letters/{story.dead}/retry?x=1"))
    check("POST", retry, await client.post(f"/dead-letters/{story.dead}/retry", headers=cross))
    check("POST", retry, await client.post(f"/dead-letters/{story.dead}/retry"))
    check("POST", retry, await client.post(f"/dead-letters/{story.dead}/retry"))
    await db.execute("INSERT INTO reflex.dead_letter SELECT trigger_id, event_id, 1, 1, 'failed' FROM reflex.delivery")
    await db.execute("DELETE FROM reflex.delivery")
    check("POST", "/dead-letters/retry", await client.post("/dead-letters/retry", json={}))
    check("POST", "/dead-letters/retry", await client.post("/dead-letters/retry", json={"key": "\0"}))
    check("POST", "/dead-letters/retry", await client.post("/dead-letters/retry", json={"all": True, "limit": 1}))
    check("POST", "/dead-letters/retry", await client.post("/dead-letters/retry", content=b"x"))
    check("DELETE", "/dead-letters/{id}", await client.delete(f"/dead-letters/{story.dead}"))
    check("DELETE", "/dead-letters/{id}", await client.delete(f"/dead-letters/{story.dead}"))
    check("DELETE", "/dead-letters", await client.delete("/dead-letters"))
    check("DELETE", "/dead-letters", await client.delete("/dead-letters?all=true"))


async def test_what_is_answered_to_a_new_event_is_what_the_document_says(client: httpx2.AsyncClient) -> None:
    bodies: list[Any] = [
        {"type": "a"}, {"type": "a", "id": "1"}, {"type": "a", "id": "1"}, [{"type": "a"}], [{"type": "a", "id": "1"}],
        {"type": 3}, {"typ": "a"}, b"{", [{}, {}],
    ]  # fmt: skip
    for body in bodies:
        check("POST", "/events", await post(client, body))
    check("POST", "/events", await client.post("/events", content=b"x"))
    huge = b'{"type": "a", "payload": {"text": "' + b"x" * 5_000_000 + b'"}}'
    check("POST", "/events", await post(client, huge))


EVENTS: list[dict[str, Any]] = [
    {"type": "order.created"},
    {"type": "a-b_c.D1", "payload": {}, "source": "shop", "key": "A1", "correlation_id": "c"},
    {"type": "a", "time": "2026-01-31T09:00:00Z", "id": "x" * 200},
    {"type": "a", "key": None, "source": None, "delay": None, "time": None},
    {"type": "a", "delay": 5},
    {"type": "a", "delay": "PT15M"},
    {"type": "a", "available_at": "2026-01-31T09:00:00+02:00"},
    {},
    {"type": ""},
    {"type": "a b"},
    {"type": "a."},
    {"type": "reflex.dead_letter"},
    {"type": "a" * 201},
    {"type": None},
    {"type": "a", "payload": []},
    {"type": "a", "payload": None},
    {"type": "a", "source": ""},
    {"type": "a", "source": "x" * 201},
    {"type": "a", "key": 7},
    {"type": "a", "key": "x" * 513},
    {"type": "a", "delay": -1},
    {"type": "a", "delay": "soon"},
    {"type": "a", "delay": True},
    {"type": "a", "amount": 3},
]


async def test_the_documents_idea_of_an_event_is_the_gateways(client: httpx2.AsyncClient) -> None:
    """Fails when the check of the envelope and its description part ways."""
    schema = {"$ref": "#/components/schemas/NewEvent", "components": document()["components"]}
    described = {json.dumps(event): 202 if Draft202012Validator(schema).is_valid(event) else 422 for event in EVENTS}
    answered = {json.dumps(event): (await post(client, event)).status_code for event in EVENTS}
    assert answered == described
    assert set(answered.values()) == {202, 422}


def test_the_documents_event_has_the_envelopes_fields() -> None:
    assert document()["components"]["schemas"]["NewEvent"]["properties"].keys() == FIELDS


class Page(HTMLParser):
    """What a page refers to and whether its elements are closed."""

    VOID: ClassVar = {"meta", "link", "wbr", "br", "img", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "action"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Page:
    parsed = Page()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    return parsed


async def test_the_page_shows_every_operation_and_needs_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    """Fails with a script or style sheet from another address, or when an operation is left out."""
    answer = await client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    shown = read(answer.text)
    assert "script" not in shown.tags
    assert {operation.name for operation in OPERATIONS} <= set(shown.ids)
    assert len(set(shown.ids)) == len(shown.ids)
    for address in shown.addresses:
        assert address.startswith(("#", "data:", "/")), address
        if address.startswith("#"):
            assert address[1:] in shown.ids
        elif address.startswith("/"):
            assert (await client.get(address)).status_code == 200
    for operation in OPERATIONS:
        assert operation.path in shown.text
        assert all(parameter.name in shown.text for parameter in operation.parameters)
    assert "<!--" not in answer.text
    assert "url(" not in answer.text
    assert "@import" not in answer.text


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("reflex.example:8443", "http://reflex.example:8443/events"),
        ("[::1]:8000", "http://[::1]:8000/events"),
        ("$(reboot)", "http://localhost:8000/events"),
        ("<b>x</b>", "http://localhost:8000/events"),
    ],
)
async def test_the_lines_to_paste_name_the_gateway_and_nothing_that_a_shell_would_run(
    client: httpx2.AsyncClient, host: str, shown: str
) -> None:
    """Fails if the Host header goes into the page as it came."""
    text = (await client.get("/docs", headers={"host": host})).text
    assert f"curl {shown}" in text or f"curl -X POST {shown}" in text
    assert host in text or "localhost" in text
    assert "reboot" not in text
    assert "<b>x</b>" not in text


def test_the_example_lines_name_what_exists() -> None:
    """Each curl line asks for the path and only for parameters that its operation has."""
    for operation in OPERATIONS:
        line = operation.curl.format(url="http://gateway")
        address = re.search(r"http://gateway([^\s\"']*)", line)
        assert address, operation.name
        path, _, query = address[1].partition("?")
        pattern = re.sub(r"{\w+}", "[^/]+", operation.path)
        assert re.fullmatch(pattern, path), operation.name
        known = {parameter.name for parameter in operation.parameters}
        assert {part.partition("=")[0] for part in query.split("&") if part} <= known
    assert page("http://gateway").count("curl ") == len(OPERATIONS)
