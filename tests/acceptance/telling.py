"""An app that takes the webhooks of one system and tells another."""

import os
from datetime import timedelta

from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.agent.webhook_out import WebhookOut
from reflex.agent.webhooks import Webhook
from reflex.core.retry import RetryPolicy

Webhook("code", scheme="github", type="code.{event}", key="payload.repository.full_name")

Trigger(
    "tell",
    type_filter("code.*"),
    WebhookOut(os.environ["PARTNER_URL"] + "/secret-path", secret_env="PARTNER_SECRET"),
    retry=RetryPolicy(base=timedelta(milliseconds=10)),
)
