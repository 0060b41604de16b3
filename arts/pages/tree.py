"""A reasoning tree as nested, collapsible HTML: flow as a bar, right and wrong ends marked, one path stressed.

Plain `details` elements, so it works without a script. Steps that follow one another without a fork share a block; the
tree is indented only where paths part.
"""

import math
from collections.abc import Mapping

from arts.pages.html import Markup, element, join
from arts.tree import Node, ReasoningTree, StopReason


def tree_markup(tree: ReasoningTree, *, chosen: int | None = None, badges: Mapping[int, str] | None = None) -> Markup:
    """Draw a tree.

    Args:
        chosen: node whose path from the root is stressed.
        badges: a few words to put on nodes, by id.
    """
    return _Drawing(tree, chosen, badges or {}).draw()


class _Drawing:
    """What all parts of one drawing look up."""

    def __init__(self, tree: ReasoningTree, chosen: int | None, badges: Mapping[int, str]) -> None:
        self.tree = tree
        self.children = tree.children()
        self.badges = badges
        self.chosen = chosen
        self.chosen_path = frozenset(node.id for node in tree.path(chosen)) if chosen is not None else frozenset()
        self.largest_log_flow = max((n.log_flow for n in tree.nodes[1:] if n.log_flow is not None), default=0.0)
        self.num_paths, self.num_right = self._count_paths()
        # Branches that lead to a right answer are unfolded, and so is the chosen path.
        self.unfolded = set(self.chosen_path)
        self.unfolded.update(node.id for node in tree.nodes if self.num_right[node.id])

    def _count_paths(self) -> tuple[list[int], list[int]]:
        """How many drawn paths go on or end below each node, and how many of them are right."""
        num_paths = [0 if below else self.tree.nodes[i].num_draws for i, below in enumerate(self.children)]
        num_right = [_is_right(node) * num_paths[node.id] for node in self.tree.nodes]
        for node in reversed(self.tree.nodes[1:]):
            num_paths[node.parent] += num_paths[node.id]
            num_right[node.parent] += num_right[node.id]
        return num_paths, num_right

    def draw(self) -> Markup:
        # From the last node up, as children have higher ids: forks may be nested deeper than calls can be.
        drawn: dict[int, Markup] = {}
        for node in reversed(self.tree.nodes[1:]):
            if node.parent == 0 or len(self.children[node.parent]) > 1:
                drawn[node.id] = self._branch(node.id, drawn)
        return element("div", *(drawn[child] for child in self.children[0]), class_="tree")

    def _branch(self, node_id: int, drawn: dict[int, Markup]) -> Markup:
        """The steps from a node down to where paths part, and the branches below, which are taken out of `drawn`."""
        steps = [node_id]
        while len(self.children[steps[-1]]) == 1:
            steps.append(self.children[steps[-1]][0])
        lines = join(*(self._step(self.tree.nodes[step]) for step in steps))
        side = " chosen" if node_id in self.chosen_path else ""
        behind = self.children[steps[-1]]
        if not behind:
            return element("div", lines, class_=f"leaf{side}")
        attributes = {"class_": f"fork{side}"} | ({"open": ""} if behind and steps[-1] in self.unfolded else {})
        return element("details", element("summary", lines), *map(drawn.pop, behind), **attributes)

    def _step(self, node: Node) -> Markup:
        text = element("span", node.text.strip() or "(empty)", class_="text")
        on_path = " on-path" if node.id in self.chosen_path else ""
        return element("span", self._flow(node), text, *self._badges(node), class_=f"step{on_path}")

    def _flow(self, node: Node) -> Markup:
        """Bar of width F / (largest F of the tree), and F itself."""
        if node.log_flow is None:
            return Markup("")
        share = math.exp(node.log_flow - self.largest_log_flow)
        bar = element("span", class_="bar", style=f"width:{100 * share:.0f}%;opacity:{0.45 + 0.55 * share:.2f}")
        track = element("span", bar, class_="track")
        return element("span", track, _flow_text(node.log_flow), class_="flow", title=f"log F = {node.log_flow:.3f}")

    def _badges(self, node: Node) -> list[Markup]:
        badges = []
        if len(self.children[node.id]) > 1:
            badges.append(
                element("span", f"{self.num_right[node.id]} of {self.num_paths[node.id]} right", class_="badge")
            )
        elif node.num_draws > 1 and not self.children[node.id]:
            badges.append(element("span", f"×{node.num_draws}", class_="badge", title=f"drawn {node.num_draws} times"))
        if node.verdict is not None:
            kind, mark = ("right", "✓ right") if node.verdict.correct else ("wrong", "✗ wrong")
            badges.append(element("span", mark, class_=f"badge {kind}", title=node.verdict.reason))
        elif node.stop in (StopReason.LENGTH, StopReason.ERROR):
            badges.append(element("span", "unfinished" if node.stop is StopReason.LENGTH else "failed", class_="badge"))
        if node.id in self.badges:
            kind = "badge pick" if node.id == self.chosen else "badge"
            badges.append(element("span", self.badges[node.id], class_=kind))
        return badges


def _is_right(node: Node) -> bool:
    return node.verdict is not None and node.verdict.correct


def _flow_text(log_flow: float) -> str:
    """F in a few characters, whatever its size."""
    if log_flow < math.log(0.005):
        return "<0.01"
    if log_flow > math.log(1e4):
        return f"e^{log_flow:.0f}"
    return f"{math.exp(log_flow):.2f}" if log_flow < math.log(100) else f"{math.exp(log_flow):.0f}"
