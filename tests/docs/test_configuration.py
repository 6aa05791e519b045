"""The page of settings says what the settings are, and no page names one that does not exist."""

import re

from reflex.core.settings import Settings
from tests.docs.blocks import PAGES, ROOT
from tests.docs.configuration import GUIDE, page, sentences

# Docker has to know how long to wait; no process of ours reads it.
OF_COMPOSE = {"REFLEX_STOP_GRACE"}
NAMES = re.compile(r"\bREFLEX_[A-Z_]*[A-Z]\b")


def test_every_setting_has_a_sentence() -> None:
    """Fails with: a setting without one under it in core/settings.py."""
    assert Settings.model_fields.keys() - sentences().keys() == set()


def test_the_page_is_what_the_settings_say() -> None:
    """Fails with: a default or a sentence that was changed; run `make configuration`."""
    assert GUIDE.read_text() == page()
    for name, field in Settings.model_fields.items():
        assert f"| `{field.validation_alias or f'REFLEX_{name.upper()}'}` |" in page()


def test_no_page_and_no_manifest_names_a_setting_that_is_not() -> None:
    """Fails with: a variable that was renamed, or is misspelt."""
    known = {f"REFLEX_{name.upper()}" for name in Settings.model_fields} | OF_COMPOSE
    manifests = [
        path for kind in ("*.yaml", "*.yml", "*.service", "*.example") for path in (ROOT / "deploy").rglob(kind)
    ]
    for path in (*PAGES, ROOT / "docker-compose.yml", *manifests):
        named = set(NAMES.findall(path.read_text()))
        unknown = {name for name in named - known if not name.startswith("REFLEX_WEBHOOK_")}
        assert unknown == set(), path
