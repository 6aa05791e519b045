"""/docs: the table of operations as one page that needs nothing else, neither a script nor another address."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from reflex.gateway.interface import Body, Operation, needed_key
from reflex.gateway.openapi import document, schema_of
from reflex.gateway.operations import OPERATIONS
from reflex.gateway.publishing_schema import COMPONENTS
from reflex.gateway.query import Parameter

__all__ = ["page", "routes"]

CODE: Final = re.compile(r"`([^`]+)`")
HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def page(url: str) -> str:
    """The page. `url` is where the gateway is, for the curl lines."""
    groups = [(name, list(operations)) for name, operations in groupby(OPERATIONS, lambda o: o.group)]
    links = "".join(
        f"<h2>{escape(name)}</h2><ul>{''.join(link(operation) for operation in operations)}</ul>"
        for name, operations in groups
    )
    sections = "".join(
        f"<h2 class=group>{escape(name)}</h2>{''.join(section(operation, url) for operation in operations)}"
        for name, operations in groups
    )
    template = files("reflex.gateway").joinpath("docs_page.html").read_text("utf-8")
    version = document()["info"]["version"]
    for name, text in {"version": escape(version), "links": links, "sections": sections}.items():
        template = template.replace(f"<!--{name}-->", text)
    return template


def link(operation: Operation) -> str:
    method = operation.method.lower()
    return (
        f"<li><a href='#{operation.name}'><b class='{method}'>{operation.method}</b> "
        f"<span>{breakable(operation.path)}</span></a></li>"
    )


def section(operation: Operation, url: str) -> str:
    method = f"<b class='{operation.method.lower()}'>{operation.method}</b>"
    parts = [
        f"<h3>{method} <code>{breakable(operation.path)}</code></h3>",
        f"<p class=summary>{prose(operation.summary)}</p>",
        f"<p>{prose(operation.description)}</p>" if operation.description else "",
        f"<p>{prose(needed_key(operation.scopes))}</p>" if operation.scopes else "",
    ]
    asked = [(parameter, "path") for parameter in [operation.place] if parameter]
    asked += [(parameter, "query") for parameter in operation.parameters]
    asked += [(parameter, "header") for parameter in operation.headers]
    if asked:
        parts.append(table("Parameters", (parameter_row(parameter, place) for parameter, place in asked)))
    if operation.body:
        parts.append(body_table(operation.body))
    if operation.curl:
        command = operation.curl.format(url=url)
        parts.append(f"<h4>Example</h4><pre><code>curl {escape(command)}</code></pre>")
    parts.append(answer_list(operation))
    return f"<section id='{operation.name}'>{''.join(parts)}</section>"


def table(title: str, rows: Iterable[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code><small>{escape(kind)}</small></th><td>{text}</td></tr>"
        for name, kind, text in rows
    )
    return f"<h4>{title}</h4><table>{cells}</table>"


def parameter_row(parameter: Parameter, place: str) -> tuple[str, str, str]:
    schema = schema_of(parameter)
    kind = {"text": "text", "moment": "time", "flag": "true or false", "integer": "number"}[parameter.kind]
    text = prose(parameter.description)
    if parameter.kind == "integer":
        text += f" 1 to {schema['maximum']:,}; {schema.get('default', 'none'):,} if not given."
    else:
        text += f" <span class=example>e.g. {escape(parameter.example)}</span>"
    return parameter.name, f"{place}, {kind}", text


def body_table(body: Body) -> str:
    if isinstance(body.schemas, tuple):
        return table("Body", (parameter_row(parameter, "field") for parameter in body.schemas))
    if "application/json" not in body.schemas:
        return f"<h4>Body</h4><p>{prose(body.description)}</p>"
    properties = cast("dict[str, dict[str, Any]]", COMPONENTS["NewEvent"]["properties"])
    required = cast("Sequence[str]", COMPONENTS["NewEvent"]["required"])
    rows = (
        (
            name,
            f"{kind_of(schema).removesuffix(' or null')}{', required' if name in required else ''}",
            field_text(schema),
        )
        for name, schema in properties.items()
    )
    return f"<h4>Body</h4><p>{prose(body.description)}</p>{table('', rows).removeprefix('<h4></h4>')}"


def field_text(schema: dict[str, Any]) -> str:
    text = prose(schema.get("description", ""))
    if "maxLength" in schema:
        text += f" At most {schema['maxLength']} characters."
    if schema.get("default"):
        text += f" <code>{escape(str(schema['default']))}</code> if not given."
    return text


def kind_of(schema: dict[str, Any]) -> str:
    """A word or two for what a schema allows."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        kinds = [kind_of(choice) for choice in schema["anyOf"]]
        return " or ".join(kind for kind in kinds if kind != "null") + (" or null" if "null" in kinds else "")
    if "enum" in schema or "const" in schema:
        return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema['items'])}"
    if schema.get("format") in ("date-time", "uuid"):
        return {"date-time": "time", "uuid": "uuid"}[schema["format"]]
    kind: str | list[str] = schema.get("type", "any")
    return kind if isinstance(kind, str) else next(word for word in kind if word != "null")


def answer_list(operation: Operation) -> str:
    rows = ""
    for answer in operation.answers:
        detail = fields(answer.row.__name__) if isinstance(answer.row, type) else ""
        if answer.example is not None:
            detail = example(answer.example) + detail
        verdict = "good" if answer.status < 300 else "bad"
        rows += f"<li><b class={verdict}>{answer.status}</b> <div>{prose(answer.description)}{detail}</div></li>"
    for status, when in sorted(operation.refusals.items()):
        if status not in (answer.status for answer in operation.answers):
            rows += f"<li><b class=bad>{int(status)}</b> <div>{prose(when)}</div></li>"
    return f"<h4>Answers</h4><ul class=answers>{rows}</ul>"


def example(answer: Any) -> str:
    text = json.dumps(answer, indent=2)
    shown = f"<pre><code>{escape(text)}</code></pre>"
    return shown if text.count("\n") < 12 else f"<details><summary>Example</summary>{shown}</details>"


@cache
def fields(name: str) -> str:
    """The fields of an answer, folded; those of rows inside it follow."""
    schemas: dict[str, Any] = document()["components"]["schemas"]
    shown: list[str] = []
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        if current in shown:
            continue
        shown.append(current)
        waiting += re.findall(r"#/components/schemas/(\w+)", str(schemas[current]))
    tables = "".join(
        f"<h5>{escape(each)}</h5><p>{prose(schemas[each].get('description', ''))}</p><dl>"
        + "".join(
            f"<div><dt>{escape(field)}</dt><dd>{escape(kind_of(schema))}</dd></div>"
            for field, schema in schemas[each]["properties"].items()
        )
        + "</dl>"
        for each in shown
    )
    return f"<details><summary>{escape(name)}</summary>{tables}</details>"


def prose(text: str) -> str:
    return CODE.sub(r"<code>\1</code>", escape(text))


def breakable(path: str) -> str:
    """A path that may be broken before a slash, where it is too long for its column."""
    return escape(path).replace("/", "<wbr>/").removeprefix("<wbr>")


async def docs(request: Request) -> Response:
    # The host is the client's own word. It ends up in lines that people paste into a shell.
    host = request.headers.get("host", "")
    url = f"{request.url.scheme}://{host if HOST.fullmatch(host) else 'localhost:8000'}"
    return HTMLResponse(page(url), headers=HEADERS)


routes: list[Route] = [Route("/docs", docs, methods=["GET"])]
