"""The facts of the machine, without which a figure means nothing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["facts", "load_average"]

MEASURED_PACKAGES = ("hypercorn", "starlette", "psycopg", "pydantic", "pydantic-ai-slim", "uvloop")


def facts() -> dict[str, Any]:
    """Processor, memory, versions."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in MEASURED_PACKAGES if (found := installed(name))},
    }


def load_average() -> float:
    """Of the last minute. Well above zero before the start, it means that others are using the cores."""
    return round(os.getloadavg()[0], 2)


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
