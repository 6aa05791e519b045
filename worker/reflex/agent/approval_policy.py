"""What a trigger says about tool calls that a person has to approve."""

from datetime import timedelta
from typing import Final, NamedTuple

__all__ = ["APPROVAL_TIMEOUT", "ApprovalPolicy", "approval_policy"]

APPROVAL_TIMEOUT: Final = timedelta(days=7)
LONGEST_TIMEOUT: Final = timedelta(days=3660)


class ApprovalPolicy(NamedTuple):
    """How long a call waits for somebody, and whether they may change its arguments."""

    timeout: timedelta = APPROVAL_TIMEOUT
    edits: bool = False


def approval_policy(trigger: str, timeout: object, edits: object) -> ApprovalPolicy:
    """The policy, checked.

    Raises:
        TypeError: An argument is of the wrong kind; the sentence names the trigger.
        ValueError: The time is not positive, or longer than ten years.
    """
    if not isinstance(timeout, timedelta):
        raise TypeError(
            f"trigger {trigger!r}: approval_timeout is {timeout!r}; pass a timedelta, as in timedelta(hours=8)"
        )
    if not timedelta(0) < timeout <= LONGEST_TIMEOUT:
        raise ValueError(
            f"trigger {trigger!r}: approval_timeout is {timeout}; it must be longer than nothing and at most "
            f"{LONGEST_TIMEOUT.days} days"
        )
    if not isinstance(edits, bool):
        raise TypeError(f"trigger {trigger!r}: approval_edits is {edits!r}; pass True or False")
    return ApprovalPolicy(timeout, edits)
