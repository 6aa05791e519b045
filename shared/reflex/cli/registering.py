"""`reflex register`: an app's event types and triggers into the database, without running anything."""

from reflex.core.database import connect, describe
from reflex.core.errors import ConfigurationError
from reflex.core.registration import register
from reflex.core.settings import Settings

__all__ = ["register_app"]


async def register_app(settings: Settings) -> str:
    """Load, register, and say what was registered."""
    from reflex.agent.app import load_app

    url = settings.require_database_url()
    if not settings.app:
        raise ConfigurationError("name the app's module: --app shop.agents, or REFLEX_APP")
    app = load_app(settings.app, default_model=settings.default_model)
    manifest = app.manifest()
    async with await connect(url, name="reflex register") as conn:
        await register(conn, manifest)
    lines = [f"registered {manifest.app} in {describe(url)}"]
    lines += [f"  event type  {event_type.type}" for event_type in manifest.event_types]
    lines += [f"  trigger     {trigger.name}  <- {', '.join(trigger.patterns)}" for trigger in manifest.triggers]
    return "\n".join(lines)
