"""How large a step may be. One that is larger is an end with a name, and not a step that every retry pays for again."""

from typing import Final

from reflex.core.errors import ReflexError

__all__ = ["MAX_STEP_BYTES", "StepTooLarge", "check_size"]

MAX_STEP_BYTES: Final = 16 * 1024 * 1024


class StepTooLarge(ReflexError):
    """A model's answer or a tool's result is larger than the journal keeps. Final: a retry would pay for it again, and
    end the same way.

    Attributes:
        bytes: Its size as JSON.
        limit: What was allowed.
    """

    code = "step_too_large"

    def __init__(self, what: str, size: int, limit: int, then: str) -> None:
        super().__init__(
            f"{what} has {size} bytes as JSON; the limit of a step is {limit} (REFLEX_MAX_STEP_BYTES), and {then}: "
            "ask for less, or keep the data elsewhere and return where it is, or raise the limit"
        )
        self.bytes = size
        self.limit = limit


def check_size(text: str, limit: int, *, what: str, then: str = "what is not journaled is paid for again") -> None:
    """Raises StepTooLarge if the JSON text has more bytes than that.

    Args:
        what: Whose it is, for people.
        then: What that means, for people.
    """
    # Most texts are so short that they need not be encoded to know.
    if len(text) * 4 <= limit:
        return
    size = len(text.encode())
    if size > limit:
        raise StepTooLarge(what, size, limit, then)
