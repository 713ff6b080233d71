"""Writes names and licences as Hugging Face's header of a model card takes them."""

from __future__ import annotations

import re

# Of the identifiers that Hugging Face knows, those that data of this field has; any other becomes `other`.
KNOWN_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "pddl", "odbl", "odc-by"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
)


def licence_fields(licence: str) -> dict[str, str]:
    """`license`, and `license_name` where it is none that Hugging Face knows."""
    known = licence.lower()
    return {"license": known} if known in KNOWN_LICENCES else {"license": "other", "license_name": slug(known)}


def slug(name: str) -> str:
    """A name in the letters that an identifier may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "unnamed"
