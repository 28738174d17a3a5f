# Needs: trained models and tokens. Makes: best temperatures, clean quality, what models write, order preservation.


for _group, _runs in evaluation_groups().items():

    rule:
        """Find each model's best temperature on validation text, for damage that no temperature moves."""
        name:
            f"calibrate{suffix(_group)}"
        input:
            models=[run.model for run in _runs],
            validation=FILES.split("validation").marker,
        output:
            markers=[run.calibration for run in _runs],
        log:
            FILES.log(f"calibrate/{_group or '{arm}-seed-{seed}'}"),
        benchmark:
            FILES.timing(f"calibrate/{_group or '{arm}-seed-{seed}'}")
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
        params:
            settings=settings(
                length=study.training.length,
                blocks=study.training.validation_blocks,
            ),
            code=code_digest("calibrate"),
        shell:
            "exec python scripts/calibrate.py --settings {params.settings:q} --models {input.models} "
            "--validation $(dirname {input.validation}) --markers {output.markers} >> {log} 2>&1"


for _group, _runs in evaluation_groups().items():

    rule:
        """Score the test documents under each named protocol."""
        name:
            f"perplexity{suffix(_group)}"
        input:
            models=[run.model for run in _runs],
            test=FILES.split("test").marker,
            documents=FILES.documents,
        output:
            rows=[run.perplexity.rows for run in _runs],
            cost=[run.perplexity.cost for run in _runs],
            markers=[run.perplexity.marker for run in _runs],
        log:
            FILES.log(f"perplexity/{_group or '{arm}-seed-{seed}'}"),
        benchmark:
            FILES.timing(f"perplexity/{_group or '{arm}-seed-{seed}'}")
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
        params:
            settings=settings(
                perplexity=study.perplexity,
                window=study.attacks.shared.window,
                document_start=study.data.document_start,
            ),
            code=code_digest("perplexity"),
        shell:
            "exec python scripts/perplexity.py --settings {params.settings:q} --models {input.models} "
            "--split $(dirname {input.test}) --documents {input.documents}/test.parquet "
            "--rows {output.rows} --cost {output.cost} --markers {output.markers} >> {log} 2>&1"


rule order_preservation:
    """Ask whether hidden states keep the order of graded sentences, layer by layer."""
    input:
        model=FILES.run("{arm}", "{seed}").model,
    output:
        rows=FILES.run("{arm}", "{seed}").order.rows,
        marker=FILES.run("{arm}", "{seed}").order.marker,
    log:
        FILES.log("order/{arm}-seed-{seed}"),
    benchmark:
        FILES.timing("order/{arm}-seed-{seed}")
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=settings(
            order=study.order_preservation,
            document_start=study.data.document_start,
            **({"prefix": study.data.pairs.prefix} if PAIRED else {}),
        ),
        code=code_digest("order_preservation"),
    shell:
        "exec python scripts/order_preservation.py --settings {params.settings:q} --model {input.model} "
        "--rows {output.rows} --marker {output.marker} >> {log} 2>&1"


if PAIRED:

    rule generate:
        """Write a target for every test document and compare it with the reference."""
        input:
            model=FILES.run("{arm}", "{seed}").model,
            test=FILES.split("test").marker,
            documents=FILES.documents,
        output:
            rows=FILES.run("{arm}", "{seed}").generation.rows,
            cost=FILES.run("{arm}", "{seed}").generation.cost,
            marker=FILES.run("{arm}", "{seed}").generation.marker,
        log:
            FILES.log("generate/{arm}-seed-{seed}"),
        benchmark:
            FILES.timing("generate/{arm}-seed-{seed}")
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
        params:
            settings=settings(generation=replace(study.generation, attacks=[])),
            code=code_digest("generate"),
        shell:
            "exec python scripts/generate.py --settings {params.settings:q} --model {input.model} "
            "--split $(dirname {input.test}) --documents {input.documents}/test.parquet "
            "--rows {output.rows} --cost {output.cost} --marker {output.marker} >> {log} 2>&1"
