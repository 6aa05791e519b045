"""deploy/kubernetes: no cluster runs here, so the schemas, what the resources mean to each other, and what they say of
the images and the settings are tested one by one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from reflex.core.settings import Settings
from reflex.gateway.operations import OPERATIONS
from tests.deploy.dockerfile import ROOT
from tests.deploy.resources import FOLDER, WORKLOADS, container_of, documents, image_of, pod_of, resource

# The oldest and the newest that the validator knows of those that have preStop's `sleep` by default.
VERSIONS = ["1.30.0", "1.37.0"]
VALIDATED = ["config.yaml", "gateway.yaml", "migrate.yaml", "secret.example.yaml", "worker.yaml"]
DEFAULT_DRAIN_S = Settings.model_fields["drain_grace_s"].default
# After the drain a worker settles, signs off and stops its heartbeat.
TO_SPARE_S = 15


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_would_take_the_resources(version: str) -> None:
    """Strictly: otherwise a misspelt field passes, and is ignored by the cluster as well."""
    program = Path(sys.executable).parent / "kubernetes-validate"
    files = [str(FOLDER / name) for name in VALIDATED]
    run = subprocess.run([program, "--strict", "-k", version, *files], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_file_is_known_to_kustomize_or_meant_to_be_applied_by_hand() -> None:
    (kustomization,) = documents("kustomization.yaml")
    by_hand = {"kustomization.yaml", "secret.example.yaml", "keda.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == {*kustomization["resources"], *by_hand}
    assert set(VALIDATED) == {*kustomization["resources"], "secret.example.yaml"}
    images = {image["name"]: image["newTag"] for image in kustomization["images"]}
    assert images.keys() == {container_of(workload)["image"] for _, workload in WORKLOADS.items()}
    assert "latest" not in images.values()


def test_resources_go_into_whatever_namespace_they_are_applied_to() -> None:
    for file in FOLDER.glob("*.yaml"):
        for each in documents(file.name):
            assert "namespace" not in each.get("metadata", {}), file.name


@pytest.mark.parametrize("role", WORKLOADS)
def test_each_container_is_the_image_that_its_dockerfile_makes(role: str) -> None:
    workload = WORKLOADS[role]
    container = container_of(workload)
    image = "worker" if role == "worker" else "gateway"
    assert container["image"] == f"reflex-{image}"
    assert f"-t reflex-{image}" in (ROOT / f"deploy/{image}.Dockerfile").read_text()
    assert container["args"] == [role]
    assert "command" not in container, "it would replace the ENTRYPOINT"


@pytest.mark.parametrize("role", WORKLOADS)
def test_no_container_has_a_right_that_it_does_not_use(role: str) -> None:
    workload = WORKLOADS[role]
    pod, container = pod_of(workload), container_of(workload)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user, group = image_of(role)["USER"].split(":")
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(group),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("role", WORKLOADS)
def test_every_variable_is_one_that_reflex_reads(role: str) -> None:
    """`enableServiceLinks`: a Service called `reflex` would set REFLEX_PORT to an address otherwise."""
    workload = WORKLOADS[role]
    known = {f"REFLEX_{field.upper()}" for field in Settings.model_fields} | {"DATABASE_URL", "DEFAULT_MODEL"}
    sources = {kind: source[kind]["name"] for source in container_of(workload)["envFrom"] for kind in source}
    assert sources["configMapRef"] == resource("ConfigMap", "reflex", "config.yaml")["metadata"]["name"]
    named = set(resource("ConfigMap", "reflex", "config.yaml")["data"])
    named |= set(resource("Secret", "reflex-database", "secret.example.yaml")["stringData"])
    named |= {variable["name"] for variable in container_of(workload).get("env", [])}
    assert named <= known
    assert pod_of(workload)["enableServiceLinks"] is False
    assert all(isinstance(value, str) for value in resource("ConfigMap", "reflex", "config.yaml")["data"].values())


def test_keys_of_model_providers_reach_workers_only() -> None:
    secrets = {
        role: [source["secretRef"]["name"] for source in container_of(workload)["envFrom"] if "secretRef" in source]
        for role, workload in WORKLOADS.items()
    }
    assert secrets == {
        "migrate": ["reflex-database"], "gateway": ["reflex-database"], "worker": ["reflex-database", "reflex-models"],
    }  # fmt: skip
    assert {each["metadata"]["name"] for each in documents("secret.example.yaml")} == set(secrets["worker"])


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_kubernetes_waits_longer_than_the_drain(role: str) -> None:
    workload = WORKLOADS[role]
    drain = float(resource("ConfigMap", "reflex", "config.yaml")["data"]["REFLEX_DRAIN_GRACE_S"])
    before = container_of(workload).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert drain >= DEFAULT_DRAIN_S
    assert pod_of(workload)["terminationGracePeriodSeconds"] >= before + drain + TO_SPARE_S


def test_a_gateway_is_restarted_for_itself_alone_and_left_out_while_it_could_store_nothing() -> None:
    """Fails with a liveness probe that asks the database: an outage would restart every gateway, again and again."""
    container = container_of(WORKLOADS["gateway"])
    paths = {operation.path for operation in OPERATIONS if operation.method == "GET" and not operation.scopes}
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} <= paths, "without a key"
    assert [probes[name]["path"] for name in probes] == ["/health", "/health", "/health/ready"]
    assert {probe["port"] for probe in probes.values()} == {"http"}
    # The gateway answers within two seconds even if the database does not.
    assert container["readinessProbe"]["timeoutSeconds"] > 2
    assert not container_of(WORKLOADS["worker"]).keys() & {"livenessProbe", "readinessProbe", "ports"}


def test_requests_reach_the_port_that_the_gateway_listens_on() -> None:
    container = container_of(WORKLOADS["gateway"])
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    (port,) = container["ports"]
    assert variables == {"REFLEX_HOST": "0.0.0.0", "REFLEX_PORT": str(port["containerPort"])}
    # On all addresses, so it would not start without one of the two that say whom it lets in.
    assert resource("ConfigMap", "reflex", "config.yaml")["data"]["REFLEX_ACCESS"] == "keys"
    assert image_of("gateway")["EXPOSE"] == str(port["containerPort"])
    (outside,) = resource("Service", "reflex-gateway", "gateway.yaml")["spec"]["ports"]
    assert outside["targetPort"] == port["name"] == "http"


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_everything_that_selects_pods_selects_those_of_its_deployment(role: str) -> None:
    workload = WORKLOADS[role]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    (spread,) = pod_of(workload)["topologySpreadConstraints"]
    selectors = [
        workload["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
        resource("PodDisruptionBudget", f"reflex-{role}", f"{role}.yaml")["spec"]["selector"]["matchLabels"],
    ]
    if role == "gateway":
        selectors.append(resource("Service", "reflex-gateway", "gateway.yaml")["spec"]["selector"])
    for selector in selectors:
        assert selector == labels == {"app.kubernetes.io/name": "reflex", "app.kubernetes.io/component": role}


def test_new_pods_are_there_before_old_ones_go() -> None:
    for role in ("gateway", "worker"):
        assert WORKLOADS[role]["spec"]["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert WORKLOADS["gateway"]["spec"]["replicas"] >= 2
    assert "replicas" not in WORKLOADS["worker"]["spec"], "an apply would undo what KEDA has said"
    assert pod_of(WORKLOADS["migrate"])["restartPolicy"] == "Never"


def test_keda_scales_the_workers_by_their_slots() -> None:
    scaled = resource("ScaledObject", "reflex-worker", "keda.yaml")["spec"]
    assert scaled["scaleTargetRef"]["name"] == WORKLOADS["worker"]["metadata"]["name"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "postgresql"
    slots = int(resource("ConfigMap", "reflex", "config.yaml")["data"]["REFLEX_CONCURRENCY"])
    assert slots / 2 <= float(trigger["metadata"]["targetQueryValue"]) <= slots
    assert scaled["minReplicaCount"] >= 1, "without a worker nobody fires timers"
    assert scaled["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert (
        scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 60
    )
    authentication = resource("TriggerAuthentication", trigger["authenticationRef"]["name"], "keda.yaml")
    (given,) = authentication["spec"]["secretTargetRef"]
    secret = resource("Secret", given["name"], "secret.example.yaml")
    assert given["parameter"] == "connection"
    assert re.match(r"postgresql://\w+:", secret["stringData"][given["key"]])
