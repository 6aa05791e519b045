"""The resources of deploy/kubernetes, as the cluster would read them."""

from typing import Any

from ruamel.yaml import YAML

from tests.deploy.dockerfile import ROOT, stages

__all__ = ["FOLDER", "WORKLOADS", "container_of", "documents", "image_of", "pod_of", "resource"]

FOLDER = ROOT / "deploy/kubernetes"

Resource = dict[str, Any]


def documents(name: str) -> list[Resource]:
    """All of a file."""
    return list(YAML(typ="safe").load_all(FOLDER / name))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def resource(kind: str, name: str, file: str) -> Resource:
    (found,) = [each for each in documents(file) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


WORKLOADS = {
    "migrate": resource("Job", "reflex-migrate", "migrate.yaml"),
    "gateway": resource("Deployment", "reflex-gateway", "gateway.yaml"),
    "worker": resource("Deployment", "reflex-worker", "worker.yaml"),
}


def pod_of(workload: Resource) -> Resource:
    return workload["spec"]["template"]["spec"]


def container_of(workload: Resource) -> Resource:
    (container,) = pod_of(workload)["containers"]
    return container


def image_of(role: str) -> dict[str, str]:
    """The last of each instruction of the image that it runs in."""
    final = stages("worker" if role == "worker" else "gateway")[-1]
    return {instruction.word: instruction.text for instruction in final}
