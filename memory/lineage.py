"""Where everything came from: the graph proposal -> trial -> finding -> proposal, with summaries and reviews.

Edges lead from what was there to what was made of it later, and a finding is one node per revision that something
refers to, so circles cannot arise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from swarm.kernels.errors import UnknownNameError
from swarm.memory import tables as t
from swarm.memory.errors import StoreError
from swarm.memory.store import Store

if TYPE_CHECKING:
    import networkx as nx

KINDS = ("proposal", "trial", "finding", "summary", "review")


@dataclass(frozen=True)
class Influence:
    """What came of a finding: how many proposals, trials and later findings descend from it."""

    finding_id: int
    statement: str
    proposals: int
    trials: int
    findings: int


def graph(store: Store, campaign_id: int | None = None) -> nx.DiGraph[str]:
    """The lineage graph of a campaign, or of the whole store.

    Nodes are called `trial:12`, `proposal:12`, `summary:1`, `review:1`, and `finding:4@2` (the second revision of
    finding 4); they carry `kind`, `id`, `label`, `campaign` and, for trials, `state`. Edges carry `relation`.

    Raises:
        StoreError: the rows run in a circle, which only tampering can bring about.
    """
    import networkx as nx

    made: nx.DiGraph[str] = nx.DiGraph()
    with store.database.read() as connection:
        for node, attributes in _nodes(connection, campaign_id):
            made.add_node(node, **attributes)
        for source, target, relation in _edges(connection):
            if target in made:
                if source not in made:  # evidence or a reference from another campaign
                    made.add_node(source, kind=source.split(":")[0], id=_order(source)[1], label=source, campaign=0)
                made.add_edge(source, target, relation=relation)
    if not nx.is_directed_acyclic_graph(made):
        circle = " -> ".join(edge[0] for edge in nx.find_cycle(made)[:6])
        raise StoreError(f"the lineage runs in a circle: {circle}.", "The store was tampered with: restore a backup.")
    return made


def ancestors(made: nx.DiGraph[str], name: str) -> list[str]:
    """What a node came from, sorted by kind and number. `finding:4` stands for all its revisions."""
    import networkx as nx

    return _closure(nx.ancestors, made, name)


def descendants(made: nx.DiGraph[str], name: str) -> list[str]:
    """What came of a node, sorted by kind and number. `finding:4` stands for all its revisions."""
    import networkx as nx

    return _closure(nx.descendants, made, name)


def influential(made: nx.DiGraph[str], limit: int = 10) -> list[Influence]:
    """The findings that most trials descend from."""
    found = []
    for number in sorted({made.nodes[node]["id"] for node in made if made.nodes[node]["kind"] == "finding"}):
        counts: dict[str, set[int]] = defaultdict(set)
        for node in descendants(made, f"finding:{number}"):
            counts[made.nodes[node]["kind"]].add(made.nodes[node]["id"])
        found.append(
            Influence(
                finding_id=number,
                statement=made.nodes[resolve(made, f"finding:{number}")[-1]]["label"],
                proposals=len(counts["proposal"]),
                trials=len(counts["trial"]),
                findings=len(counts["finding"] - {number}),
            )
        )
    return sorted(found, key=lambda influence: (-influence.trials, -influence.findings, influence.finding_id))[:limit]


def resolve(made: nx.DiGraph[str], name: str) -> list[str]:
    """The nodes that a name stands for: itself, or all revisions of a finding, oldest first.

    Raises:
        UnknownNameError: none.
    """
    if name in made:
        return [name]
    nodes = [node for node in made if name.startswith("finding:") and node.startswith(f"{name}@")]
    if not nodes:
        known = "names such as trial:12, proposal:12, finding:4, summary:1, review:1, of one campaign (--campaign)"
        raise UnknownNameError("node of this campaign", name, known)
    return sorted(nodes, key=_order)


def to_dot(made: nx.DiGraph[str]) -> str:
    """The graph as Graphviz text."""
    shapes = dict(zip(KINDS, ("note", "ellipse", "box", "tab", "octagon"), strict=True))
    lines = ["digraph lineage {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    for node, data in made.nodes(data=True):
        label = _quote(f"{node}\n{data['label'][:80]}")
        lines.append(f"  {_quote(node)} [shape={shapes.get(data['kind'], 'plain')}, label={label}];")
    for source, target, data in made.edges(data=True):
        lines.append(f"  {_quote(source)} -> {_quote(target)} [label={_quote(data['relation'])}];")
    return "\n".join([*lines, "}"]) + "\n"


def to_graphml(made: nx.DiGraph[str]) -> str:
    """The graph as GraphML text."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(made)) + "\n"


def _nodes(connection: Connection, campaign_id: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    def rows(query: Any, campaign: Any) -> Iterable[Any]:
        return connection.execute(query if campaign_id is None else query.where(campaign == campaign_id))

    def node(kind: str, row: Any, label: str, suffix: str = "", **others: Any) -> tuple[str, dict[str, Any]]:
        attributes = {"kind": kind, "id": row.id, "label": label, "campaign": row.campaign_id, **others}
        return f"{kind}:{row.id}{suffix}", attributes

    columns = (t.trials.c.id, t.trials.c.campaign_id, t.trials.c.model, t.trials.c.configuration, t.trials.c.state)
    for row in rows(select(*columns), t.trials.c.campaign_id):
        yield node("trial", row, f"{row.model}: {row.configuration}", state=row.state)
    for row in rows(select(t.proposals), t.proposals.c.campaign_id):
        yield node("proposal", row, f"{row.proposer}: {row.rationale}".removesuffix(": "))
    revisions = _revisions(connection)
    for row in rows(select(t.findings), t.findings.c.campaign_id):
        for revision in sorted(revisions[row.id] | {row.revision}):
            yield node("finding", row, row.statement, f"@{revision}", revision=revision, status=row.status)
    for row in rows(select(t.summaries), t.summaries.c.campaign_id):
        yield node("summary", row, row.title)
    reviewed = select(t.reviews, t.summaries.c.campaign_id).join(t.summaries)
    for row in rows(reviewed, t.summaries.c.campaign_id):
        yield node("review", row, f"{row.state} by {row.reviewer}")


def _revisions(connection: Connection) -> dict[int, set[int]]:
    """The revisions of every finding that evidence or a proposal refers to."""
    found: dict[int, set[int]] = defaultdict(set)
    for finding, revision in connection.execute(select(t.evidence.c.finding_id, t.evidence.c.since).distinct()):
        found[finding].add(revision)
    pairs = select(t.proposal_parents.c.finding_id, t.proposal_parents.c.revision).distinct()
    for finding, revision in connection.execute(pairs):
        found[finding].add(revision)
    return found


def _edges(connection: Connection) -> Iterator[tuple[str, str, str]]:
    for row in connection.execute(
        select(t.proposals.c.id, t.proposals.c.trial_id).where(t.proposals.c.trial_id.is_not(None))
    ):
        yield f"proposal:{row.id}", f"trial:{row.trial_id}", "ran as"
    for row in connection.execute(select(t.evidence)):
        yield f"trial:{row.trial_id}", f"finding:{row.finding_id}@{row.since}", "is evidence of"
    for row in connection.execute(select(t.proposal_parents)):
        yield f"finding:{row.finding_id}@{row.revision}", f"proposal:{row.proposal_id}", "led to"
    referred = select(t.predictions.c.reference_id, t.proposals.c.id).join(
        t.proposals, t.proposals.c.trial_id == t.predictions.c.trial_id
    )
    for reference, proposal in connection.execute(referred.where(t.predictions.c.reference_id.is_not(None))):
        yield f"trial:{reference}", f"proposal:{proposal}", "is the measure of"
    current = {row.id: row.revision for row in connection.execute(select(t.findings.c.id, t.findings.c.revision))}
    for finding, revisions in _revisions(connection).items():
        chain = sorted(revisions | {current[finding]})
        for earlier, later in pairwise(chain):
            yield f"finding:{finding}@{earlier}", f"finding:{finding}@{later}", "became"
    for row in connection.execute(select(t.summary_evidence)):
        yield f"trial:{row.trial_id}", f"summary:{row.summary_id}", "is cited in"
    for row in connection.execute(select(t.reviews.c.id, t.reviews.c.summary_id)):
        yield f"summary:{row.summary_id}", f"review:{row.id}", "was reviewed in"


def _closure(walk: Any, made: nx.DiGraph[str], name: str) -> list[str]:
    nodes = resolve(made, name)
    found: set[str] = set().union(*(walk(made, node) for node in nodes)) - set(nodes)
    return sorted(found, key=_order)


def _order(node: str) -> tuple[str, int, int]:
    kind, _, rest = node.partition(":")
    number, _, revision = rest.partition("@")
    return kind, int(number), int(revision or 0)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
