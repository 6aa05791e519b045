"""`reflex register`: what an app declares into the database, without running anything."""

import typer

from reflex.cli.connecting import connected
from reflex.cli.tables import print_json
from reflex.core.database import describe
from reflex.core.errors import ConfigurationError
from reflex.core.registration import register
from reflex.core.settings import Settings

__all__ = ["register_app"]


async def register_app(settings: Settings, *, as_json: bool) -> None:
    """Load, register, and print what was registered."""
    from reflex.agent.app import load_app

    url = settings.require_database_url()
    if not settings.app:
        raise ConfigurationError("name the app's module: --app shop.agents, or REFLEX_APP")
    app = load_app(settings.app, default_model=settings.default_model)
    manifest = app.manifest()
    async with connected(url, name="reflex register") as conn:
        await register(conn, manifest)
    if as_json:
        print_json(manifest)
        return
    typer.echo(f"registered {manifest.app} in {describe(url)}")
    for event_type in manifest.event_types:
        typer.echo(f"  event type  {event_type.type}")
    for trigger in manifest.triggers:
        typer.echo(f"  trigger     {trigger.name}  <- {', '.join(trigger.patterns)}")
    for schedule in manifest.schedules:
        typer.echo(f"  schedule    {schedule.name}  {schedule.description} -> {schedule.type}")
    for webhook in manifest.webhooks:
        typer.echo(f"  webhook     {webhook.name}  /webhooks/{webhook.name} -> {webhook.type}")
