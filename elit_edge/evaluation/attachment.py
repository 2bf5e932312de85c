"""A quality table and the bundle that it belongs to: put into the manifest, or shipped beside the sample's weights."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

import msgspec

from elit_edge.bundle import Bundle
from elit_edge.errors import BundleError
from elit_edge.files import current_umask
from elit_edge.manifest import MANIFEST_FILE, Manifest, encode
from elit_edge.model_config import Digest
from elit_edge.quality import QualityTable

SHIPPED = "sample-quality.json"


class ShippedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sample model's table, and the weights that it was measured on."""

    source_sha256: Digest
    table: QualityTable


def attach(bundle: Bundle, table: QualityTable) -> Manifest:
    """Put the table into the bundle's manifest, which is replaced whole; nothing else of the bundle changes.

    Raises:
        BundleError: the bundle is no longer what was opened, or its manifest cannot be replaced.
    """
    folder = bundle.files.folder.resolve()
    if Bundle.open(folder).manifest != bundle.manifest:
        raise BundleError(f"{folder} has changed since it was opened; run the command again")
    manifest = msgspec.structs.replace(bundle.manifest, quality=table)
    try:  # the folder holds no file but those listed, at any moment: the new manifest waits beside it
        handle, name = tempfile.mkstemp(prefix=f".{folder.name}.manifest.", dir=folder.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encode(manifest))
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~current_umask())
            Path(name).replace(folder / MANIFEST_FILE)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise BundleError(
            f"cannot replace the manifest of {folder}: {error.strerror or error}; check its permissions"
        ) from error
    return manifest


def shipped_table(source_sha256: str) -> QualityTable | None:
    """The table that ships with the sample model, for a bundle made of just those weights."""
    data = (resources.files("elit_edge.data") / SHIPPED).read_bytes()
    shipped = msgspec.json.decode(data, type=ShippedTable)
    return shipped.table if shipped.source_sha256 == source_sha256 else None
