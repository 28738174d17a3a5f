# Needs: trained models and tokens. Makes: best temperatures, clean quality and order preservation.


for _group, _runs in calibration_groups().items():

    rule:
        """Find each model's best temperature on validation text, for damage that no temperature moves."""
        name:
            f"calibrate{_group and '_' + _group}"
        input:
            models=[f"results/{{study}}/{run}/model" for run in _runs],
            validation="results/{study}/data/validation/data.json",
        output:
            markers=[f"results/{{study}}/{run}/calibration.json" for run in _runs],
        log:
            f"results/{{study}}/logs/calibrate/{_group or '{arm}-seed-{seed}'}.log",
        benchmark:
            f"results/{{study}}/timings/calibrate/{_group or '{arm}-seed-{seed}'}.tsv"
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


rule perplexity:
    """Score the test documents under each named protocol."""
    input:
        model="results/{study}/runs/{arm}/seed-{seed}/model",
        test="results/{study}/data/test/data.json",
        documents="results/{study}/data/documents",
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/perplexity.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/perplexity.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/perplexity.json",
    log:
        "results/{study}/logs/perplexity/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/perplexity/{arm}-seed-{seed}.tsv"
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
        "exec python scripts/perplexity.py --settings {params.settings:q} --model {input.model} "
        "--split $(dirname {input.test}) --documents {input.documents}/test.parquet "
        "--rows {output.rows} --cost {output.cost} --marker {output.marker} >> {log} 2>&1"


rule order_preservation:
    """Ask whether hidden states keep the order of graded sentences, layer by layer."""
    input:
        model="results/{study}/runs/{arm}/seed-{seed}/model",
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/order.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/order.json",
    log:
        "results/{study}/logs/order/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/order/{arm}-seed-{seed}.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=settings(
            order=study.order_preservation, document_start=study.data.document_start
        ),
        code=code_digest("order_preservation"),
    shell:
        "exec python scripts/order_preservation.py --settings {params.settings:q} --model {input.model} "
        "--rows {output.rows} --marker {output.marker} >> {log} 2>&1"
