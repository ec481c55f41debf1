"""Types and small helpers that several tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]

COMMAND = Path(sys.executable).with_name("coronet-deploy")
