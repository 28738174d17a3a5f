# Needs: base model and tokens. Makes: starts, trained models and controls of equal quality.


rule train_baseline:
    """Fit one arm from one seed; may be killed and started again at any time.

    Checkpoints live in a state folder that no rule declares: Snakemake deletes outputs
    before each attempt and after each failure. The program derives the folder from a
    digest of the settings, so that new settings never resume an old run.
    """
    input:
        start="results/{study}/starts/{arm}/model",
        teacher="results/{study}/base",
        train="results/{study}/data/train/data.json",
        validation="results/{study}/data/validation/data.json",
    output:
        model=directory("results/{study}/runs/{arm}/seed-{seed}/model"),
        history="results/{study}/runs/{arm}/seed-{seed}/history.csv",
        certificate="results/{study}/runs/{arm}/seed-{seed}/certificate.json",
        marker="results/{study}/runs/{arm}/seed-{seed}/train.json",
    log:
        "results/{study}/logs/train/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/train/{arm}-seed-{seed}.tsv"
    wildcard_constraints:
        arm=arms_like(constrained=False),
    conda:
        "../envs/isotone.yaml"
    threads: train_threads
    resources:
        mem_mb=4_000,
        runtime="4h",
        processes=1,
        nodes=1,
        max_epochs_per_run=0,
    params:
        name="{arm}/seed-{seed}",
        settings=train_settings,
    shell:
        "exec python scripts/train.py --start {input.start} --teacher {input.teacher} "
        "--train $(dirname {input.train}) --validation $(dirname {input.validation}) "
        "--study-folder results/{wildcards.study} --name {params.name} "
        "--model {output.model} --history {output.history} --certificate {output.certificate} --marker {output.marker} "
        '--settings {params.settings:q} --operation "$ISOTONE_OPERATION" --processes {resources.processes} --nodes {resources.nodes} '
        "--max-epochs-per-run {resources.max_epochs_per_run} --until-done >> {log} 2>&1"


use rule train_baseline as train_monotonic with:
    wildcard_constraints:
        arm=arms_like(constrained=True),


if study.model.source == "scratch":

    use rule train_baseline as pretrain with:
        input:
            start="results/{study}/init",
            teacher="results/{study}/init",
            train="results/{study}/data/train/data.json",
            validation="results/{study}/data/validation/data.json",
            texts=texts_that_fit(),
        output:
            model=directory("results/{study}/base"),
            history="results/{study}/pretrain/history.csv",
            certificate="results/{study}/pretrain/certificate.json",
            marker="results/{study}/pretrain/train.json",
        log:
            "results/{study}/logs/pretrain.log",
        benchmark:
            "results/{study}/timings/pretrain.tsv"
        threads: study.base_job().training.threads
        params:
            name="pretrain",
            settings=canonical_json(as_mapping(study.base_job())),


rule apply_monotonicity:
    """Constrain the pretrained weights: the start of an arm, not yet trained."""
    input:
        base="results/{study}/base",
        train="results/{study}/data/train/data.json",
        texts=texts_that_fit(),
    output:
        model=consumed(directory("results/{study}/starts/{arm}/model")),
        certificate="results/{study}/starts/{arm}/certificate.json",
    log:
        "results/{study}/logs/starts/{arm}.log",
    benchmark:
        "results/{study}/timings/starts/{arm}.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=lambda wildcards: settings(
            constraint=study.arms[wildcards.arm].constraint,
            length=study.training.length,
            version=Init.version,
        ),
    shell:
        "exec python scripts/apply_monotonicity.py --settings {params.settings:q} --base {input.base} "
        "--train $(dirname {input.train}) --model {output.model} --certificate {output.certificate} >> {log} 2>&1"


rule null:
    """A control whose clean loss equals a constrained arm's, made from the reference arm."""
    input:
        reference=f"results/{{study}}/runs/{study.report.baseline}/seed-{{seed}}/model",
        arm="results/{study}/runs/{arm}/seed-{seed}/model",
        documents=(
            "results/{study}/data/attack/manifest.json"
            if study.controls.match == "attacked"
            else []
        ),
        validation="results/{study}/data/validation/data.json",
    output:
        model=directory("results/{study}/runs/{arm}~{kind}/seed-{seed}/model"),
        history="results/{study}/runs/{arm}~{kind}/seed-{seed}/history.csv",
        certificate="results/{study}/runs/{arm}~{kind}/seed-{seed}/certificate.json",
        marker="results/{study}/runs/{arm}~{kind}/seed-{seed}/train.json",
    log:
        "results/{study}/logs/null/{arm}~{kind}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/null/{arm}~{kind}-seed-{seed}.tsv"
    wildcard_constraints:
        arm="[a-z][a-z0-9_]*",
        kind="tempered|noised",
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=lambda wildcards: settings(
            kind=wildcards.kind,
            constraint=study.arms[wildcards.arm].constraint,
            tolerance=study.controls.tolerance,
            seed=study.controls.seed + int(wildcards.seed),
            document_start=study.data.document_start,
            length=study.training.length,
            blocks=study.training.validation_blocks,
        ),
        documents=lambda wildcards, input: (
            f"--documents {Path(input.documents).parent}" if input.documents else ""
        ),
        code=code_digest("null"),
    shell:
        "exec python scripts/null.py --settings {params.settings:q} --reference {input.reference} --arm {input.arm} "
        "--validation $(dirname {input.validation}) {params.documents} "
        "--model {output.model} --history {output.history} "
        "--certificate {output.certificate} --marker {output.marker} >> {log} 2>&1"


rule early:
    """A checkpoint of the pretraining as a point of the control curve, one for all arms and seeds."""
    input:
        base="results/{study}/base",
        validation="results/{study}/data/validation/data.json",
    output:
        model=directory("results/{study}/runs/{arm}~early-{label}/seed-{seed}/model"),
        history="results/{study}/runs/{arm}~early-{label}/seed-{seed}/history.csv",
        certificate="results/{study}/runs/{arm}~early-{label}/seed-{seed}/certificate.json",
        marker="results/{study}/runs/{arm}~early-{label}/seed-{seed}/train.json",
    log:
        "results/{study}/logs/null/{arm}~early-{label}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/null/{arm}~early-{label}-seed-{seed}.tsv"
    wildcard_constraints:
        arm="[a-z][a-z0-9_]*",
        label="[A-Za-z0-9._-]+",
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=settings(
            kind="early",
            length=study.training.length,
            blocks=study.training.validation_blocks,
        ),
        code=code_digest("null"),
    shell:
        "exec python scripts/null.py --settings {params.settings:q} --reference {input.base}/milestones/{wildcards.label} "
        "--tokenizer {input.base} --validation $(dirname {input.validation}) "
        "--model {output.model} --history {output.history} "
        "--certificate {output.certificate} --marker {output.marker} >> {log} 2>&1"
