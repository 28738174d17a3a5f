"""The published study's numbers beside ours, in their form and labelled with what they measure.

Source: Cooper, Nadali, Trivedi & Velasquez 2026, "Monotonicity as an Architectural Bias for Robust Language
Models", arXiv:2602.02686; numbers of Pythia from its code, mono-s2s.
"""

from __future__ import annotations

from isotone.attacks.published import SUCCESS
from isotone.records import Json
from isotone.reporting.tables.table import Cell, Column, Table

# Pythia-1.4B: perplexity, share of documents whose total loss rose by more than 15 % under one-shot
# flips, relative rise of the loss under the trigger. "Pair": the baseline that an arm was compared with.
PUBLISHED: dict[str, tuple[float, float, float | None]] = {
    "baseline (mlp_both pair, seed 42)": (6.72, 0.690, 0.155),
    "mlp_both (seed 42)": (36.01, 0.435, 0.088),
    "baseline (mlp_both pair, mean of three seeds)": (6.72, 0.690, 0.161),
    "mlp_both (mean of three seeds)": (37.68, 0.425, 0.106),
    "baseline (mlp_in pair)": (6.67, 0.715, None),
    "mlp_in": (24.32, 0.835, None),
    "baseline (mlp_in_attn_out pair)": (7.06, 0.750, None),
    "mlp_in_attn_out": (88.17, 0.355, None),
}
WARNING = (
    "Cooper et al. 2026 (arXiv:2602.02686; code: mono-s2s). Their definitions, shown to compare and not to conclude: a relative rise of the total loss counts the cost of "
    "predicting the changed tokens themselves, and asks more nats of a worse model. Other model, corpus and budgets."
)
BUDGETS = (
    " Its baseline had 5 epochs at a learning rate of 1e-5, its monotone models 10 epochs at 5e-5. Its perplexity averages batch "
    "means over documents cut at the window; flips: 10 on each of 200 documents; trigger: 10 tokens. Ours: perplexity by "
)


def _one_shot(results: Json, arm: str) -> Json:
    """The form of HotFlip that the published study ran; empty where this study did not run it."""
    return results["damage"][arm].get("hotflip", {}).get("one_shot", {})


def published_pythia(results: Json) -> Table:
    """Pythia: published rows first, then every trained arm by the same definitions."""
    rows: list[dict[str, Cell]] = [
        {
            "study": "published, Pythia-1.4B",
            "arm": arm,
            "perplexity": perplexity,
            "success": success,
            "trigger": trigger,
        }
        for arm, (perplexity, success, trigger) in PUBLISHED.items()
    ]
    protocol = results["settings"]["perplexity"]["protocols"][0]
    for arm in results["arms"]:
        trigger = results["damage"][arm].get("uat", {}).get("trigger", {})
        rows.append(
            {
                "study": f"this study, {results['study']}",
                "arm": arm,
                "perplexity": results["quality"][arm][protocol]["token_perplexity"],
                "success": _one_shot(results, arm).get("published_success"),
                "trigger": trigger.get("published_degradation"),
            }
        )
    columns = [
        Column("study", "study"),
        Column("arm", "arm"),
        Column("perplexity", "token perplexity", 2),
        Column("success", f"one-shot flips: share of documents above {100 * SUCCESS:.0f} %", 3),
        Column("trigger", "trigger: relative rise of the loss", 3),
    ]
    flips, length = results["settings"]["attacks"]["hotflip"]["flips"], results["settings"]["attacks"]["uat"]["length"]
    ours = f"protocol {protocol}, {flips} flips on each of {results['settings']['attacks']['shared']['documents']} documents, trigger of {length} tokens."
    return Table("published", "Published numbers beside ours", WARNING + BUDGETS + ours, columns, rows)
