"""Webhooks as authors declare them."""

from datetime import timedelta
from typing import Any

import pytest

from reflex.agent.webhooks import Webhook, hmac_scheme
from reflex.core.errors import AppError
from reflex.core.webhook_signatures import SCHEMES, Scheme
from tests.agent.test_app import Write, load, write

__all__ = ["write"]


def test_webhooks_belong_to_the_app_and_are_told_to_the_gateways(write: Write) -> None:
    write("""
        from reflex.agent.webhooks import Webhook, hmac_scheme
        Webhook("github", scheme="github", type="github.{event}", key="payload.repository.full_name")
        Trigger("all", any_event(), act)
        Webhook("shop", scheme=hmac_scheme("X-Shop-Hmac", encoding="base64", id_path="payload.id"), type="shop.order")
    """)
    app = load()
    assert [webhook.name for webhook in app.webhooks] == ["github", "shop"]
    github, shop = app.manifest().webhooks
    assert (github.scheme, github.type, github.key) == (
        SCHEMES["github"],
        "github.{event}",
        "payload.repository.full_name",
    )
    assert (github.tolerance_s, shop.key) == (300, None)
    assert shop.scheme == Scheme("hmac", "x-shop-hmac", encoding="base64", id_path=("id",))
    assert repr(app.webhooks[0]) == "Webhook('github', github: github.{event})"


def test_two_of_one_name_are_refused(write: Write) -> None:
    write("""
        from reflex.agent.webhooks import Webhook
        Trigger("all", any_event(), act)
        Webhook("a", type="a")
        Webhook("a", type="b")
    """)
    with pytest.raises(AppError, match=r"has two webhooks named 'a', at .*shop_app.py:"):
        load()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": "a b"}, "cannot be the name of a webhook"),
        ({"type": "{event}"}, "webhook 'a': '{event}' has to begin with a word of its own"),
        ({"type": 3}, "webhook 'a': type is 3"),
        ({"type": "a.{payload}"}, "webhook 'a': 'payload' is no path"),
        ({"key": "repository"}, "webhook 'a': 'repository' is no path below the payload"),
        ({"scheme": "gitlab"}, "scheme is 'gitlab'; it must be one of 'standard', 'github', 'slack', 'stripe'"),
        ({"tolerance": 300}, "tolerance is 300; pass a timedelta"),
        ({"tolerance": timedelta(0)}, "tolerance is 0:00:00"),
        ({"tolerance": timedelta(days=2)}, "a day at most"),
    ],
)
def test_what_is_wrong_says_what_to_write(given: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {"name": "a", "type": "a.{event}", **given}
    with pytest.raises((TypeError, ValueError)) as wrong:
        Webhook(**arguments)
    assert sentence in str(wrong.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"algorithm": "md5"}, "'md5' in 'hex' is not known"), ({"encoding": "binary"}, "in 'binary' is not known"),
        ({"header": ""}, "'' is no header's name"), ({"time_header": "X Time"}, "'X Time' is no header's name"),
        ({"id_path": "id"}, "'id' is no path"),
    ],
)  # fmt: skip
def test_a_scheme_that_cannot_be_says_so(given: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {"header": "X-Signature", **given}
    with pytest.raises(ValueError, match=sentence):
        hmac_scheme(**arguments)
