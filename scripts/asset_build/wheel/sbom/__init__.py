"""The bill of materials of a wheel: what its files and their build's own record say."""

from .document import LICENCES, SBOM_FOLDER, SBOM_NAME, format_sbom, sbom_of, serial_number, write_sbom
from .record import record_in

__all__ = [
    "LICENCES",
    "SBOM_FOLDER",
    "SBOM_NAME",
    "format_sbom",
    "record_in",
    "sbom_of",
    "serial_number",
    "write_sbom",
]
