"""What a tool does to the world outside, and so what may become of a call that a crash has cut off: declared on the
tool, as its metadata, or by the trigger for tools that are somebody else's.

    @agent.tool(metadata=once(probe=was_charged))
    async def charge_card(run: RunContext[AgentContext], order: str, cents: int) -> str: ...

    Trigger(..., effects={"charge_card": once(probe=was_charged)})
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from reflex.core.errors import ReflexError

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = [
    "Done",
    "Effect",
    "EffectKind",
    "EffectMisuse",
    "NotDone",
    "Probe",
    "Unknown",
    "check_agent",
    "check_transactional",
    "checked_effects",
    "effect_in",
    "idempotent",
    "once",
    "pure",
    "transactional",
    "undeclared",
]

# In a tool's metadata, beside what else the author keeps there.
KEY: Final = "reflex.effect"


class EffectMisuse(ReflexError, TypeError):
    """A tool is declared or used in a way that cannot keep what the declaration promises. Only other code can help."""

    code = "effect_misuse"


@dataclass(frozen=True, slots=True)
class Done:
    """A probe has found that the call did its work. `result` is what the tool would have returned."""

    result: Any = None


class NotDone(Exception):
    """A probe has found that the call did not do its work: it is made. A tool of the kind `once` raises it to say the
    same of itself, where any other exception leaves it open."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A probe has not found out. The delivery waits for a person, and the probe is asked again from time to time."""

    reason: str = ""


Probe: TypeAlias = "Callable[[AgentContext, dict[str, Any], str], Awaitable[Done | NotDone | Unknown]]"


class EffectKind(StrEnum):
    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"
    TRANSACTIONAL = "transactional"


@dataclass(frozen=True, slots=True)
class Effect:
    """A declaration. `probe` is of the kind `once` alone."""

    kind: EffectKind
    probe: "Probe | None" = None


undeclared: Final = Effect(EffectKind.IDEMPOTENT)


def pure() -> dict[str, Any]:
    """The tool changes nothing: it may be called as often as need be."""
    return {KEY: Effect(EffectKind.PURE)}


def idempotent() -> dict[str, Any]:
    """Called again with the same `ctx.idempotency_key`, the tool does nothing more. This is what is believed of a tool
    that declares nothing."""
    return {KEY: undeclared}


def once(*, probe: "Probe | None" = None) -> dict[str, Any]:
    """The tool is never called again while it is not known that the call before did nothing.

    Args:
        probe: An async function of the `AgentContext`, the call's arguments and its idempotency key that finds out
            whether a call that was cut off did its work: `Done(result)`, `NotDone()` or `Unknown()`. Without one a
            person has to say so.

    Raises:
        TypeError: The probe is no such function.
    """
    if probe is not None:
        check_probe(probe)
    return {KEY: Effect(EffectKind.ONCE, probe)}


def transactional() -> dict[str, Any]:
    """What the tool writes by `ctx.connection` is committed together with the record of the call, or not at all."""
    return {KEY: Effect(EffectKind.TRANSACTIONAL)}


def effect_in(where: str, metadata: object) -> Effect | None:
    """The declaration in a tool's metadata; None if there is none.

    Raises:
        EffectMisuse: It is none; the sentence begins with `where`.
    """
    if metadata in DECLARERS:
        name = cast("Callable[..., object]", metadata).__name__
        raise EffectMisuse(f"{where}: its effect is the function {name} itself; write {name}()")
    if not isinstance(metadata, Mapping):
        return None
    found = cast("Mapping[str, object]", metadata).get(KEY)
    if found is not None and not isinstance(found, Effect):
        raise EffectMisuse(
            f"{where}: {KEY!r} is {found!r}; take it from pure(), idempotent(), once() or transactional()"
        )
    return found


def checked_effects(name: str, effects: object) -> dict[str, Effect]:
    """A trigger's `effects`, by the names of tools.

    Raises:
        TypeError: They are no declarations; the sentence names the trigger.
    """
    if effects is None:
        return {}
    if not isinstance(effects, Mapping):
        raise EffectMisuse(f'trigger {name!r}: effects is {effects!r}; pass a dict, as in {{"charge_card": once()}}')
    checked: dict[str, Effect] = {}
    for tool, metadata in cast("Mapping[object, object]", effects).items():
        if not isinstance(tool, str):
            raise EffectMisuse(f"trigger {name!r}: effects names the tool {tool!r}; a tool's name is a string")
        effect = effect_in(f"trigger {name!r}, tool {tool!r}", metadata)
        if effect is None:
            raise EffectMisuse(
                f"trigger {name!r}: the effect of {tool!r} is {metadata!r}; write pure(), idempotent(), once(probe=…) "
                "or transactional()"
            )
        checked[tool] = effect
    return checked


def check_agent(name: str, agent: object, effects: Mapping[str, Effect]) -> None:
    """Look at what the function tools of a trigger's pydantic-ai agent declare, and whether the trigger means tools
    that there are. What comes from elsewhere, as the tools of MCP do, is not known before the agent runs.

    Raises:
        EffectMisuse: A declaration is none, a transactional tool is not async, or there is no such tool.
    """
    toolsets: Iterable[object] = getattr(agent, "toolsets", ())
    known: set[str] = set()
    whole = True
    for toolset in toolsets:
        tools: object = getattr(toolset, "tools", None)
        if not isinstance(tools, Mapping):
            whole = False
            continue
        for tool_name, tool in cast("Mapping[str, Any]", tools).items():
            known.add(tool_name)
            where = f"trigger {name!r}, tool {tool_name!r}"
            effect = effects.get(tool_name) or effect_in(where, getattr(tool, "metadata", None))
            schema: object = getattr(tool, "function_schema", None)
            if effect is not None and effect.kind is EffectKind.TRANSACTIONAL:
                check_transactional(tool_name, asynchronous=getattr(schema, "is_async", True))
    if whole and (missing := sorted(effects.keys() - known)):
        raise EffectMisuse(
            f"trigger {name!r}: effects names {', '.join(map(repr, missing))}, and its agent has no such tool; it has "
            f"{', '.join(map(repr, sorted(known))) or 'none'}"
        )


def check_transactional(name: str, *, asynchronous: bool) -> None:
    if not asynchronous:
        raise EffectMisuse(
            f"tool {name!r} is transactional and not async: its connection cannot be used from a thread; write "
            f"`async def {name}`"
        )


def check_probe(probe: object) -> None:
    if inspect.isclass(probe) or not callable(probe):
        raise EffectMisuse(f"once(probe={probe!r}): pass an async function of the context, the arguments and the key")
    function = inspect.unwrap(probe)
    if not any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))):  # noqa: B004
        raise EffectMisuse(f"once(probe={probe!r}): the probe is not async; write `async def`")
    try:
        inspect.signature(probe).bind(None, None, None)
    except TypeError as error:
        raise EffectMisuse(
            f"once(probe={probe!r}): the probe is called with the context, the arguments and the key: {error}"
        ) from None


DECLARERS: Final = (pure, idempotent, once, transactional)
