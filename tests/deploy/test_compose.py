"""docker-compose.yml: no engine runs here, so its schema, its meaning and its health checks are tested one by one."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.settings import Settings, load_settings
from tests.deploy.dockerfile import stages

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"

# `$VAR` alone would turn into an empty string in the container when unset, and settings refuse that.
REFERENCE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]+)\}")

Service = dict[str, Any]


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """What `docker compose config` makes of a value, for the one form of reference the file uses."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: variables.get(found["name"]) or found["default"], value)
    if isinstance(value, dict):
        return {name: interpolate(inner, variables) for name, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [interpolate(inner, variables) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def load(**variables: str) -> dict[str, Service]:
    return interpolate(YAML(typ="safe").load(FILE), variables)["services"]  # pyright: ignore[reportUnknownMemberType]


def environment(service: Service, shell: dict[str, str] | None = None) -> dict[str, str]:
    """A container's variables: one without a value comes from the shell or is absent."""
    given = {
        name: (shell or {}).get(name) if value is None else str(value) for name, value in service["environment"].items()
    }
    return {name: value for name, value in given.items() if value is not None}


def seconds(duration: str) -> int:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found, duration
    return int(found[1] or 0) * 60 + int(found[2] or 0)


@pytest.fixture
def health() -> Iterator[tuple[int, list[int]]]:
    """A stand-in for the gateway: its port, and a list whose first value is the status it answers /health with."""
    answer = [200]

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer[0] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port, answer
        server.shutdown()
        thread.join()


def test_the_file_follows_the_compose_specification() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    run = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_reference_has_a_default() -> None:
    text = re.sub(r"(?m)^\s*#.*$|\s#\s.*$", "", FILE.read_text())
    assert REFERENCE.sub("", text).count("$") == 0


def test_each_service_waits_for_what_it_needs() -> None:
    services = load()
    assert set(services) == {"db", "migrate", "gateway", "worker"}
    migrated = {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert services["gateway"]["depends_on"] == migrated
    assert services["worker"]["depends_on"] == migrated
    assert [services[name]["command"] for name in ("migrate", "gateway", "worker")] == [
        ["migrate"],
        ["gateway"],
        ["worker"],
    ]


def test_a_service_that_ends_is_started_again_but_a_migration_is_not() -> None:
    restarts = {name: service["restart"] for name, service in load().items()}
    assert restarts == {
        "db": "unless-stopped",
        "migrate": "no",
        "gateway": "unless-stopped",
        "worker": "unless-stopped",
    }


def test_a_second_worker_can_start_beside_the_first() -> None:
    worker = load()["worker"]
    assert not worker.keys() & {"container_name", "ports", "hostname"}


def test_only_the_gateway_is_reachable_from_outside() -> None:
    assert {name: service["ports"] for name, service in load().items() if "ports" in service} == {
        "gateway": ["127.0.0.1:8000:8000"]
    }
    assert load(REFLEX_PORT="9000")["gateway"]["ports"] == ["127.0.0.1:9000:8000"]
    assert load(GATEWAY_ADDRESS="0.0.0.0")["gateway"]["ports"] == ["0.0.0.0:8000:8000"]


def test_the_gateway_says_in_so_many_words_that_it_is_open() -> None:
    """It listens on all addresses of its container; fails to start if neither this nor keys is set."""
    assert environment(load()["gateway"])["REFLEX_ACCESS"] == "open-to-all"
    assert environment(load(REFLEX_ACCESS="keys")["gateway"])["REFLEX_ACCESS"] == "keys"


def test_a_port_chosen_on_the_host_does_not_move_the_gateway_inside_its_container() -> None:
    inside = environment(load(REFLEX_PORT="9000")["gateway"], {"REFLEX_PORT": "9000"})
    assert (inside["REFLEX_HOST"], inside["REFLEX_PORT"]) == ("0.0.0.0", "8000")


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_docker_waits_longer_than_the_drain(name: str) -> None:
    service = load()[name]
    assert service["init"] is True
    assert seconds(service["stop_grace_period"]) > float(environment(service)["REFLEX_DRAIN_GRACE_S"]) + 5


@pytest.mark.parametrize("name", ["migrate", "gateway", "worker"])
def test_every_variable_is_one_that_reflex_reads_and_its_default_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from a developer's own .env
    service = load()[name]
    known = {f"REFLEX_{field.upper()}" for field in Settings.model_fields}
    assert {variable for variable in service["environment"] if variable.startswith("REFLEX_")} <= known
    for variable in [variable for variable in os.environ if variable.startswith("REFLEX_")]:
        monkeypatch.delenv(variable)
    for variable, value in environment(service).items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.database_url == "postgresql://reflex@db:5432/reflex"
    if name == "worker":
        assert (settings.app, settings.default_model) == ("examples.orders.app", "offline")


def test_one_service_cannot_take_the_machine_from_the_others() -> None:
    services = load(REFLEX_PROCESSES="3")
    assert all(mebibytes(service["mem_limit"]) >= 256 for service in services.values())
    assert sum(mebibytes(service["mem_limit"]) for name, service in services.items() if name != "migrate") <= 3072
    assert all(service["pids_limit"] <= 512 for service in services.values())
    # A process of Python fills one processor; without a limit as many workers as there are would starve the database.
    processors = {name: float(service["cpus"]) for name, service in services.items() if "cpus" in service}
    assert processors == {"migrate": 1, "gateway": 1, "worker": 3}


def test_postgresql_has_room_for_what_it_is_told_to_hold() -> None:
    """Fails with settings that are not PostgreSQL's, or that the container's limits contradict."""
    db = load()["db"]
    program, *given = db["command"]
    assert program == "postgres"
    settings = dict(word.removeprefix("-c").split("=", 1) for word in given)
    assert all(word.startswith("-c") for word in given)
    memory = mebibytes(db["mem_limit"])
    shared, cache = (mebibytes(settings[name]) for name in ("shared_buffers", "effective_cache_size"))
    assert shared <= memory / 3
    assert shared < cache < memory
    assert mebibytes(db["shm_size"]) + shared < memory
    assert int(settings["max_connections"]) + 50 <= db["pids_limit"]


def test_postgresql_starts_with_the_settings_that_it_is_given(tmp_path: Path) -> None:
    given = dict(word.removeprefix("-c").split("=", 1) for word in load()["db"]["command"][1:])
    with (
        EmbeddedPostgres(tmp_path / "postgres", durable=False, settings=given) as server,
        psycopg.connect(server.url) as conn,
    ):
        for name, value in given.items():
            row = conn.execute("SELECT current_setting(%s)", [name]).fetchone()
            assert row
            assert in_one_unit(row[0]) == in_one_unit(value), name


def in_one_unit(value: str) -> str:
    return {"1min": "60s", "1024MB": "1GB", "2048MB": "2GB"}.get(value, value)


def mebibytes(size: str) -> int:
    found = re.fullmatch(r"(\d+) ?([mMgG])B?", size)
    assert found, size
    return int(found[1]) * (1024 if found[2] in "gG" else 1)


def test_a_provider_key_reaches_the_worker_when_set_and_is_absent_otherwise() -> None:
    worker = load()["worker"]
    assert not {variable for variable in environment(worker) if variable.endswith(("_KEY", "_TOKEN"))}
    assert environment(worker, {"OPENAI_API_KEY": "sk-given"})["OPENAI_API_KEY"] == "sk-given"
    gateway = load()["gateway"]
    assert not {variable for variable in gateway["environment"] if variable.endswith(("_KEY", "_TOKEN"))}


def test_one_password_opens_the_database_to_all() -> None:
    services = load(POSTGRES_PASSWORD="p@ss/word")
    assert services["db"]["environment"]["POSTGRES_PASSWORD"] == "p@ss/word"
    for name in ("migrate", "gateway", "worker"):
        inside = environment(services[name])
        assert inside["PGPASSWORD"] == "p@ss/word"
        assert "p@ss" not in inside["DATABASE_URL"]


def test_the_volume_is_where_postgresql_18_keeps_its_data() -> None:
    db = load()["db"]
    assert db["image"] == "postgres:18"
    assert db["volumes"] == ["database:/var/lib/postgresql"]
    # On the socket a temporary server answers while the volume is first filled.
    assert {"pg_isready", "--host=127.0.0.1"} <= set(db["healthcheck"]["test"])


def in_compose() -> list[str]:
    kind, *command = load()["gateway"]["healthcheck"]["test"]
    assert kind == "CMD"
    return command


def in_the_image() -> list[str]:
    final = {instruction.word: instruction for instruction in stages("gateway")[-1]}
    return json.loads(final["HEALTHCHECK"].text.partition("CMD ")[2])


@pytest.mark.parametrize("read", [in_compose, in_the_image])
def test_the_health_check_passes_only_on_a_200_and_ignores_a_proxy(
    read: Callable[[], list[str]], health: tuple[int, list[int]]
) -> None:
    port, answer = health
    program, *arguments = read()
    assert program == "python"
    assert "$" not in "".join(arguments)

    def check(port: int) -> int:
        variables = {**os.environ, "REFLEX_PORT": str(port), "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=variables, capture_output=True, check=False, timeout=10).returncode

    assert check(port) == 0
    answer[0] = 503
    assert check(port) == 1
    assert check(9) != 0, "nobody listens on the discard port"


def test_the_images_are_built_here_and_never_looked_for_in_a_registry() -> None:
    services = load()
    for name, role in (("migrate", "gateway"), ("gateway", "gateway"), ("worker", "worker")):
        assert "image" not in services[name], "Compose would try to pull it, and someone may publish that name"
        build = services[name]["build"]
        assert build["context"] == "."
        assert build["dockerfile"] == f"deploy/{role}.Dockerfile"
        assert (ROOT / build["dockerfile"]).is_file()
        assert all(value is None for value in build["args"].values()), "an index is the builder's choice"
