"""A system of the catalogue in the stable keys of `polymodal systems --json` and of the server's catalogue."""

from __future__ import annotations

from typing import Any


def as_dict(record: Any) -> dict[str, Any]:
    """Of one system's record."""
    sources = {str(source): source for variant in record.variants for source in variant.files()}
    sources |= {str(each.repository): each.repository for each in record.variants if each.repository is not None}
    return {
        "id": record.id,
        "names": list(record.aliases),
        "year": record.year,
        "fusion": list(record.fusion),
        "assembly": record.assembly,
        "inputs": list(record.inputs),
        "outputs": list(record.outputs),
        "variants": [{"name": each.name, "parameters": each.parameters} for each in record.variants],
        "weights": [{"source": name, "license": source.license} for name, source in sources.items()],
        "headline": record.headline,
        "sheet": record.reference,
    }
