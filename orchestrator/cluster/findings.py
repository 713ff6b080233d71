"""Records what a check of a cluster found, by node, and brings nodes with the same answer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one node: what was found, or the problem and its remedy.

    `value` is the number in `found`, if it has one, as `{}`: nodes that differ only in it are shown together.
    """

    check: str
    found: str = ""
    problem: str = ""
    remedy: str = ""
    value: float | None = None
    checked: bool = True

    @property
    def verdict(self) -> Verdict:
        """`failed` where there is a problem; `not checked` where nothing can be said."""
        if self.problem:
            return "failed"
        return "ok" if self.checked else "not checked"

    @property
    def words(self) -> str:
        """What was found, or the problem, with its number."""
        return in_words(self.problem or self.found, [] if self.value is None else [self.value])

    def to_json(self) -> dict[str, Any]:
        """Plain values, `verdict` among them."""
        return {
            "check": self.check,
            "verdict": self.verdict,
            "found": in_words(self.found, [] if self.value is None else [self.value]),
            "problem": in_words(self.problem, [] if self.value is None else [self.value]),
            "remedy": self.remedy,
            "value": self.value,
        }


def in_words(text: str, values: Sequence[float]) -> str:
    """A text with its number, or with the range of several in its place.

    >>> in_words("{} GB free", [12.0, 3.5]), in_words("{} GB free", [3.5]), in_words("2.60.0", [])
    ('3.5 to 12 GB free', '3.5 GB free', '2.60.0')
    """
    if not values:
        return text
    low, high = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
    return text.replace("{}", low if low == high else f"{low} to {high}", 1)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """All findings on one machine; `node` names it as messages do."""

    node: str
    host: str
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"node": self.node, "host": self.host, "findings": [each.to_json() for each in self.findings]}


@dataclass(frozen=True, slots=True)
class Versions:
    """What is installed on a machine; "" where a package is missing. `code` is a digest of the source of cellsemi."""

    python: str
    ray: str
    cellsemi: str
    code: str
    torch: str


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """What `cellsemi cluster check` prints: the driver's own findings, then those of each node."""

    address: str
    folder: str
    driver: Versions
    nodes: tuple[NodeReport, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed; what could not be checked is no failure."""
        return all(finding.verdict != "failed" for node in self.nodes for finding in node.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values, `healthy` among them."""
        return {
            "address": self.address,
            "folder": self.folder,
            "driver": asdict(self.driver),
            "nodes": [node.to_json() for node in self.nodes],
            "healthy": self.healthy,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """The nodes on which one check found the same, in the order of the report."""

    check: str
    verdict: Verdict
    words: str
    remedy: str
    nodes: tuple[str, ...]


def grouped(nodes: Sequence[NodeReport]) -> list[Group]:
    """The findings of all nodes, by check, those that found the same together: many nodes stay a short table."""
    found: dict[tuple[str, Verdict, str], list[tuple[str, Finding]]] = {}
    order: dict[str, int] = {}
    for node in nodes:
        for finding in node.findings:
            order.setdefault(finding.check, len(order))
            key = (finding.check, finding.verdict, finding.problem or finding.found)
            found.setdefault(key, []).append((node.node, finding))
    groups = [
        Group(
            check,
            verdict,
            in_words(text, [each.value for _, each in members if each.value is not None]),
            members[0][1].remedy,
            tuple(name for name, _ in members),
        )
        for (check, verdict, text), members in found.items()
    ]
    return sorted(groups, key=lambda group: order[group.check])
