"""What a trigger keeps of each key: a pydantic model, its version, and how older versions become it.

StateError (final)
├── KeylessEvent    the event has no key, so there is nothing to remember anything of
StateUnreadable     what is stored is not what the code expects; tried again, for another worker may have the right code
└── StateTooNew     newer code than this has written it
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from pydantic import BaseModel, RootModel, ValidationError

from reflex.agent.journal import note_remembered
from reflex.core.errors import ReflexError

__all__ = ["KeylessEvent", "State", "StateError", "StateTooNew", "StateUnreadable", "look_at_remembered", "state_of"]

StateT = TypeVar("StateT", bound=BaseModel)
Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
# What pydantic writes for a secret, as JSON and for people.
MASK: Final = "**********"
NO_UPCASTERS: Mapping[int, Upcaster] = {}


class StateError(ReflexError):
    """What the run wants to be remembered cannot be. Final: a retry would pay everything again for the same end."""

    code = "state"


class KeylessEvent(StateError):
    """Remembering is by key, and the event has none."""

    code = "keyless_event"


class StateUnreadable(ReflexError):
    """What is stored does not fit the code. It is left as it is."""

    code = "state_unreadable"


class StateTooNew(StateUnreadable):
    """Newer code has written the state. It is left to that code."""

    code = "state_too_new"


def look_at_remembered() -> None:
    """The run is about to look at its state or its memory, or to change one.

    Raises:
        StateError: A tool is at work that is not carried out again when they have changed.
    """
    if not note_remembered():
        raise StateError(
            "a tool declared once() or transactional() must not use ctx.state or ctx.memory: it is not carried out "
            "again when they have changed; use them in another tool, or in the agent function"
        )


@dataclass(frozen=True, slots=True)
class State(Generic[StateT]):
    """Passed to a `Trigger` as `state`.

    Args:
        model: A pydantic model whose fields all have defaults: a key of which nothing is stored has those.
        version: Of the model. Raise it when what is stored would not fit any more, or would be misread.
        upcasters: For each earlier version a function of its fields that returns those of the next one.

    Raises:
        TypeError: The model is none, or one of the upcasters no function.
        ValueError: The version is less than 1, or an upcaster is missing or one too many.
    """

    model: type[StateT]
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=lambda: NO_UPCASTERS)

    def __post_init__(self) -> None:
        model: Any = self.model
        if not (inspect.isclass(model) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
            raise TypeError(f"a state is a pydantic model class with fields, not {model!r}")
        version: Any = self.version
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"the state {self.name}: version is {version!r}; the first one is 1")
        if missing := sorted(set(range(1, version)) - set(self.upcasters)):
            raise ValueError(
                f"the state {self.name}: version is {version}, and there is no upcaster from version {missing[0]}; "
                f"pass upcasters={{{missing[0]}: a function of a dict that returns a dict}}"
            )
        if unknown := set(self.upcasters) - set(range(1, version)):
            raise ValueError(f"the state {self.name}: no upcaster leads from {unknown.pop()!r} to version {version}")
        for since, upcaster in self.upcasters.items():
            if not callable(cast("object", upcaster)) or inspect.iscoroutinefunction(upcaster):
                raise TypeError(f"the state {self.name}: the upcaster from {since} is {upcaster!r}, no plain function")

    @property
    def name(self) -> str:
        return self.model.__name__

    def read(self, data: str, version: int) -> StateT:
        """What was stored, as JSON text, by code that had this version.

        Raises:
            StateTooNew: The version is higher than ours.
            StateUnreadable: An upcaster raises, or the model refuses what is there; the sentence names the field.
        """
        if version > self.version:
            raise StateTooNew(
                f"newer code has stored version {version} of {self.name}, and this worker's code knows up to version "
                f"{self.version}: it is left as it is, for a worker with the newer code"
            )
        for since in range(version, self.version):
            try:
                fields = self.upcasters[since](json.loads(data))
                data = json.dumps(fields)
            except Exception as error:
                raise StateUnreadable(
                    f"the upcaster of {self.name} from version {since} raised {type(error).__name__}: {error}"
                ) from error
        try:
            return self.model.model_validate_json(data, by_name=True)
        except ValidationError as error:
            raise StateUnreadable(
                f"what is stored as version {version} of {self.name} does not fit version {self.version}: "
                f"{first(error)}; raise the version and pass an upcaster, or forget it (`reflex state forget`)"
            ) from error

    def write(self, state: BaseModel) -> str:
        """As JSON text, by the names of the fields.

        Raises:
            StateError: It cannot be written as JSON.
        """
        try:
            return state.model_dump_json(by_alias=False, round_trip=True, warnings=False)
        except (ValueError, TypeError) as error:
            raise StateError(f"the state {self.name} cannot be written as JSON: {error}") from error

    def fields(self, state: BaseModel) -> dict[str, Any]:
        """Its fields by name, as JSON has them."""
        return json.loads(self.write(state))

    def checked(self, state: BaseModel) -> str:
        """As JSON text that can be read again. pydantic does not look at what is assigned to a field.

        Raises:
            StateError: The next run could not read it; the sentence names the field.
        """
        data = self.write(state)
        try:
            self.model.model_validate_json(data, by_name=True)
        except ValidationError as error:
            raise StateError(f"the state {self.name} does not read what it writes: {first(error)}") from error
        if MASK in data:
            fields = state.model_dump(by_alias=False, round_trip=True, warnings=False)
            for path in masked(fields, json.loads(data)):
                raise StateError(
                    f"the field {path} of the state {self.name} is a secret, and pydantic writes asterisks for it: "
                    "keep it elsewhere, or give it a field_serializer that writes what the next run is to read"
                )
        return data


def state_of(name: str, state: Any) -> State[Any] | None:
    """The state of the trigger `name`.

    Raises:
        TypeError: It is no model, or one of its fields has no default; the sentence names trigger and field.
    """
    if state is None:
        return None
    if not isinstance(state, State):
        try:
            state = State(state)
        except TypeError as error:
            raise TypeError(f"trigger {name!r}: {error}") from None
    declared = cast("State[BaseModel]", state)
    for field_name, info in declared.model.model_fields.items():
        if info.is_required():
            raise TypeError(
                f"trigger {name!r}: the field {field_name!r} of its state {declared.name} has no default, and a key of "
                "which nothing is stored begins with the defaults"
            )
    return declared


def masked(value: Any, written: Any, path: str = "") -> Iterator[str]:
    """Where there are secrets of which only the mask was written."""
    if hasattr(value, "get_secret_value"):
        if written == MASK:
            yield path
    elif isinstance(value, dict) and isinstance(written, dict):
        texts = cast("dict[str, Any]", written)
        for name, each in cast("dict[Any, Any]", value).items():
            yield from masked(each, texts.get(str(name)), f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple) and isinstance(written, list):
        for at, (each, text) in enumerate(zip(cast("list[Any]", value), cast("list[Any]", written), strict=False)):
            yield from masked(each, text, f"{path}.{at}")


def first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}{more}"
