"""docs/guides/configuration.md, written from the settings: `make configuration`.

A sentence stands under each setting in core/settings.py. Who reads it is found in the code.
"""

import ast
import inspect
import re
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from reflex.core.settings import Settings

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs/guides/configuration.md"
READS: Final = re.compile(r"settings\.(?:require_)?([a-z_]+)")
# Where there is more to say than a sentence.
GUIDES: Final = {
    "database_url": "deploying.md#a-standby", "direct_url": "deploying.md#pgbouncer", "access": "access.md",
    "max_state_bytes": "state.md", "max_memory_bytes": "state.md", "max_step_bytes": "tools-and-effects.md",
    "webhook_private": "webhooks.md#out", "keep": "retention.md", "metrics_port": "alerts.md",
    "allowed_origins": "websocket.md", "app": "writing-an-app.md", "default_model": "writing-an-app.md#models",
}  # fmt: skip
SECTIONS: Final = (
    ("Both", {"gateway", "worker"}, "Gateways and workers read these. Limits should be the same for all."),
    ("Gateways", {"gateway"}, ""),
    ("Workers", {"worker"}, ""),
    ("Commands", set[str](), "What `reflex dev`, `reflex send`, `reflex tail` and the other commands read besides."),
)
HEAD: Final = """\
# Configuration

<!-- Written by `make configuration` from core/settings.py: change the sentences there. -->

Environment variables; `.env` in the working folder counts too. A value that makes no sense ends a process before it
begins, with a sentence that names the variable. Options of a command win over its variables. Names that end in `_S` are
seconds.
"""
TAIL: Final = """
## Beside these

| variable | meaning |
| --- | --- |
| `REFLEX_WEBHOOK_<NAME>_SECRET` | What signs the webhook of this name; two, with a comma between, while one takes the place of the other. [More](webhooks.md) |
| `LOGFIRE_TOKEN` | Traces go to Logfire. |
| `OTEL_EXPORTER_OTLP_ENDPOINT` | Traces and metrics go to a collector, with the usual `OTEL_` variables; `OTEL_METRICS_EXPORTER=none` keeps the latter back. [More](alerts.md) |
| `PGBIN` | The folder of the PostgreSQL programs that `reflex dev` starts, if it shall not be the one that it brings along. |

Keys of model providers (`ANTHROPIC_API_KEY`, `OPENAI_API_KEY` and so on) are read by pydantic-ai, in the workers.
"""  # noqa: E501


def sentences() -> dict[str, str]:
    """What stands under each setting."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for node, after in pairwise(body):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
            case _:
                pass
    return found


def readers() -> dict[str, set[str]]:
    """Which of the two kinds of process read a setting."""
    found: dict[str, set[str]] = {}
    for part in ("gateway", "worker"):
        for module in (ROOT / part / "reflex").rglob("*.py"):
            for name in READS.findall(module.read_text()):
                found.setdefault(name, set()).add(part)
    both = {"gateway", "worker"}
    return found | dict.fromkeys(("database_url", "direct_url", "log_format", "log_level"), both)


def written(value: Any) -> str:
    """A default as one would write it, and sizes as one reads them."""
    match value:
        case None | "":
            return "–"
        case bool():
            return str(value).lower()
        case int() if value >= 1024 and value % 1024 == 0:
            return f"{value} ({value >> 20} MiB)" if value % (1 << 20) == 0 else f"{value} ({value >> 10} KiB)"
        case _:
            return str(value)


def values(field: FieldInfo) -> str:
    """What may stand there."""
    annotation: Any = next(
        (each for each in get_args(field.annotation) or [] if each is not type(None)), field.annotation
    )
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    kinds: dict[Any, str] = {int: "whole number", float: "number", bool: "`true`, `false`"}
    kind = kinds.get(annotation, "text")
    if timedelta in (annotation, *get_args(annotation)):
        kind = "length of time"
    least = next((getattr(bound, "ge", None) for bound in field.metadata if hasattr(bound, "ge")), None)
    most = next((getattr(bound, "le", None) for bound in field.metadata if hasattr(bound, "le")), None)
    above = any(hasattr(bound, "gt") for bound in field.metadata)
    if least is not None and most is not None:
        return f"{kind}, {least} to {most}"
    if least is not None:
        return f"{kind}, at least {least}"
    return f"{kind} above 0" if above else kind


def page() -> str:
    meaning, read_by = sentences(), readers()
    text = HEAD
    for title, wanted, introduction in SECTIONS:
        text += f"\n## {title}\n\n{introduction}\n\n" if introduction else f"\n## {title}\n\n"
        text += "| variable | default | value | meaning |\n| --- | --- | --- | --- |\n"
        for name, field in Settings.model_fields.items():
            if read_by.get(name, set()) == wanted:
                alias = field.validation_alias
                variable = alias if isinstance(alias, str) else f"REFLEX_{name.upper()}"
                more = f" [More]({GUIDES[name]})" if name in GUIDES else ""
                default = written(field.default)
                text += f"| `{variable}` | {default} | {values(field)} | {meaning.get(name, '')}{more} |\n"
    return text + TAIL


if __name__ == "__main__":
    sys.stdout.write(f"{GUIDE.relative_to(ROOT)}\n")
    GUIDE.write_text(page())
