# Needs: base model and tokens. Makes: starts, trained models and controls of equal quality.


rule train_baseline:
    """Fit one arm from one seed; may be killed and started again at any time.

    Checkpoints live in a state folder that no rule declares: Snakemake deletes outputs
    before each attempt and after each failure. The program derives the folder from a
    digest of the settings, so that new settings never resume an old run.
    """
    input:
        start=FILES.start("{arm}").model,
        teacher=FILES.base,
        train=FILES.split("train").marker,
        validation=FILES.split("validation").marker,
    output:
        model=directory(FILES.run("{arm}", "{seed}").model),
        history=FILES.run("{arm}", "{seed}").history,
        certificate=FILES.run("{arm}", "{seed}").certificate,
        marker=FILES.run("{arm}", "{seed}").marker,
    log:
        FILES.log("train/{arm}-seed-{seed}"),
    benchmark:
        FILES.timing("train/{arm}-seed-{seed}")
    wildcard_constraints:
        arm=arms_like(constrained=False),
    conda:
        "../envs/isotone.yaml"
    threads: train_threads
    resources:
        mem_mb=4_000,
        runtime="4h",
        processes=0,
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
            start=FILES.initial(scratch=True),
            teacher=FILES.initial(scratch=True),
            train=FILES.split("train").marker,
            validation=FILES.split("validation").marker,
            texts=texts_that_fit(),
        output:
            model=directory(FILES.base),
            history=FILES.pretraining.history,
            certificate=FILES.pretraining.certificate,
            marker=FILES.pretraining.marker,
        log:
            FILES.log("pretrain"),
        benchmark:
            FILES.timing("pretrain")
        threads: study.base_job().training.threads
        params:
            name="pretrain",
            settings=canonical_json(as_mapping(study.base_job())),


rule apply_monotonicity:
    """Constrain the pretrained weights: the start of an arm, not yet trained."""
    input:
        base=FILES.base,
        train=FILES.split("train").marker,
        texts=texts_that_fit(),
    output:
        model=consumed(directory(FILES.start("{arm}").model)),
        certificate=FILES.start("{arm}").certificate,
    log:
        FILES.log("starts/{arm}"),
    benchmark:
        FILES.timing("starts/{arm}")
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


rule control:
    """A control whose clean loss equals a constrained arm's, made from the reference arm."""
    input:
        reference=FILES.run(study.report.baseline, "{seed}").model,
        arm=FILES.run("{arm}", "{seed}").model,
        documents=(FILES.attack_manifest if study.controls.match == "attacked" else []),
        validation=FILES.split("validation").marker,
    output:
        model=directory(FILES.run("{arm}~{kind}", "{seed}").model),
        history=FILES.run("{arm}~{kind}", "{seed}").history,
        certificate=FILES.run("{arm}~{kind}", "{seed}").certificate,
        marker=FILES.run("{arm}~{kind}", "{seed}").marker,
    log:
        FILES.log("control/{arm}~{kind}-seed-{seed}"),
    benchmark:
        FILES.timing("control/{arm}~{kind}-seed-{seed}")
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
        code=code_digest("control"),
    shell:
        "exec python scripts/control.py --settings {params.settings:q} --reference {input.reference} --arm {input.arm} "
        "--validation $(dirname {input.validation}) {params.documents} "
        "--model {output.model} --history {output.history} "
        "--certificate {output.certificate} --marker {output.marker} >> {log} 2>&1"


if study.revisions():

    rule revision:
        """An earlier revision of a hub model, in the form of the base model."""
        input:
            FETCHED,
            base=FILES.base,
        output:
            model=consumed(directory(FILES.revision("{label}"))),
        log:
            FILES.log("revision/{label}"),
        wildcard_constraints:
            label="[A-Za-z0-9._-]+",
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
        params:
            settings=lambda wildcards: as_param(
                as_mapping(replace(study.model, revision=wildcards.label))
            ),
            code=code_digest("revision"),
        shell:
            "exec python scripts/revision.py --settings {params.settings:q} --base {input.base} --model {output.model} >> {log} 2>&1"


rule early:
    """A checkpoint of the pretraining as a point of the control curve, one for all arms and seeds."""
    input:
        base=FILES.base,
        checkpoint=FILES.revision("{label}") if study.revisions() else [],
        validation=FILES.split("validation").marker,
    output:
        model=directory(FILES.run("{arm}~early-{label}", "{seed}").model),
        history=FILES.run("{arm}~early-{label}", "{seed}").history,
        certificate=FILES.run("{arm}~early-{label}", "{seed}").certificate,
        marker=FILES.run("{arm}~early-{label}", "{seed}").marker,
    log:
        FILES.log("control/{arm}~early-{label}-seed-{seed}"),
    benchmark:
        FILES.timing("control/{arm}~early-{label}-seed-{seed}")
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
        checkpoint=lambda wildcards, input: (
            input.checkpoint or f"{input.base}/milestones/{wildcards.label}"
        ),
        code=code_digest("control"),
    shell:
        "exec python scripts/control.py --settings {params.settings:q} --reference {params.checkpoint} "
        "--tokenizer {input.base} --validation $(dirname {input.validation}) "
        "--model {output.model} --history {output.history} "
        "--certificate {output.certificate} --marker {output.marker} >> {log} 2>&1"
