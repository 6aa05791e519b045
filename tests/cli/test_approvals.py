"""`reflex approvals` as people type it."""

import asyncio
from collections.abc import Callable
from functools import partial

import click
import orjson
import pytest

from reflex.core.approvals import AlreadyDecided, DecisionRejected, DigestDiffers
from reflex.core.database import connect
from reflex.core.errors import NotFound
from reflex.core.pages import QueryRejected
from tests.approval_fixtures import Asked, ask

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    """A command of `reflex approvals`."""
    return partial(run, "approvals")


@pytest.fixture
def asked(database_url: str) -> Asked:
    async def asks() -> Asked:
        async with await connect(database_url, name="test") as conn:
            return await ask(conn, edits=True)

    return asyncio.run(asks())


def test_approvals_are_listed_shown_and_approved(run: Run, asked: Asked) -> None:
    """Fails if the arguments or the digest, on which a decision is made, are not shown."""
    id, digest = str(asked.row.id), asked.row.digest
    table = run("list")[0]
    for shown in (id, "refund", '{"cents":4200,"order":"A1"}', "pending"):
        assert shown in table
    shown = run("show", id)[0]
    for line in ("tool       refund", 'arguments  {"cents":4200,"order":"A1"}', f"digest     {digest}", "approve"):
        assert line in shown
    assert orjson.loads(run("show", id, "--json")[0])["digest"] == digest
    words = run("approve", id, "--digest", digest, "--arguments", '{"cents": 1}', "--by", "ann", "--reason", "fine")[0]
    assert words == f"{id} is approved: refund of trigger pack\n"
    assert "nothing waits" in run("list")[0]
    (row,) = orjson.loads(run("list", "--state", "decided", "--json")[0])["approvals"]
    assert (row["decided_by"], row["reason"], row["edited_arguments"]) == ("ann", "fine", {"cents": 1})
    assert 'made with  {"cents":1}' in run("show", id)[0]


def test_without_a_digest_the_call_is_shown_and_asked_for(
    run: Run, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a decision is made about what nobody has seen."""
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(click.Abort()))
    with pytest.raises(click.Abort):
        run("deny", str(asked.row.id))
    questions: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text, **_: questions.append(text))
    out, err = run("deny", str(asked.row.id), "--json")
    assert orjson.loads(out)["state"] == "denied"
    assert '{"cents":4200,"order":"A1"}' in err
    assert questions == ["Deny this call?"]
    with pytest.raises(AlreadyDecided, match="was denied already by"):
        run("approve", str(asked.row.id), "--digest", asked.row.digest)


def test_what_makes_no_sense_is_one_sentence(run: Run, asked: Asked) -> None:
    id, digest = str(asked.row.id), ("--digest", asked.row.digest)
    with pytest.raises(NotFound, match="no approval 'x'"):
        run("show", "x")
    with pytest.raises(DigestDiffers, match="look at it again"):
        run("approve", id, "--digest", "0" * 64)
    with pytest.raises(DecisionRejected, match="arguments: must be a JSON object"):
        run("approve", id, *digest, "--arguments", "[1]")
    with pytest.raises(QueryRejected, match="pending, decided or all"):
        run("list", "--state", "open")
