"""The pytest plugin, found by its entry point: two fixtures, and a way to run the tests that use them.

Imported by every pytest that is started where the worker is installed: nothing heavy may be imported at the top.
"""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from reflex.testing.app import AppTest
    from reflex.testing.findings import CrashReport

FIXTURE: Final = "reflex_app"
FIXTURES: Final = frozenset({FIXTURE, "crash_at_every_step"})
MADE = pytest.StashKey[list["AppTest"]]()
NONE_MADE: list["AppTest"] = []


class MakeAppTest:
    """Makes the `AppTest`s of a test. If the test fails, its report has what happened in them."""

    def __init__(self, made: list["AppTest"], default: str) -> None:
        self._made = made
        self._default = default

    def __call__(self, app: Any = None, **options: Any) -> "AppTest":
        """As `AppTest`; without an app, that of the setting `reflex_app`.

        Raises:
            pytest.UsageError: No app is given, and none is set.
        """
        from reflex.testing.app import AppTest

        if app is None and not self._default:
            raise pytest.UsageError(
                'reflex_app() was given no app: write reflex_app("shop.app"), or set reflex_app = "shop.app" in the '
                "configuration of pytest"
            )
        test = AppTest(self._default if app is None else app, **options)
        self._made.append(test)
        return test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(FIXTURE, "the module of the Reflex app under test, as in shop.app", default="")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Load the app before the test modules import it: so its agents may name models whose keys are not set here."""
    if app := session.config.getini(FIXTURE):
        from reflex.agent.app import load_app
        from reflex.core.errors import AppError

        try:
            load_app(app, default_model="offline")
        except AppError as error:
            raise pytest.UsageError(f"the setting {FIXTURE}: {error}") from error


@pytest.fixture
def reflex_app(request: pytest.FixtureRequest) -> MakeAppTest:
    """Makes an app to test: `async with reflex_app("shop.app") as t`."""
    made = request.node.stash.setdefault(MADE, [])
    return MakeAppTest(made, request.config.getini(FIXTURE))


@pytest.fixture
def crash_at_every_step() -> "Callable[..., Awaitable[CrashReport]]":
    """`reflex.testing.crashes.crash_at_every_step`."""
    from reflex.testing import crashes

    return crashes.crash_at_every_step


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run async tests that use one of the fixtures, if no other plugin does."""
    if FIXTURES.isdisjoint(pyfuncitem.fixturenames) or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}  # pyright: ignore[reportPrivateUsage]
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and report.failed:
        report.sections += [
            ("what happened in the Reflex app", test.story()) for test in item.stash.get(MADE, NONE_MADE)
        ]
        report.sections += [("crashes at every step", text) for text in crash_reports(call)]
    return report


def crash_reports(call: pytest.CallInfo[None]) -> list[str]:
    """The reports of crashes that the failed test has in its variables: in an assertion pytest shows their first lines
    only."""
    findings: Any = sys.modules.get("reflex.testing.findings")
    if findings is None or call.excinfo is None:
        return []
    values = [value for entry in call.excinfo.traceback for value in entry.frame.f_locals.values()]
    found = [value for value in values if isinstance(value, findings.CrashReport)]
    return list(dict.fromkeys(str(report) for report in found))


def pytest_unconfigure() -> None:
    """Stop the embedded server, or drop the databases, of this process."""
    if (module := sys.modules.get("reflex.testing.databases")) is not None:
        module.close_shared()
