"""The description of the WebSocket: its form, by AsyncAPI's own parser, and that nothing is missing from it."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest
from jsonschema import Draft202012Validator

from reflex.core.cursors import Cursor
from reflex.core.log_reading import LoggedEvent
from reflex.gateway.asyncapi import STORED_EVENT, asyncapi_document
from reflex.gateway.live.closing import CLOSINGS, CloseCode
from reflex.gateway.live.frames import CLIENT_FRAMES, SERVER_FRAMES

# The first run on a machine downloads the parser.
pytestmark = pytest.mark.timeout(300)

SOURCES = Path(__file__).parent / "asyncapi"
TOOLS = Path(__file__).parents[2] / ".tools" / "asyncapi"


def parser() -> Path:
    """The folder of the parser, installed by its lock file where that has changed."""
    missing = [tool for tool in ("npm", "node") if not shutil.which(tool)]
    assert not missing, f"AsyncAPI's parser needs npm and node 20 or later; install {' and '.join(missing)}"
    lock = (SOURCES / "package-lock.json").read_bytes()
    installed = TOOLS / "installed.json"
    if not installed.exists() or installed.read_bytes() != lock:
        shutil.rmtree(TOOLS, ignore_errors=True)
        shutil.copytree(SOURCES, TOOLS)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True)
        assert done.returncode == 0, f"npm could not install the parser of AsyncAPI:\n{done.stderr[-2000:]}"
        installed.write_bytes(lock)
    shutil.copy(SOURCES / "check.mjs", TOOLS)
    return TOOLS


def complaints(document: dict[str, Any]) -> list[str]:
    """Errors and warnings; the third kind only advises."""
    text = json.dumps(document)
    done = subprocess.run(["node", "check.mjs"], cwd=parser(), input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = [each for each in json.loads(done.stdout)["diagnostics"] if each["severity"] < 2]
    return [f"{'.'.join(map(str, each['path']))}: {each['message']}" for each in found]


def test_the_official_parser_finds_nothing_wrong() -> None:
    """Fails with an action that AsyncAPI does not have, or a message that is not declared."""
    assert complaints(asyncapi_document()) == []


def test_the_official_parser_is_asked() -> None:
    """Fails when the check says yes to everything."""
    broken = json.loads(json.dumps(asyncapi_document()))
    broken["operations"]["publish"]["action"] = "publish"
    assert "operations.publish.action" in "\n".join(complaints(broken))


def test_every_example_fits_the_schema_of_its_frame() -> None:
    """Fails when an example has a field that the frame has not. The parser does not look at them."""
    document = asyncapi_document()
    for name, message in document["channels"]["ws"]["messages"].items():
        Draft202012Validator.check_schema(message["payload"])
        validator = Draft202012Validator({**message["payload"], "components": document["components"]})
        for example in message["examples"]:
            assert not [f"{name}: {error.message}" for error in validator.iter_errors(example["payload"])]


def test_every_frame_and_every_closing_code_is_described() -> None:
    """Fails when an operation leaves out frames that nothing answers with."""
    document = asyncapi_document()
    ops = {frame.op for frame in (*CLIENT_FRAMES, *SERVER_FRAMES)} | {"line"}
    assert document["channels"]["ws"]["messages"].keys() == ops
    used = {
        reference["$ref"].rpartition("/")[2]
        for operation in document["operations"].values()
        for reference in (*operation["messages"], *operation.get("reply", {}).get("messages", ()))
    }
    assert used == ops
    assert set(CLOSINGS) == set(CloseCode)
    assert document["x-closing-codes"].keys() == {str(int(code)) for code in CloseCode}


def test_the_guide_has_every_frame_and_every_closing_code() -> None:
    """Fails when a table of the guide is not that of the code."""
    guide = (Path(__file__).parents[2] / "docs/guides/websocket.md").read_text()
    rows = {"client frames": list[str](), "server frames": list[str](), "closing codes": list[str]()}
    for frame in CLIENT_FRAMES:
        members = ", ".join(f"**`{f.name}`**" if f.required else f"`{f.name}`" for f in frame.fields)
        answers = ", ".join(f"`{answer}`" for answer in frame.answers)
        rows["client frames"].append(f"| `{frame.op}` | {members} | {answers} | {frame.summary} |")
    for frame in SERVER_FRAMES:
        members = ", ".join(f"`{field.name}`" for field in frame.fields)
        rows["server frames"].append(f"| `{frame.op}` | {members} | {frame.summary} |")
    for code, said in CLOSINGS.items():
        rows["closing codes"].append(f"| {int(code)} | {said.meaning} | {said.advice} |")
    for name, expected in rows.items():
        table = guide.partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0]
        assert table.splitlines()[2:] == expected


def test_an_event_of_the_log_is_what_the_document_says() -> None:
    """Fails when the log's JSON gets a field that the description does not have."""
    now = datetime.now(UTC)
    event = LoggedEvent(Cursor(1, 1), uuid4(), "a", "b", None, now, "{}", None, None, 0, None, None, now, None)
    written = orjson.loads(event.json)
    assert written.keys() == STORED_EVENT["properties"].keys()
    Draft202012Validator({**STORED_EVENT, "additionalProperties": False}).validate(written)


async def test_the_gateway_answers_with_it(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/asyncapi.json")).json() == asyncapi_document()
    assert "/asyncapi.json" in (await client.get("/docs")).text
