import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic_ai import Agent

from reflex.agent.app import App, load_app
from reflex.agent.declarations import constructed
from reflex.core.errors import AppError
from reflex.core.events import EventRegistry

HEAD = """
    from typing import Literal
    from reflex.agent.filters import any_event, type_filter
    from reflex.agent.triggers import Trigger
    from reflex.core.events import BaseEvent, EventRegistry
    async def act(ctx): ...
"""

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into the working folder. What an app leaves behind in the process is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    modules, classes, triggers = set(sys.modules), dict(EventRegistry.classes), list(constructed)

    def write(body: str = "", *, module: str = "shop_app", head: bool = True) -> None:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(HEAD) * head + dedent(body))

    yield write
    for name in set(sys.modules) - modules:
        if (file := getattr(sys.modules[name], "__file__", None)) is None or file.startswith(str(tmp_path)):
            del sys.modules[name]
    EventRegistry.classes.clear()
    EventRegistry.classes.update(classes)
    constructed[:] = triggers


def load(path: str = "shop_app", *, default_model: str | None = None) -> App:
    return load_app(path, default_model=default_model)


def names(app: App) -> list[str]:
    return [trigger.name for trigger in app.triggers]


def test_an_app_is_the_triggers_that_its_module_makes(write: Write) -> None:
    write("""
        Trigger("first", any_event(), act)
        def make(name):
            return Trigger(name, any_event(), act)
        make("second")
    """)
    app = load()
    assert app.name == "shop_app"
    assert names(app) == ["first", "second"]
    assert [trigger.where for trigger in app.triggers] == ["shop_app.py:8", "shop_app.py:11"]


def test_triggers_of_modules_that_it_imports_belong_to_it(write: Write) -> None:
    write("Trigger('late', any_event(), act)", module="shop.rules.late")
    write("Trigger('early', any_event(), act)\nfrom shop.rules import late", module="shop.rules.early")
    write("import shop.rules.early\nTrigger('own', any_event(), act)", module="shop.app")
    assert names(load("shop.app")) == ["early", "late", "own"]


def test_an_app_that_was_imported_before_is_found_all_the_same(write: Write) -> None:
    write("class Note: ...\nTrigger('deep', any_event(), act)", module="shop_deep")
    write("from shop_deep import Note\nTrigger('rule', any_event(), act)", module="shop_rules")
    write("import shop_rules\nTrigger('own', any_event(), act)")
    write("Trigger('foreign', any_event(), act)", module="other_app")
    sys.path.insert(0, str(Path.cwd()))
    for module in ("other_app", "shop_deep", "shop_rules", "shop_app"):
        __import__(module)
    assert names(load()) == ["deep", "rule", "own"]
    assert names(load()) == ["deep", "rule", "own"], "and again"


def test_a_module_that_is_imported_anew_replaces_its_triggers(write: Write) -> None:
    write("Trigger('old', any_event(), act)")
    load()
    del sys.modules["shop_app"]
    write("Trigger('new', any_event(), act)")
    assert names(load()) == ["new"]


def test_two_apps_in_one_process_do_not_mix(write: Write) -> None:
    write("Trigger('a', any_event(), act)", module="app_a")
    write("Trigger('a', any_event(), act)", module="app_b")
    assert names(load("app_a")) == ["a"]
    assert names(load("app_b")) == ["a"]


def test_a_trigger_made_outside_of_an_import_belongs_to_nobody(write: Write) -> None:
    write("""
        Trigger("a", any_event(), act)
        def later():
            return Trigger("b", any_event(), act)
    """)
    load()
    sys.modules["shop_app"].later()
    assert names(load()) == ["a"]


def test_the_manifest_tells_types_triggers_and_patterns(write: Write) -> None:
    write("""
        from reflex.core.retry import RetryPolicy
        @EventRegistry.register
        class Order(BaseEvent):
            type: Literal["test_app.order"] = "test_app.order"
            amount: float
        Trigger("a", type_filter("test_app.order", "b.*"), act, retry=RetryPolicy(max_attempts=7))
    """)
    manifest = load().manifest()
    assert manifest.app == "shop_app"
    (order,) = [event_type for event_type in manifest.event_types if event_type.type == "test_app.order"]
    assert order.schema["required"] == ["amount"]
    (trigger,) = manifest.triggers
    assert (trigger.name, trigger.patterns, trigger.max_attempts) == ("a", ("b.*", "test_app.order"), 7)
    assert trigger.definition["filter"] == "type_filter('test_app.order', 'b.*')"


SCHEDULES = """
from datetime import timedelta
from reflex.agent.schedules import every, schedule
@EventRegistry.register
class Tick(BaseEvent):
    type: Literal["test_app.tick"] = "test_app.tick"
    n: int = 1
Trigger("a", any_event(), act)
"""


def test_schedules_belong_to_the_app_as_triggers_do(write: Write) -> None:
    """Also those of a module that was imported before. Fails if a module is reached by its triggers only."""
    write(
        dedent(HEAD) + SCHEDULES + "ticking = every(timedelta(minutes=5), event=Tick())",
        module="shop_ticks",
        head=False,
    )
    write("""
        from reflex.agent.schedules import schedule
        from shop_ticks import ticking
        schedule("a", cron="@daily", event="test_app.tick", payload={"n": 2})
    """)
    sys.path.insert(0, str(Path.cwd()))
    __import__("shop_ticks")
    app = load()
    assert names(app) == ["a"]
    assert [(s.name, s.where) for s in app.schedules] == [
        ("test_app.tick", "shop_ticks.py:15"),
        ("a", "shop_app.py:10"),
    ]
    assert [(s.name, s.type, s.payload) for s in app.manifest().schedules] == [
        ("test_app.tick", "test_app.tick", '{"n":1}'),
        ("a", "test_app.tick", '{"n":2}'),
    ]
    assert load().schedules == app.schedules


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "schedule('b', cron='@daily', event=Tick())\nevery(timedelta(1), event=Tick(), name='b')",
            "two schedules named 'b', at shop_app.py:15 and shop_app.py:16; rename one",
        ),
        (
            "schedule('b', cron='daily', event=Tick())",
            r"ValueError: schedule 'b': cron is 'daily'; .*\(shop_app.py:15\)",
        ),
        (
            "every(timedelta(1), event='test_app.tick', payload={'n': 'x'})",
            "refuses payload=: n: Input should be a valid",
        ),
    ],
)
def test_a_schedule_that_is_wrong_says_what_and_where(write: Write, body: str, sentence: str) -> None:
    """Fails if only triggers' names are compared, or if a payload is not held against its class."""
    write(dedent(HEAD) + SCHEDULES + body, head=False)
    with pytest.raises(AppError, match=sentence):
        load()


def test_an_app_of_schedules_only_is_told_to_have_a_trigger(write: Write) -> None:
    write("from reflex.agent.schedules import schedule\nschedule('b', cron='@daily', event='b')")
    with pytest.raises(AppError, match="defines no trigger"):
        load()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("shop_missing", "there is no module 'shop_missing'"),
        ("shop.missing.app", "no 'shop' in "),
        ("examples/orders/app.py", "write examples.orders.app"),
        ("shop.app:app", "write shop.app"),
        ("shop-app", "is not the path of a module"),
        ("", "is not the path of a module"),
    ],
)
def test_a_path_that_leads_nowhere_says_so(write: Write, path: str, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence) as e:
        load(path)
    assert "REFLEX_APP" in str(e.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("1 / 0", r"shop_app cannot be imported: ZeroDivisionError: division by zero \(shop_app.py:8\)"),
        ("import nowhere", r"ModuleNotFoundError: No module named 'nowhere' \(shop_app.py:8\)"),
        ("x = = 1", r"shop_app cannot be imported: invalid syntax \(.*shop_app.py:8\)"),
        ("raise SystemExit(2)", r"calls sys.exit\(2\) while it is imported \(shop_app.py:8\)"),
        ("Trigger('a b', any_event(), act)", r"ValueError: 'a b' cannot be the name of a trigger.*\(shop_app.py:8\)"),
        ("Trigger('a', any_event(), print)", r"TypeError: trigger 'a': print is not an async.*\(shop_app.py:8\)"),
        ("Trigger('a', type_filter('x') & type_filter('y'), act)", r"can match no event.*\(shop_app.py:8\)"),
        ("", "shop_app defines no trigger"),
        (
            "Trigger('a', any_event(), act)\nTrigger('a', any_event(), act)",
            "two triggers named 'a', at shop_app.py:8 and shop_app.py:9",
        ),
        ("import secrets_of_shop", "RuntimeError: the key is .ACME_API_KEY. "),
    ],
)
def test_a_module_that_does_not_load_says_what_and_where(
    write: Write, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    monkeypatch.setenv("ACME_API_KEY", "acme-1234567890")
    write("import os; raise RuntimeError('the key is ' + os.environ['ACME_API_KEY'])", module="secrets_of_shop")
    write("\n" + body)
    with pytest.raises(AppError, match=sentence) as e:
        load()
    assert "\n" not in str(e.value)


def test_a_failed_import_leaves_no_trigger_behind(write: Write) -> None:
    before = list(constructed)
    write("Trigger('a', any_event(), act)\n1 / 0")
    with pytest.raises(AppError):
        load()
    assert constructed == before


def test_the_working_folder_is_searched_first(write: Write, tmp_path: Path) -> None:
    write("Trigger('a', any_event(), act)", module="app")
    code = "from reflex.agent.app import load_app; print(load_app('app').triggers)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, timeout=60, capture_output=True, text=True, cwd=tmp_path
    )
    assert "Trigger('a'" in done.stdout


AGENT = "from pydantic_ai import Agent\nTrigger('a', any_event(), Agent({!r}))"


def test_an_agent_whose_models_key_is_not_set_says_which_variable_to_set(write: Write) -> None:
    write(AGENT.format("openai:gpt-5"))
    with pytest.raises(AppError) as e:
        load()
    assert str(e.value) == (
        "shop_app (shop_app.py:8): the model 'openai:gpt-5' cannot be used: "
        "set OPENAI_API_KEY, or DEFAULT_MODEL=offline to run without a provider"
    )


def test_a_provider_whose_package_is_missing_says_what_to_install_and_set(write: Write) -> None:
    write(AGENT.format("mistral:mistral-large-latest"))
    with pytest.raises(AppError, match=r'pip install "pydantic-ai-slim\[mistral\]", and set MISTRAL_API_KEY'):
        load()


def test_an_anthropic_agent_without_a_key_says_which_variable_to_set(write: Write) -> None:
    write(AGENT.format("anthropic:claude-sonnet-4-5"))
    with pytest.raises(AppError, match="set ANTHROPIC_API_KEY"):
        load()


def test_a_model_that_does_not_exist_says_so(write: Write) -> None:
    write(AGENT.format("gpt-5"))
    with pytest.raises(AppError, match="'gpt-5' cannot be used: Unknown model: gpt-5"):
        load()


def test_offline_agents_may_name_models_without_keys(write: Write) -> None:
    write(AGENT.format("openai:gpt-5"))
    app = load(default_model="offline")
    assert names(app) == ["a"]
    assert Agent.__init__.__kwdefaults__ is not None
    assert Agent.__init__.__kwdefaults__["defer_model_check"] is False, "agents made later are checked again"


def test_offline_works_for_the_first_app_that_imports_pydantic_ai(write: Write, tmp_path: Path) -> None:
    write(
        "from pydantic_ai import Agent\nnamed = Agent('openai:gpt-5')\nTrigger('a', any_event(), named)",
        module="shop.agents",
    )
    write("Trigger('b', any_event(), act)", module="shop.first")
    write("from shop import first, agents\nTrigger('c', any_event(), act)", module="shop.app")
    code = """if True:
        import sys
        from reflex.agent.app import load_app
        assert "pydantic_ai" not in sys.modules
        print([trigger.name for trigger in load_app("shop.app", default_model="offline").triggers])
    """
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("['b', 'a', 'c']\n", "")
