"""Settings: every environment variable that Reflex reads, with its default. `.env` in the working folder counts too.

The sentence under a setting is what docs/guides/configuration.md says of it: `make configuration` writes that page.

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
from reflex.core.periods import Periods

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
    """The PostgreSQL to use: `postgresql://user:password@host:5432/name`; with several hosts for a standby."""
    direct_url: str | None = None
    """The same without a connection pooler in between: to listen, and to migrate."""
    default_model: str | None = Field(default=None, validation_alias="DEFAULT_MODEL")
    """The model of agents that name none; `offline` replaces every model."""
    app: str | None = None
    """The app's module, as in an import statement."""
    data_dir: Path = Path(".reflex")
    """Where `reflex dev` keeps its PostgreSQL."""

    host: str = "127.0.0.1"
    """The address that the gateway listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port that the gateway listens on, and where `reflex send` and `reflex tail` look for it."""
    access: Literal["open", "keys", "open-to-all"] = "open"
    """`keys`: the gateway wants API keys; `open`: it wants none, and listens on loopback addresses only; `open-to-all`:
    it wants none on any address.
    """
    api_key: SecretStr | None = None
    """The key that `reflex send` and `reflex tail` show a gateway."""
    unknown_types: Literal["accept", "reject"] = "accept"
    """`reject` refuses events that no app has registered and no trigger wants."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """The body of a request, and a frame of a WebSocket."""
    max_payload_bytes: int = Field(default=1024 * 1024, ge=1024)
    """The payload of one event."""
    max_batch: int = Field(default=1000, ge=1, le=10_000)
    """Events in one request."""
    max_nesting: int = Field(default=64, ge=2, le=150)
    """Levels of JSON."""
    max_buffered_events: int = Field(default=10_000, ge=1)
    """Events of a gateway that wait for their commit; then it answers 503."""
    body_timeout_s: float = Field(default=15, gt=0)
    """For a slow client to send its body."""
    gateway_pool_size: int = Field(default=4, ge=3)
    """A gateway's connections, beside its listener."""

    live_buffer_events: int = Field(default=1000, ge=10)
    """Events that may wait for one live reader before it counts as too slow."""
    live_buffer_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """The same in bytes."""
    live_heartbeat_s: float = Field(default=15, gt=0)
    """Silence on a stream after which a line is sent that says nothing."""
    max_wait_s: float = Field(default=60, gt=0)
    """How long `POST /events?wait` may wait."""
    allowed_origins: str = ""
    """Sites whose pages may use the WebSocket, `EventSource` and `fetch`, such as `https://shop.example`, with
    commas between; `*` is all. The gateway's own address always may.
    """
    ws_max_connections: int = Field(default=20_000, ge=1)
    """WebSockets of one gateway; it needs as many file descriptors."""
    ws_max_per_address: int = Field(default=1000, ge=1)
    """WebSockets of one client address; a proxy in front is one address."""
    ws_max_subscriptions: int = Field(default=100, ge=1, le=10_000)
    """Subscriptions of one WebSocket."""
    ws_max_in_flight: int = Field(default=64, ge=1, le=10_000)
    """Events of one WebSocket that wait for their commit; then it is read no further."""
    ws_idle_s: float | None = Field(default=None, gt=0)
    """Silence in both directions after which a WebSocket is closed; never, if not set."""
    ws_ping_s: float = Field(default=20, gt=0)
    """Between pings; a client that leaves two of them unanswered is gone."""

    concurrency: int = Field(default=100, ge=1, le=10_000)
    """Slots of a worker process."""
    processes: int = Field(default=1, ge=1, le=256)
    """Processes of `reflex worker`."""
    lease_timeout_s: float = Field(default=10, ge=1)
    """Silence after which a worker counts as dead."""
    poll_interval_s: float = Field(default=2, gt=0)
    """How often a worker looks without having been notified."""
    drain_grace_s: float = Field(default=30, ge=0)
    """For runs and requests to finish after SIGTERM."""
    max_depth: int = Field(default=16, ge=1, le=1000)
    """Events that cause one another."""
    max_output_bytes: int = Field(default=256 * 1024, ge=1024)
    """What a run returns."""
    max_state_bytes: int = Field(default=256 * 1024, ge=1024)
    """The state of a key."""
    max_memory_bytes: int = Field(default=1024 * 1024, ge=1024)
    """The conversation that is kept of a key."""
    # PostgreSQL takes no value of more than 1 GiB
    max_step_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    """A model's answer, or what a tool returns."""
    max_published: int = Field(default=1000, ge=1)
    """Events that one run publishes."""
    keep: Duration | None = None
    """How long workers keep events, such as `30d` or `12h`; everything, if not set. From eight days on they go by the
    partition, up to an eighth of the time later."""
    keep_runs: Duration | None = None
    """How long workers keep runs; as long as their events, if not set."""
    keep_dead_letters: Duration | None = None
    """After how long workers give up dead letters that nobody has retried or purged; never, if not set. Until then
    their events are kept."""
    webhook_private: bool = False
    """Whether webhooks may go to private, loopback and link-local addresses."""
    model_timeout_s: float = Field(default=300, gt=0)
    """A model request, where the agent's settings name no `request_timeout`; one that takes longer has failed."""
    circuit_failures: int = Field(default=5, ge=0)
    """Failures in a row after which a model is not asked for a while; 0 is never."""

    trace_content: bool = False
    """Whether traces hold prompts, tool arguments and answers."""
    metrics_host: str = "127.0.0.1"
    """The address for a worker's metrics; there is no access control, so keep it inside."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where `reflex worker` shows its metrics, all its processes together; nowhere, if not set."""

    log_format: Literal["auto", "json", "pretty"] = "auto"
    """`auto` is `pretty` on a terminal and `json` elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""

    def require_database_url(self) -> str:
        """Raises ConfigurationError if there is none."""
        if not self.database_url:
            raise ConfigurationError(
                "DATABASE_URL is not set. It names the PostgreSQL to use, as in "
                "postgresql://user:password@host:5432/name; `reflex dev` brings its own."
            )
        return self.database_url

    def periods(self) -> Periods:
        """How long what is kept."""
        return Periods(self.keep, self.keep_runs, self.keep_dead_letters)

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
