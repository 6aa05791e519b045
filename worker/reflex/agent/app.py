"""The app: what an author's module declares, and what is told about it to the database."""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from reflex.agent.declarations import Declaration, constructed
from reflex.agent.effects import EffectMisuse, check_agent
from reflex.agent.failures import is_own, own_lines, without_secrets
from reflex.agent.models import OFFLINE, model_problem
from reflex.agent.schedules import Schedule
from reflex.agent.triggers import Trigger, is_model_agent
from reflex.agent.webhooks import Webhook
from reflex.core.errors import AppError
from reflex.core.events import EventRegistry
from reflex.core.registration import EventType, Manifest, TriggerDefinition

__all__ = ["App", "load_app"]

MODULE_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
MAX_MESSAGE_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class App:
    """What a module has declared, in the order in which it did. The name is the module's path."""

    name: str
    triggers: tuple[Trigger, ...]
    schedules: tuple[Schedule, ...] = ()
    webhooks: tuple[Webhook, ...] = ()

    def manifest(self) -> Manifest:
        """What gateways need to know: they validate and route by it, and never import the app."""
        return Manifest(
            app=self.name,
            event_types=tuple(
                EventType(type, EventRegistry.payload_schema(type)) for type in sorted(EventRegistry.classes)
            ),
            triggers=tuple(
                TriggerDefinition(
                    trigger.name,
                    trigger.patterns,
                    trigger.retry.max_attempts,
                    trigger.definition(),
                    key_path=trigger.key,
                    when_dead=trigger.when_dead,
                )
                for trigger in self.triggers
            ),
            schedules=tuple(schedule.definition() for schedule in self.schedules),
            webhooks=tuple(webhook.definition for webhook in self.webhooks),
        )


def load_app(path: str, *, default_model: str | None = None) -> App:
    """Import a module and collect its triggers and schedules, those of the modules that it imports included.

    Args:
        path: As in an import statement: `shop.app`. The working folder is searched first.
        default_model: DEFAULT_MODEL. With `offline`, agents may name models whose keys are not set.

    Raises:
        AppError: It cannot be imported, or defines no trigger; one sentence that says where.
    """
    check_path(path)
    if (folder := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    before = len(constructed)
    try:
        module = imported(path, offline=default_model == OFFLINE)
    except BaseException:
        del constructed[before:]
        raise
    declared = tuple(found(module, before))
    triggers = tuple(declaration for declaration in declared if isinstance(declaration, Trigger))
    if not triggers:
        raise AppError(f"{path} defines no trigger; construct one, as in Trigger(name=…, filter=…, agent=…)")
    check_names(path, declared)
    check_effects(path, triggers)
    schedules = tuple(declaration for declaration in declared if isinstance(declaration, Schedule))
    return App(path, triggers, schedules, tuple(each for each in declared if isinstance(each, Webhook)))


def check_path(path: str) -> None:
    if MODULE_PATH.fullmatch(path):
        return
    hint = "write it as in an import statement, such as shop.app"
    if path.endswith(".py") and not Path(path).is_absolute():
        hint = f"write {'.'.join(Path(path).with_suffix('').parts)}"
    elif ":" in path and MODULE_PATH.fullmatch(path.partition(":")[0]):
        hint = f"write {path.partition(':')[0]}; its triggers are found by themselves"
    raise AppError(f"{path!r} is not the path of a module: {hint} (REFLEX_APP, --app)")


def imported(path: str, *, offline: bool) -> ModuleType:
    try:
        try:
            if not offline or "pydantic_ai.agent" not in sys.modules:
                return importlib.import_module(path)
        except Exception:
            # Most likely an agent whose model has no key. Asking for pydantic-ai beforehand would cost an app without
            # it two seconds, so the modules that failed are imported again instead.
            if not offline or "pydantic_ai.agent" not in sys.modules:
                raise
        with deferred_model_checks():
            return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise AppError(
                f"there is no module {path!r} (REFLEX_APP, --app): no {error.name!r} in {os.getcwd()} "
                "or among the installed packages"
            ) from None
        raise AppError(import_problem(path, error)) from error
    except Exception as error:
        raise AppError(import_problem(path, error)) from error
    except SystemExit as error:
        raise AppError(f"{path} calls sys.exit({error.code!r}) while it is imported{place(error)}") from error


@contextmanager
def deferred_model_checks() -> Generator[None]:
    """Agents made inside keep the name of their model, instead of making the model, which asks for its key.

    This is the default of pydantic-ai's own `defer_model_check`; an agent that sets it gets what it says.
    """
    from pydantic_ai import Agent

    defaults: dict[str, Any] = Agent.__init__.__kwdefaults__ or {}
    given = defaults["defer_model_check"]
    defaults["defer_model_check"] = True
    try:
        yield
    finally:
        defaults["defer_model_check"] = given


def found(module: ModuleType, before: int) -> Iterator[Declaration]:
    """What was declared while the module was imported, and in modules that had been imported earlier: the app itself,
    or what it refers to."""
    reached = modules_behind(module)
    for at, declaration in enumerate(constructed):
        # A module that was imported anew has left its old declarations behind.
        alive = declaration.module in sys.modules and vars(sys.modules[declaration.module]) is declaration.namespace
        if alive and (at >= before or declaration.module in reached):
            yield declaration


def modules_behind(module: ModuleType) -> set[str]:
    """The author's modules that this one refers to, by name or through a class, function or declaration, and so on."""
    reached = {module.__name__}
    waiting = [module]
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            if isinstance(value, ModuleType):
                name = value.__name__
            elif isinstance(value, Declaration):
                name = value.module
            elif inspect.isclass(value) or inspect.isfunction(value):
                name = value.__module__
            else:
                continue
            other = sys.modules.get(name)
            if name not in reached and other is not None and is_own(getattr(other, "__file__", None) or "<namespace>"):
                reached.add(name)
                waiting.append(other)
    return reached


def check_names(path: str, declared: tuple[Declaration, ...]) -> None:
    first: dict[tuple[str, str], Declaration] = {}
    for declaration in declared:
        other = first.setdefault((declaration.kind, declaration.name), declaration)
        if other is not declaration:
            raise AppError(
                f"{path} has two {declaration.kind}s named {declaration.name!r}, at {other.where} and "
                f"{declaration.where}; rename one"
            )


def check_effects(path: str, triggers: tuple[Trigger, ...]) -> None:
    """When all is imported: an agent may have got its tools after its trigger."""
    for trigger in triggers:
        if is_model_agent(trigger.agent):
            try:
                check_agent(trigger.name, trigger.agent, trigger.effects)
            except EffectMisuse as error:
                raise AppError(f"{path}, at {trigger.where}: {error}") from error


def import_problem(path: str, error: Exception) -> str:
    """Why the module cannot be imported: what, and at which line of whose file."""
    if isinstance(error, SyntaxError):
        return f"{path} cannot be imported: {error.msg} ({error.filename}:{error.lineno})"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # pydantic-ai makes a model when an agent names one; what it was asked for is only there.
        if frame.f_code.co_name == "infer_model" and frame.f_globals.get("__name__") == "pydantic_ai.models":
            model = frame.f_locals.get("model")
            return f"{path}{place(error)}: {model_problem(error, model if isinstance(model, str) else None)}"
    message = without_secrets(" ".join(str(error).split()))[:MAX_MESSAGE_LENGTH]
    return f"{path} cannot be imported: {type(error).__name__}: {message}{place(error)}"


def place(error: BaseException) -> str:
    lines = own_lines(error)
    return f" ({lines[-1].partition(' in ')[0]})" if lines else ""
