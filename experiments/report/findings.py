"""The findings of a comparison: sentences that are derived from its metrics."""

import math

from vit_patch_env.checks import counted
from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report.metrics import CONTROL, ComparisonMetrics
from vit_patch_env.experiments.report.paper import AGENT
from vit_patch_env.experiments.report.paper_comparison import against_paper, claim
from vit_patch_env.experiments.report.settings import budget
from vit_patch_env.experiments.report.statistics import (
    MIN_SEEDS,
    difference,
    dominating,
    pareto_front,
    ratio,
)
from vit_patch_env.experiments.report.words import (
    listed,
    points,
    points_interval,
    points_range,
    ratio_interval,
)

_NO_DIFFERENCE = "no significant difference (the 95 % interval contains 0)"


def findings(metrics: ComparisonMetrics) -> list[str]:
    """All findings; those on the paper's claim or the best agent come first."""
    return _without_empty(
        *_main_findings(metrics),
        against_rules(metrics),
        best_faster_method(metrics),
        *fronts(metrics),
        overhead(metrics),
        few_seeds(metrics),
        diverged(metrics),
    )


def highlights(metrics: ComparisonMetrics) -> list[str]:
    """The findings for a README, and how they compare with the paper's."""
    return _without_empty(
        *_main_findings(metrics),
        best_faster_method(metrics),
        few_seeds(metrics),
        diverged(metrics),
        *against_paper(metrics),
    )


def _main_findings(metrics: ComparisonMetrics) -> list[str]:
    """The paper's claim, and its agent against all patches and the control; or the best agent."""
    if metrics.comparison.budget != "epochs":
        return at_equal_cost(metrics)
    return [claim(metrics), *(against(metrics, AGENT, reference) for reference in (FULL, CONTROL))]


def _without_empty(*sentences: str) -> list[str]:
    return [sentence for sentence in sentences if sentence]


def at_equal_cost(metrics: ComparisonMetrics) -> list[str]:
    """The best agent against the best fixed rule and all patches, at the same budget."""
    sentences = [f"Every run had the same budget: {budget(metrics.comparison)}."]
    agents, rules = metrics.agents(), metrics.rules()
    agent, rule = metrics.best(agents), metrics.best(rules)
    best = [
        f"{metrics.title(name)} ({metrics.mean(name, 'accuracy'):.4f}) of "
        f"{counted(len(methods), noun)}"
        for name, methods, noun in ((agent, agents, "agent"), (rule, rules, "fixed rule"))
        if name is not None
    ]
    if best:
        sentences.append(
            f"Highest mean test accuracy: {'; '.join(best)}. Selecting the best methods by the "
            "accuracies that are compared here biases the comparison in their favour."
        )
    pairs = [(agent, rule), (agent, FULL)]
    if AGENT in metrics.methods and agent != AGENT:
        pairs.append((AGENT, FULL))
    return sentences + [against(metrics, one, other) for one, other in pairs if one and other]


def against(metrics: ComparisonMetrics, method: str, reference: str) -> str:
    """A method's paired differences to a reference."""
    left, right = metrics.title(method), metrics.title(reference)
    if method not in metrics.methods or reference not in metrics.methods:
        absent = [name for name in (method, reference) if name not in metrics.methods]
        names = " and ".join(metrics.title(name) for name in absent)
        return f"{left} is not compared with {right}: there is no finished run of {names}."
    accuracy = metrics.compare(method, reference, "accuracy", difference)
    if not accuracy.n:
        return (
            f"{left} is not compared with {right}: for no seed is there a run of both that did "
            "not diverge."
        )
    seeds = f"{accuracy.n} paired seeds" if accuracy.n > 1 else "one paired seed"
    costs = "".join(
        f"; training {cost.name} {found.mean:.2f} times{ratio_interval(found)}"
        + (f" over {found.n} undisturbed" if found.n < accuracy.n else "")
        for cost in reversed(metrics.costs)
        if (found := metrics.compare(method, reference, cost.metric, ratio)).n
    )
    outcome = {
        None: "not tested, as there is one seed",
        -1: f"so {left} is less accurate",
        0: _NO_DIFFERENCE,
        1: f"so {left} is more accurate",
    }[accuracy.side(0)]
    return (
        f"{left} against {right}, over {seeds}: test accuracy {points(accuracy.mean)} points"
        f"{points_interval(accuracy)}, {outcome}{costs}.{points_range(accuracy)}"
    )


def against_rules(metrics: ComparisonMetrics) -> str:
    """The agent's accuracy against each fixed rule that it has not been compared with before.

    The agent is the paper's, without the matched control; or, where the budget is not epochs, the
    best agent, without the best rule.
    """
    agent: str | None = AGENT
    compared: str | None = CONTROL
    rules = metrics.blocks().get("rule", [])
    if metrics.comparison.budget != "epochs":
        agent, rules = metrics.best(metrics.agents()), metrics.rules()
        compared = metrics.best(rules)
    if agent is None or agent not in metrics.methods:
        return ""
    names: dict[str, list[str]] = {}
    for method in rules:
        gain = metrics.compare(agent, method, "accuracy", difference)
        if method != compared and gain.n:
            outcome = {
                None: "has only one paired seed with", -1: "is less accurate than",
                0: "does not differ significantly from", 1: "is more accurate than",
            }[gain.side(0)]  # fmt: skip
            name = f"{metrics.title(method)} ({points(gain.mean)} points)"
            names.setdefault(outcome, []).append(name)
    if not names:
        return ""
    parts = "; it ".join(f"{outcome} {listed(methods)}" for outcome, methods in names.items())
    return f"Test accuracy against the other fixed rules: {metrics.title(agent)} {parts}."


def best_faster_method(metrics: ComparisonMetrics) -> str:
    """The most accurate of the methods that trained in less time than with all patches."""
    means, full = metrics.points("seconds"), metrics.title(FULL)
    if FULL not in means or metrics.comparison.budget == "seconds":
        return ""
    faster = {name: point for name, point in means.items() if point[0] < means[FULL][0]}
    if not faster:
        return f"No method trained in less time than {full}."
    best = max(faster, key=lambda name: faster[name][1])
    seconds, accuracy = means[best]
    gain = metrics.compare(best, FULL, "accuracy", difference)
    paired = f" ({points(gain.mean)} points{points_interval(gain)} against {full})"
    return (
        f"Of the {counted(len(faster), 'method')} that trained in less time than {full}, "
        f"{metrics.title(best)} has the highest mean test accuracy: {accuracy:.4f}"
        f"{paired if gain.n else ''} in {seconds / means[FULL][0]:.2f} times its training time."
    )


def fronts(metrics: ComparisonMetrics) -> list[str]:
    """The Pareto fronts of accuracy and each cost, and which methods dominate the agent."""
    sentences = []
    for cost in metrics.costs:
        means = metrics.points(cost.metric)
        if not means:
            continue
        front = pareto_front(means)
        names = listed(metrics.title(name) for name in front)
        sentence = f"Pareto front of mean accuracy and training {cost.name}: {names}."
        if AGENT in means and AGENT not in front:
            better = sorted(dominating(AGENT, means), key=lambda name: -means[name][1])
            named = [metrics.title(name) for name in better[:3]]
            named += [f"{len(better) - 3} more"] if len(better) > 3 else []
            verbs = ("costs", "is") if len(better) == 1 else ("cost", "are")
            sentence += (
                f" {metrics.title(AGENT)} is not on it: {listed(named)} {verbs[0]} no more and "
                f"{verbs[1]} at least as accurate."
            )
        sentences.append(sentence)
    return sentences


def overhead(metrics: ComparisonMetrics) -> str:
    """The agents' share of the training time."""
    shares = {name: metrics.mean(name, "agent_share") for name in metrics.agents()}
    agents = [
        f"{share:.1%} with {metrics.title(name)}"
        for name, share in shares.items()
        if math.isfinite(share)
    ]
    words = "Share of the training time that observing, deciding and learning take:"
    return f"{words} {listed(agents)}." if agents else ""


def few_seeds(metrics: ComparisonMetrics) -> str:
    """A warning about intervals over few seeds."""
    n_seeds = {len(metrics.values(name, "accuracy")) for name in metrics.methods} - {0}
    if not n_seeds or min(n_seeds) >= MIN_SEEDS:
        return ""
    low, high = min(n_seeds), max(n_seeds)
    counts = f"{low}" if low == high else f"{low} to {high}"
    if high == 1:
        return "With 1 seed there is no interval: no difference can be tested for significance."
    uneven = (
        ""
        if low == high
        else " Methods have different numbers of seeds: compare them by the paired differences "
        "rather than by the means."
    )
    return (
        f"With {counts} seeds a 95 % bootstrap interval cannot extend beyond the lowest and the "
        "highest seed and is too narrow: it contains the true mean less often than 95 % of "
        f"the time, so a significant difference can still be due to chance.{uneven}"
    )


def diverged(metrics: ComparisonMetrics) -> str:
    """Runs whose loss became infinite, which are in no mean."""
    runs = [run.path.name for run in metrics.comparison.runs.values() if run.diverged]
    return f"Diverged, and excluded from all means and plots: {listed(runs)}." if runs else ""
