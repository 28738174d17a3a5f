"""The published study's numbers of T5 beside ours: its tables in form, and what each of its numbers means.

Source: Cooper, Nadali, Trivedi & Velasquez 2026, "Monotonicity as an Architectural Bias for Robust Language
Models", arXiv:2602.02686, and its code, mono-s2s.
"""

from __future__ import annotations

from isotone.attacks.published import SUCCESS_PAIRS
from isotone.records import Json
from isotone.reporting.figures.choice import in_order
from isotone.reporting.tables.table import Cell, Column, Table, text_of

# T5-small, 200 articles of CNN/DM: ROUGE-1, -2, -Lsum; on 100 of them, flips of the source: share whose loss rose by
# more than 10 % of the clean loss, and its mean relative rise; and ROUGE-1 on XSum.
PUBLISHED_T5: dict[str, tuple[float, float, float, float, float, float]] = {
    "standard": (32.6, 11.9, 26.6, 0.69, 0.213, 19.9),
    "baseline": (30.9, 11.5, 25.0, 0.63, 0.162, 20.0),
    "monotone": (29.6, 10.6, 24.2, 0.19, 0.052, 18.9),
}
KEYS = ("rouge1", "rouge2", "rougeLsum", "success", "degradation")
WHAT_IT_IS = (
    "Cooper et al. 2026 (arXiv:2602.02686; code: mono-s2s). Their definitions, shown to compare and not to conclude. Ours: the same "
    "form of flips (attacks.hotflip.published), other texts, model and budgets."
)


def writes(results: Json) -> bool:
    """Whether the study is one of pairs."""
    return results["settings"]["data"].get("task") == "pairs"


def _published(results: Json, name: str) -> Json:
    """The published form of HotFlip on an arm or control; empty where it did not run."""
    return results["damage"].get(name, {}).get("hotflip", {}).get("published", {})


def published_t5(results: Json) -> Table:
    """Published rows first, then every arm and control by the same definitions."""
    rows: list[dict[str, Cell]] = []
    for arm, values in PUBLISHED_T5.items():
        rows.append({"study": "published, T5-small on CNN/DM", "arm": arm, **dict(zip(KEYS, values[:5], strict=True))})
    rows += [
        {"study": "published, T5-small on XSum", "arm": arm, "rouge1": values[5]}
        for arm, values in PUBLISHED_T5.items()
    ]
    found = results["generation"]["arms"]
    for name in in_order(results, found):
        form = _published(results, name)
        rows.append(
            {
                "study": f"this study, {results['study']}",
                "arm": name,
                **{key: found[name][key] for key in KEYS[:3]},
                "success": form.get("published_success"),
                "degradation": form.get("published_degradation"),
            }
        )
    columns = [
        Column("study", "study"),
        Column("arm", "arm"),
        Column("rouge1", "ROUGE-1", 1),
        Column("rouge2", "ROUGE-2", 1),
        Column("rougeLsum", "ROUGE-Lsum", 1),
        Column("success", f"flips: share of documents above {100 * SUCCESS_PAIRS:.0f} %", 2),
        Column("degradation", "flips: mean relative rise of the loss", 3),
    ]
    return Table("published_t5", "Published summaries beside ours", WHAT_IT_IS, columns, rows)


def _ours(results: Json, names: list[str], value: str, *keys: str) -> str:
    """One number of several arms in words; empty where no arm has it."""
    parts = []
    for name in names:
        found = results["generation"]["arms"].get(name) if value == "written" else _published(results, name)
        for key in keys:
            if found and found.get(key) is not None:
                parts.append(f"{name} {text_of(found[key], 1 if value == 'written' else 2)}")
    return ", ".join(parts)


def _fall(results: Json) -> str:
    after = results["generation"]["after"]
    return ", ".join(
        f"{name} {text_of(entry['fall']['rougeLsum'], 1)}"
        for name in in_order(results, after)
        for entry in after[name].values()
    )


def published_meaning(results: Json) -> Table:
    """What each published number says, what it does not, and what stands for it here."""
    names = list(in_order(results, results["generation"]["arms"]))
    seeds = len(results["settings"]["seeds"])
    asks = ", ".join(f"{SUCCESS_PAIRS * nll:.2f} nats of a model with a clean loss of {nll}" for nll in (2.65, 3.29))
    shares = _ours(results, names, "flips", "published_success")
    rows: list[dict[str, Cell]] = [
        {
            "published": "ROUGE-L 26.6, 25.0, 24.2",
            "means": "ROUGE-Lsum; only references have their sentences on lines of their own, and the first 200 articles of the file",
            "ours": f"Lsum with sentences split on both sides, documents drawn: {_ours(results, names, 'written', 'rougeLsum')}",
        },
        {
            "published": "outputs of 75 tokens",
            "means": "a limit of 80, references of 50: the limit and not the model ends most outputs",
            "ours": f"share at the limit: {_ours(results, names, 'written', 'capped')}",
        },
        {
            "published": "success 69, 63, 19 %",
            "means": f"loss up by more than 10 % on 100 articles, which asks {asks}; attacked ids were decoded and encoded "
            "again, so that flips became deletions; no test pairs the articles",
            "ours": f"ids as attacked: {shares}" if shares else "not run: attacks.hotflip.published",
        },
        {
            "published": "degradation 21.3, 16.2, 5.2 %",
            "means": "the rise of the loss of a given reference; no attacked output was ever scored",
            "ours": f"fall of the output's ROUGE-Lsum: {_fall(results)}"
            if _fall(results)
            else "not run: generation.attacks",
        },
        {
            "published": "universal triggers below 1 %",
            "means": "the last 512 tokens are kept, which cuts the trigger in front of a long article away; 50 random candidates, no gradient",
            "ours": "triggers are searched on texts only; on pairs they are refused",
        },
        {
            "published": "three seeds",
            "means": "one checkpoint three times (same SHA-1)",
            "ours": f"{seeds} seed{'s' * (seeds > 1)}; equal weights under two seeds are refused",
        },
        {
            "published": "baseline and monotone",
            "means": "5 epochs against 7",
            "ours": "the arms' own epochs stand in the table of runs; equal unless an arm says otherwise",
        },
    ]
    columns = [Column("published", "published"), Column("means", "what it means"), Column("ours", "here")]
    return Table("published_meaning", "What the published numbers mean", WHAT_IT_IS, columns, rows)
