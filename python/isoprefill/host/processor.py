"""What the processor is called."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Returns the processor's name as Linux knows it, or else the name of its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
