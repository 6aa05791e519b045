"""Settings: every environment variable that Reflex reads, with its default. `.env` in the working folder counts too.

Importing pydantic-settings takes longer than the rest of the command line together: import this module late.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import load_dotenv
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from reflex.core.durations import parse_duration
from reflex.core.errors import ConfigurationError

__all__ = ["Settings", "load_settings"]


def duration(text: Any) -> Any:
    length = parse_duration(text) if isinstance(text, str) else text
    if not length:
        raise PydanticCustomError(
            "duration", "write a length of time such as 12h or 30d; leave it out to keep everything"
        )
    return length


Duration = Annotated[timedelta, BeforeValidator(duration)]


class Settings(BaseSettings):
    """One object for all commands; each reads what it needs. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="REFLEX_", extra="ignore", frozen=True)

    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    # PostgreSQL itself, where DATABASE_URL is a connection pooler: to listen, and to migrate
    direct_url: str | None = None
    default_model: str | None = Field(default=None, validation_alias="DEFAULT_MODEL")
    app: str | None = None
    data_dir: Path = Path(".reflex")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # who may use the gateway, and what `reflex send` and `reflex tail` show it
    access: Literal["open", "keys", "open-to-all"] = "open"
    api_key: SecretStr | None = None
    unknown_types: Literal["accept", "reject"] = "accept"
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_payload_bytes: int = Field(default=1024 * 1024, ge=1024)
    max_batch: int = Field(default=1000, ge=1, le=10_000)
    max_nesting: int = Field(default=64, ge=2, le=150)
    max_buffered_events: int = Field(default=10_000, ge=1)
    body_timeout_s: float = Field(default=15, gt=0)
    gateway_pool_size: int = Field(default=4, ge=3)

    # Live readers: what may wait for one client before it counts as too slow, and how long a request may wait.
    live_buffer_events: int = Field(default=1000, ge=10)
    live_buffer_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    live_heartbeat_s: float = Field(default=15, gt=0)
    max_wait_s: float = Field(default=60, gt=0)
    # the WebSocket
    allowed_origins: str = ""
    ws_max_connections: int = Field(default=20_000, ge=1)
    ws_max_per_address: int = Field(default=1000, ge=1)
    ws_max_subscriptions: int = Field(default=100, ge=1, le=10_000)
    ws_max_in_flight: int = Field(default=64, ge=1, le=10_000)
    ws_idle_s: float | None = Field(default=None, gt=0)
    ws_ping_s: float = Field(default=20, gt=0)

    concurrency: int = Field(default=100, ge=1, le=10_000)
    processes: int = Field(default=1, ge=1, le=256)
    lease_timeout_s: float = Field(default=10, ge=1)
    poll_interval_s: float = Field(default=2, gt=0)
    drain_grace_s: float = Field(default=30, ge=0)
    max_depth: int = Field(default=16, ge=1, le=1000)
    max_output_bytes: int = Field(default=256 * 1024, ge=1024)
    max_state_bytes: int = Field(default=256 * 1024, ge=1024)
    max_memory_bytes: int = Field(default=1024 * 1024, ge=1024)
    # PostgreSQL takes no value of more than 1 GiB
    max_step_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_published: int = Field(default=1000, ge=1)
    keep: Duration | None = None
    # whether webhooks go to addresses of networks that are not the public internet
    webhook_private: bool = False
    # A model request that takes longer has failed; a model that fails so many times in a row is not asked for a while.
    model_timeout_s: float = Field(default=300, gt=0)
    circuit_failures: int = Field(default=5, ge=0)

    trace_content: bool = False
    # where a worker shows its metrics; a gateway shows them at /metrics
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=1, le=65535)

    log_format: Literal["auto", "json", "pretty"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def require_database_url(self) -> str:
        """Raises ConfigurationError if there is none."""
        if not self.database_url:
            raise ConfigurationError(
                "DATABASE_URL is not set. It names the PostgreSQL to use, as in "
                "postgresql://user:password@host:5432/name; `reflex dev` brings its own."
            )
        return self.database_url

    def require_direct_url(self) -> str:
        """PostgreSQL's own address, as far as we know it. Raises as above."""
        return self.direct_url or self.require_database_url()


def load_settings(**overrides: object) -> Settings:
    """Read the environment and `.env`; `overrides` that are not None win, as options of the command line do.

    Raises:
        ConfigurationError: A variable has a value that makes no sense; the sentence names it.
    """
    # Into the environment as well, not only into our settings: a provider's key is read by pydantic-ai, from there.
    load_dotenv(Path(".env"))
    given = {name: value for name, value in overrides.items() if value is not None}
    for field, alias in (("database_url", "DATABASE_URL"), ("default_model", "DEFAULT_MODEL")):
        if field in given:
            given[alias] = given.pop(field)
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"REFLEX_{name.upper()}"
        raise ConfigurationError(f"{variable} is {first['input']!r}: {first['msg']}") from None
