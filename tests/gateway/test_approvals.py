"""Approvals over HTTP: list, show, decide, and every way in which a decision is refused."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from tests.approval_fixtures import REFUND, Asked, ask
from tests.gateway.gateways import in_process, problem_of, settings_for
from tests.gateway.key_fixtures import bearer, new_key
from tests.gateway.test_openapi import check
from tests.queue_fixtures import count


@pytest.fixture
async def asked(db: AsyncConnection[Any]) -> Asked:
    return await ask(db)


def approving(asked: Asked, **more: Any) -> dict[str, Any]:
    return {"decision": "approve", "digest": asked.row.digest, **more}


async def state_of(client: httpx2.AsyncClient, asked: Asked) -> str:
    return (await client.get(f"/approvals/{asked.row.id}")).json()["state"]


async def test_an_approval_is_listed_shown_and_decided(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails if the decision, its event and the end of the wait are not one commit's."""
    page = (await client.get("/approvals?state=pending")).json()
    (listed,) = page["approvals"]
    assert page["next_cursor"] is None
    assert listed == (await client.get(f"/approvals/{asked.row.id}")).json()
    assert (listed["id"], listed["tool"], listed["arguments"], listed["state"]) == (
        str(asked.row.id), "refund", REFUND, "pending",
    )  # fmt: skip
    assert listed["delivery_id"] == str(asked.lease.delivery_id)
    answer = await client.post(f"/approvals/{asked.row.id}", json=approving(asked, reason="a regular", by="ann"))
    assert answer.status_code == 200
    decided = answer.json()
    assert (decided["state"], decided["decided_by"], decided["reason"]) == ("approved", "ann", "a regular")
    assert await count(db, "waiting") == 0
    assert await count(db, "delivery") == 1
    event = (await client.get("/events?type=approval.decided")).json()["events"][0]
    assert (event["payload"]["decision"], event["payload"]["approval_id"]) == ("approved", str(asked.row.id))
    assert event["causation_id"] == str(asked.lease.event_id)
    assert (await client.get("/approvals?state=pending")).json()["approvals"] == []
    assert (await client.get("/approvals?state=decided")).json()["approvals"] == [decided]


async def test_who_decides_second_is_told_of_the_first(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails if a decision is written over another one, or the answer leaves the first one out."""
    first = await client.post(f"/approvals/{asked.row.id}", json={**approving(asked), "decision": "deny", "by": "ann"})
    assert first.json()["state"] == "denied"
    second = await client.post(f"/approvals/{asked.row.id}", json=approving(asked, by="bob"))
    problem = problem_of(second)
    assert (second.status_code, problem["code"]) == (409, "already_decided")
    assert problem["approval"] == first.json()
    assert "denied already by ann" in problem["detail"]
    assert len((await client.get("/events?type=approval.decided")).json()["events"]) == 1
    assert await count(db, "delivery") == 1


async def test_of_many_who_decide_at_once_exactly_one_does(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails without `decided_at IS NULL` in the statement that decides."""
    bodies = [{**approving(asked), "decision": d, "by": f"{n}"} for n in range(4) for d in ("approve", "deny")]
    answers = await asyncio.gather(*(client.post(f"/approvals/{asked.row.id}", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert {problem_of(answer)["approval"]["decided_by"] for answer in answers if answer.status_code == 409} == {
        won["decided_by"]
    }
    assert len((await client.get("/events?type=approval.decided")).json()["events"]) == 1
    assert await count(db, "delivery") == 1


async def test_a_digest_of_another_call_changes_nothing(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails if the digest is only asked for, and not compared."""
    answer = await client.post(f"/approvals/{asked.row.id}", json=approving(asked, digest="0" * 64))
    assert (answer.status_code, problem_of(answer)["code"]) == (409, "digest_differs")
    assert await state_of(client, asked) == "pending"
    assert await count(db, "waiting") == 1


async def test_arguments_are_edited_only_where_the_trigger_allows_it(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails if `edits_allowed` is not looked at."""
    refused = await client.post(f"/approvals/{asked.row.id}", json=approving(asked, arguments={"cents": 1}))
    assert refused.status_code == 422
    (error,) = problem_of(refused)["errors"]
    assert error["field"] == "/arguments"
    assert "approval_edits" in error["reason"]
    assert await state_of(client, asked) == "pending"
    await db.execute("UPDATE reflex.approval SET edits_allowed = true")
    denied = await client.post(
        f"/approvals/{asked.row.id}", json=approving(asked, decision="deny", arguments={"cents": 1})
    )
    assert problem_of(denied)["errors"][0]["field"] == "/arguments"
    done = await client.post(f"/approvals/{asked.row.id}", json=approving(asked, arguments={"order": "A1", "cents": 1}))
    assert done.status_code == 200
    assert (done.json()["edited_arguments"], done.json()["arguments"]) == ({"order": "A1", "cents": 1}, REFUND)
    event = (await client.get("/events?type=approval.decided")).json()["events"][0]["payload"]
    assert (event["arguments"], event["edited"]) == ({"order": "A1", "cents": 1}, True)


async def test_what_has_expired_is_gone(client: httpx2.AsyncClient, db: AsyncConnection[Any]) -> None:
    """Fails without a look at `expires_at`: a call would be approved of which the run says that nobody did."""
    late = await ask(db, lasts=timedelta(seconds=-1))
    answer = await client.post(f"/approvals/{late.row.id}", json=approving(late))
    assert (answer.status_code, problem_of(answer)["code"]) == (410, "approval_over")
    assert await state_of(client, late) == "expired"
    assert (await client.get("/approvals?state=pending")).json()["approvals"] == []
    assert len((await client.get("/approvals?state=decided")).json()["approvals"]) == 1


async def test_what_no_run_waits_for_is_gone(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """Fails if a question outlives the journal that knows it: people would decide what nobody asks."""
    await db.execute("DELETE FROM reflex.step")
    assert await state_of(client, asked) == "void"
    assert (await client.get("/approvals?state=pending")).json()["approvals"] == []
    answer = await client.post(f"/approvals/{asked.row.id}", json=approving(asked))
    assert (answer.status_code, problem_of(answer)["code"]) == (410, "approval_over")


BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"{", 400, ""),
    (b"", 400, ""),
    (b"[]", 422, "body"),
    (b"{}", 422, "/decision"),
    (b'{"decision": "approve"}', 422, "/digest"),
    (b'{"decision": "yes", "digest": "x"}', 422, "/decision"),
    (b'{"decision": true, "digest": "x"}', 422, "/decision"),
    (b'{"decision": ["approve"], "digest": "x"}', 422, "/decision"),
    (b'{"decision": "approve", "digest": 7}', 422, "/digest"),
    (b'{"decision": "approve", "digest": ""}', 422, "/digest"),
    (b'{"decision": "approve", "digest": "x", "arguments": []}', 422, "/arguments"),
    (b'{"decision": "approve", "digest": "x", "arguments": "{}"}', 422, "/arguments"),
    (b'{"decision": "approve", "digest": "x", "reason": 3}', 422, "/reason"),
    (b'{"decision": "approve", "digest": "x", "reason": "a\\u0000b"}', 422, "/reason"),
    (b'{"decision": "approve", "digest": "x", "reason": "' + b"r" * 2001 + b'"}', 422, "/reason"),
    (b'{"decision": "approve", "digest": "x", "by": []}', 422, "/by"),
    (b'{"decision": "approve", "digest": "x", "by": "' + b"b" * 201 + b'"}', 422, "/by"),
    (b'{"decision": "approve", "digest": "x", "force": true}', 422, "/force"),
]


async def test_a_bad_decision_is_refused_by_name_and_changes_nothing(client: httpx2.AsyncClient, asked: Asked) -> None:
    """Fails with any one check of the body removed."""
    for body, status, field in BAD_BODIES:
        answer = await client.post(
            f"/approvals/{asked.row.id}", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == status, body
        assert problem_of(answer)["errors"][0]["field"] == field, body
    assert await state_of(client, asked) == "pending"


async def test_a_decision_has_to_be_json_of_this_site(client: httpx2.AsyncClient, asked: Asked) -> None:
    """Fails without either look: a form of another page could decide through a visitor's browser."""
    path = f"/approvals/{asked.row.id}"
    text = await client.post(path, content=b"{}", headers={"content-type": "text/plain"})
    assert text.status_code == 415
    cross = await client.post(path, json=approving(asked), headers={"sec-fetch-site": "cross-site"})
    assert (cross.status_code, problem_of(cross)["code"]) == (403, "cross_site")
    assert await state_of(client, asked) == "pending"


async def test_an_id_that_no_approval_has_is_a_404(client: httpx2.AsyncClient) -> None:
    for id in ("nonsense", str(uuid4()), f"{{{uuid4()}}}", uuid4().hex, "1"):
        decision = {"decision": "deny", "digest": "x"}
        for answer in (await client.get(f"/approvals/{id}"), await client.post(f"/approvals/{id}", json=decision)):
            assert (answer.status_code, problem_of(answer)["code"]) == (404, "not_found"), id


async def test_pages_of_approvals_follow_one_another(client: httpx2.AsyncClient, db: AsyncConnection[Any]) -> None:
    """Fails if the cursor is not handed on."""
    ids = [str((await ask(db)).row.id) for _ in range(3)]
    first = (await client.get("/approvals?limit=2&trigger=pack")).json()
    second = (await client.get("/approvals", params={"limit": "2", "cursor": first["next_cursor"]})).json()
    assert [row["id"] for row in (*first["approvals"], *second["approvals"])] == ids[::-1]
    assert second["next_cursor"] is None
    assert (await client.get("/approvals?trigger=other")).json()["approvals"] == []
    for query, field in (("state=open", "state"), ("cursor=x", "cursor"), ("limit=0", "limit"), ("tool=x", "tool")):
        answer = await client.get(f"/approvals?{query}")
        assert (answer.status_code, problem_of(answer)["errors"][0]["field"]) == (400, field)


async def test_deciding_needs_a_key_that_may_operate(settings: Settings, db: AsyncConnection[Any]) -> None:
    """Fails with another scope in the table of operations. The key that decided is kept beside the name it gave."""
    asked = await ask(db)
    assert settings.database_url
    async with in_process(create_app(settings_for(settings.database_url, access="keys"))) as client:
        path = f"/approvals/{asked.row.id}"
        reads, operates = await new_key(db, "read"), await new_key(db, "operate")
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=bearer(reads))).status_code == 200
        refused = await client.post(path, json=approving(asked), headers=bearer(reads))
        assert (refused.status_code, problem_of(refused)["code"]) == (403, "scope_missing")
        done = await client.post(path, json=approving(asked, by="ann"), headers=bearer(operates))
        assert done.json()["decided_by"] == f"ann (key {operates[4:12]})"


async def test_real_answers_are_what_the_document_says(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], asked: Asked
) -> None:
    """No field more and none less, and every status is documented."""
    path = f"/approvals/{asked.row.id}"
    late = await ask(db, lasts=timedelta(seconds=-1))
    for address in ("/approvals", "/approvals?state=x"):
        check("GET", "/approvals", await client.get(address))
    for address in (path, f"{path}?x=1", f"/approvals/{uuid4()}"):
        check("GET", "/approvals/{id}", await client.get(address))
    bodies = [[], {}, approving(asked, digest="x"), approving(asked), approving(asked)]
    answers = [await client.post(path, json=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [422, 422, 409, 200, 409]
    answers.append(await client.post(f"/approvals/{late.row.id}", json=approving(late)))
    answers.append(await client.post(path, content=b"x", headers={"content-type": "text/plain"}))
    answers.append(await client.post(path, content=b"x", headers={"content-type": "application/json"}))
    for answer in answers:
        if answer.status_code == 409 and "approval" in answer.json():
            continue  # a problem with one member more
        check("POST", "/approvals/{id}", answer)
