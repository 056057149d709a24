from typing import Any

MANIFEST: dict[str, Any]
SETS: dict[str, tuple[str, ...]]
