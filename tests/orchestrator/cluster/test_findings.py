"""What a check of a cluster prints: few lines for many nodes, a remedy for each fault, and all of it as JSON."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cellsemi.orchestrator.cluster.check import compare_versions
from cellsemi.orchestrator.cluster.findings import ClusterReport, Finding, NodeReport, Versions, grouped, in_words
from cellsemi.orchestrator.terminal.cluster_table import print_cluster

HERE = Versions("3.11.7", "2.60.0", "0.1.0", "abc", "2.11.0")
BROKEN = Finding("run folder", problem="cannot work in /data", remedy="mount it")


def report(*nodes: NodeReport) -> ClusterReport:
    return ClusterReport("head:6379", "/data/runs/demo", HERE, (NodeReport("driver", "here", ()), *nodes))


def printed(of: ClusterReport, width: int = 100) -> str:
    stream = io.StringIO()
    print_cluster(of, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_sixty_four_nodes_are_a_line_and_the_broken_one_is_named_with_its_remedy() -> None:
    fine = [NodeReport(f"10.0.0.{i}/aa", "", (Finding("disk", "{} GB free", value=i),)) for i in range(1, 64)]
    shown = printed(report(*fine, NodeReport("10.0.0.99/ff", "", (BROKEN, Finding("disk", "{} GB free", value=70)))))
    lines = [line.split() for line in shown.splitlines()]
    assert ["disk", "ok", "1", "to", "70", "GB", "free", "all", "64"] in lines
    assert "run folder on 10.0.0.99/ff: cannot work in /data\n    mount it" in shown
    assert shown.rstrip().endswith("1 fault.") and len(lines) < 12


def test_what_was_not_checked_is_said_and_is_no_fault() -> None:
    of = report(NodeReport("n", "", (Finding("GPU", "all are taken", checked=False),)))
    assert of.healthy and "not checked" in printed(of) and "can do the work" in printed(of)


def test_the_json_holds_every_finding_of_every_node() -> None:
    of = report(NodeReport("n", "host", (BROKEN, Finding("fsync", "{} ms", value=2.0))))
    content = json.loads(json.dumps(of.to_json()))
    assert content["healthy"] is False and content["driver"]["ray"] == "2.60.0"
    assert content["nodes"][1] == {
        "node": "n",
        "host": "host",
        "findings": [
            {"check": "run folder", "verdict": "failed", "found": "", "problem": "cannot work in /data",
             "remedy": "mount it", "value": None},
            {"check": "fsync", "verdict": "ok", "found": "2 ms", "problem": "", "remedy": "", "value": 2.0},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("there", "faults"),
    [
        (HERE, []),
        (Versions("3.11.9", "2.60.0", "0.1.0", "abc", "2.11.0"), []),  # Ray itself decides on patches
        (Versions("3.12.7", "2.60.0", "0.1.0", "abc", "2.11.0"), ["Python"]),
        (Versions("3.11.7", "2.59.0", "0.1.0", "abc", ""), ["Ray", "torch"]),
        (Versions("3.11.7", "2.60.0", "0.2.0", "def", "2.11.0"), ["cellsemi"]),
        (Versions("3.11.7", "2.60.0", "0.1.0", "def", "2.11.0"), ["cellsemi"]),  # the same version, other code
        (Versions("3.11.7", "2.60.0", "", "", "2.11.0"), ["cellsemi"]),
    ],
)
def test_versions_are_compared_with_the_driver(there: Versions, faults: list[str]) -> None:
    found = compare_versions(HERE, there)
    assert [each.check for each in found] == ["Python", "Ray", "torch", "cellsemi"]
    assert [each.check for each in found if each.problem] == faults
    assert all(bool(each.remedy) == bool(each.problem) for each in found)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "bad"]), st.floats(0, 1e6)), max_size=30))
def test_grouping_loses_no_node_and_no_fault(made: list[tuple[str, str, float]]) -> None:
    nodes = [
        NodeReport(str(i), "", (Finding(check, "{} s", problem, "do" if problem else "", value),))
        for i, (check, problem, value) in enumerate(made)
    ]
    groups = grouped(nodes)
    assert sorted(name for group in groups for name in group.nodes) == sorted(node.node for node in nodes)
    assert len(groups) == len({(check, problem) for check, problem, _ in made})
    assert sum(len(group.nodes) for group in groups if group.verdict == "failed") == sum(bool(p) for _, p, _ in made)


def test_a_range_is_a_range() -> None:
    assert in_words("{} GB in {}", [3.0]) == "3 GB in {}"
    assert in_words("{} ms", [0.123456, 1234.5]) == "0.123 to 1234 ms"
