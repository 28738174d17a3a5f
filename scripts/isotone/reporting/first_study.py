"""The first study's published numbers beside ours, in their form."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.table import Column, Table

# Pythia-1.4B, means over seeds where several were published: perplexity, share of documents whose
# total loss rose by more than 15 % under one-shot flips, relative rise of the loss under the trigger.
PUBLISHED: dict[str, tuple[float, float, float | None]] = {
    "baseline (mlp_both pair, three seeds)": (6.72, 0.690, 0.161),
    "mlp_both (three seeds)": (37.68, 0.425, 0.106),
    "baseline (mlp_in pair)": (6.67, 0.715, None),
    "mlp_in": (24.32, 0.835, None),
    "baseline (mlp_in_attn_out pair)": (7.06, 0.750, None),
    "mlp_in_attn_out": (88.17, 0.355, None),
}
# T5-small on CNN/DM, recorded so that the later sequence-to-sequence task has its yardstick.
PUBLISHED_T5 = {
    "standard": {"rouge": (32.6, 11.9, 26.6), "success": 0.69, "degradation": 0.213},
    "baseline": {"rouge": (30.9, 11.5, 25.0), "success": 0.63, "degradation": 0.162},
    "monotone": {"rouge": (29.6, 10.6, 24.2), "success": 0.19, "degradation": 0.052},
}


def first_study(results: Json) -> Table:
    """Published rows first, then every trained arm by the same definitions."""
    rows: list[dict] = [
        {
            "study": "first study, Pythia-1.4B",
            "arm": arm,
            "perplexity": perplexity,
            "success": success,
            "trigger": trigger,
        }
        for arm, (perplexity, success, trigger) in PUBLISHED.items()
    ]
    protocols = results["settings"]["perplexity"]["protocols"]
    for arm in results["arms"]:
        damage = results["damage"][arm]
        one_shot = damage.get("hotflip", {}).get("one_shot", {})
        trigger = damage.get("uat", {}).get("trigger", {})
        rows.append(
            {
                "study": f"this study, {results['study']}",
                "arm": arm,
                "perplexity": results["quality"][arm][protocols[0]]["token_perplexity"],
                "success": one_shot.get("reference_success"),
                "trigger": trigger.get("reference_degradation"),
            }
        )
    columns = [
        Column("study", "study"),
        Column("arm", "arm"),
        Column("perplexity", "token perplexity", 2),
        Column("success", "one-shot flips: share above 15 %", 3),
        Column("trigger", "trigger: relative rise of the loss", 3),
    ]
    note = (
        "The first study's definitions, shown to compare and not to conclude: a relative rise of the total loss counts the cost of "
        "predicting the changed tokens themselves, and asks more nats of a worse model. Other model, corpus and budgets."
    )
    return Table("first_study", "The first study's numbers beside ours", note, columns, rows)
