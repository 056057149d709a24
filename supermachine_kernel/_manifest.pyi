from typing import Any

MANIFEST: dict[str, Any]
