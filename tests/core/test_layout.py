"""The namespace: three distributions fill `reflex`, and nobody owns it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORTIONS = [ROOT / "shared/reflex", ROOT / "gateway/reflex", ROOT / "worker/reflex"]


@pytest.mark.parametrize("portion", PORTIONS, ids=lambda path: path.parent.name)
def test_a_portion_is_no_package(portion: Path) -> None:
    """An __init__.py here would hide the other two distributions."""
    assert portion.is_dir()
    assert not (portion / "__init__.py").exists()
    for package in (path for path in portion.iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert (package / "py.typed").exists(), f"{package.name} has no py.typed: its users get no types"


def test_no_module_grew_past_what_one_can_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for portion in PORTIONS
        for path in portion.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
