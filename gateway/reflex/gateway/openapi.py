"""/openapi.json: the table of operations as an OpenAPI 3.1 document. Schemas come from the rows that are answered."""

import json
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.gateway.answers import json_answer
from reflex.gateway.interface import Answer, Body, Operation
from reflex.gateway.operations import OPERATIONS
from reflex.gateway.problems import MEDIA_TYPE
from reflex.gateway.publishing_schema import COMPONENTS
from reflex.gateway.query import Parameter

__all__ = ["API_KEY", "PROBLEM", "PlainSchema", "document", "routes", "schema_of"]

API_KEY: Final[dict[str, Any]] = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "rfx_<id>_<random>",
    "description": "An API key, as `reflex keys create` prints it; each operation names the scope that it needs. Only "
    "a gateway with `REFLEX_ACCESS=keys` asks for one.",
}

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What went wrong (RFC 9457). `code` is stable; `detail` is for people.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "retry_after_s": {"type": "integer", "description": "Of a limit: in so many seconds it opens."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "reason"],
                "properties": {
                    "field": {"type": "string", "description": "A JSON Pointer into the body, or a parameter's name."},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "string", "minLength": 1},
    "moment": {"type": "string", "minLength": 1},
    "flag": {"type": "boolean"},
}


class PlainSchema(GenerateJsonSchema):
    """Without a title for each field, which only repeats its name; and a field with a default is answered, too."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True


@cache
def document() -> dict[str, Any]:
    """The whole document; made once."""
    rows = {answer.row for operation in OPERATIONS for answer in operation.answers if isinstance(answer.row, type)}
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (row.__name__, "serialization", TypeAdapter(row)) for row in sorted(rows, key=lambda row: row.__name__)
    ]
    _, defined = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}", schema_generator=PlainSchema
    )
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reflex gateway",
            "version": version("reflex-fleet-gateway"),
            "description": "Takes events, and says what became of them.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": group} for group in dict.fromkeys(operation.group for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "securitySchemes": {"apiKey": API_KEY},
            "schemas": {**COMPONENTS, **defined.get("$defs", {}), "Problem": PROBLEM},
        },
    }


def describe(operation: Operation) -> dict[str, Any]:
    parameters = [describe_parameter(parameter, "query") for parameter in operation.parameters]
    parameters += [describe_parameter(parameter, "header") for parameter in operation.headers]
    if operation.place:
        parameters.insert(0, describe_parameter(operation.place, "path"))
    responses = {str(answer.status): describe_answer(answer) for answer in operation.answers}
    for status, when in sorted(operation.refusals.items()):
        responses[str(int(status))] = describe_problem(when, retry=status == HTTPStatus.SERVICE_UNAVAILABLE)
    responses["default"] = describe_problem("Anything else that goes wrong.", retry=False)
    described: dict[str, Any] = {"operationId": operation.name, "tags": [operation.group], "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = describe_body(operation.body)
    if operation.scopes:  # one of them is enough
        described["security"] = [{"apiKey": [scope.value]} for scope in operation.scopes]
    return {**described, "responses": responses}


def describe_parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": place,
        "required": place == "path",
        "description": parameter.description,
        "schema": schema_of(parameter),
        "example": json.loads(parameter.example) if parameter.kind in ("integer", "flag") else parameter.example,
    }


def schema_of(parameter: Parameter) -> dict[str, Any]:
    if parameter.kind == "integer":
        bounds = {"type": "integer", "minimum": 1, "maximum": parameter.most}
        return bounds if parameter.default is None else {**bounds, "default": parameter.default}
    return KINDS[parameter.kind]


def describe_body(body: Body) -> dict[str, Any]:
    schemas = body.schemas
    if isinstance(schemas, tuple):
        members = {p.name: {**schema_of(p), "description": p.description} for p in schemas}
        schemas = {"application/json": {"type": "object", "additionalProperties": False, "properties": members}}
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"required": True, "description": body.description, "content": content}


def describe_answer(answer: Answer) -> dict[str, Any]:
    content: dict[str, dict[str, Any]]
    match answer.row:
        case "html":
            content = {"text/html": {"schema": {"type": "string"}}}
        case "event-stream":
            content = {"text/event-stream": {"schema": {"type": "string"}}}
        case "metrics":
            text = {"schema": {"type": "string"}}
            content = {"text/plain": text, "application/openmetrics-text": text}
        case "openapi":
            content = {"application/json": {"schema": {"type": "object"}}}
        case type() as row:
            content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{row.__name__}"}}}
        case schema:
            content = {"application/json": {"schema": schema}}
    if answer.example is not None:
        content["application/json"]["example"] = answer.example
    content |= {media_type: {"schema": schema} for media_type, schema in answer.others.items()}
    return {"description": answer.description, "content": content}


def describe_problem(when: str, *, retry: bool) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": when,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if retry:
        wait = {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": wait}
    return response


async def openapi(_: Request) -> Response:
    return json_answer(document())


routes: list[Route] = [Route("/openapi.json", openapi, methods=["GET"])]
