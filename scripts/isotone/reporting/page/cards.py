"""A model card beside each exported model: what it is, how good, how robust, how to load it."""

from __future__ import annotations

from pathlib import Path

from isotone.records import Json, whole_file
from isotone.reporting.figures.choice import main_form
from isotone.reporting.tables.table import text_of


def card(document: Json, arm: str, seed: int) -> str:
    """The card of one trained model, Markdown."""
    results = document["results"]
    settings, key = results["settings"], f"{arm}/seed-{seed}"
    constraint, trained = settings["arms"][arm]["constraint"], results["training"][key]
    certificate = results["certificates"][key]
    model = settings["model"]
    origin = model["name"] or model["path"] or f"a {model['architecture']['family']} pretrained by this study"
    activation = constraint["activation"]
    needs = (
        ""
        if activation in ("keep", "relu")
        else " after `import isotone.models.activations`, which knows its activation"
    )
    lines = [
        f"# {results['study']}: {arm}, seed {seed}",
        "",
        f"A research model, made to measure what non-negative weights do to robustness. Base: {origin}.",
        "",
        "| | |",
        "|---|---|",
        f"| constraint | scope `{constraint['scope']}`, map `{constraint['map']}`, init `{constraint['init']}` |",
        f"| certificate | {certificate['verdict'].replace('_', ' ')}{', vacuous' if certificate.get('vacuous') else ''} |",
        f"| training | {trained['steps']} steps, validation loss {trained['start_loss']:.4f} -> {trained['final_loss']:.4f} nats/token |",
        f"| weights | SHA-256 `{trained.get('weights_sha256', 'unknown')}` |",
        "",
        "## Quality and damage (mean over the seeds of this arm)",
        "",
        "| measure | value [interval] | unit |",
        "|---|---|---|",
    ]
    for protocol, entry in results["quality"][arm].items():
        number = entry["nats_per_token"]
        lines.append(f"| clean loss, {protocol} | {text_of(number)} | {number['unit']} |")
    for attack, forms in results["damage"][arm].items():
        form = main_form(forms, attack)
        lines.append(f"| damage J, {attack} ({form.replace('_', ' ')}) | {text_of(forms[form]['J'])} | nats/token |")
    lines += ["", "## Robustness", ""]
    claims = [entry for entry in results["verdicts"] if entry["arm"] == arm]
    wanted = [sentence for sentence in results["summary"]["robustness"] if sentence.startswith(f"{arm} under ")]
    lines += wanted if claims else ["No comparison with a control of equal quality was made for this arm."]
    lines += [
        "",
        "## Use",
        "",
        f'Loads with `transformers.AutoModelForCausalLM.from_pretrained("model")`{needs}. Weights are fp32 safetensors. Made for',
        "measurement; not for use with people. It has seen only the text of this study's base model and recovery.",
        "",
        f"Digest of the study's results: `{document['digest']}`.",
        "",
    ]
    return "\n".join(lines)


def write_cards(folder: Path, document: Json) -> list[Path]:
    """Write MODEL_CARD.md beside model/ of every trained run; returns the files."""
    settings = document["results"]["settings"]
    written = []
    for arm, entry in settings["arms"].items():
        for seed in settings["seeds"][:1] if entry["seeds"] == "once" else settings["seeds"]:
            path = Path(folder) / "runs" / arm / f"seed-{seed}" / "MODEL_CARD.md"
            with whole_file(path) as file:
                file.write(card(document, arm, seed))
            written.append(path)
    return written
