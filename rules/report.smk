# Needs: all rows that the configuration promises. Makes: tables, figures and the report.


rule aggregate:
    """Bring all rows together; refuse missing, duplicate or non-finite ones."""
    input:
        **everything(),
    output:
        results="results/{study}/final_results.json",
        summary="results/{study}/experiment_summary.txt",
        tables=directory("results/{study}/tables"),
    log:
        "results/{study}/logs/aggregate.log",
    benchmark:
        "results/{study}/timings/aggregate.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=study_settings(),
        code=code_digest("aggregate"),
    shell:
        "exec python scripts/aggregate.py --settings {params.settings:q} --folder results/{wildcards.study} "
        "--results {output.results} --summary {output.summary} --tables {output.tables} >> {log} 2>&1"


rule figures:
    """Draw the figures, as PDF for the paper and PNG for the report."""
    input:
        results="results/{study}/final_results.json",
    output:
        figures=directory("results/{study}/figures"),
    log:
        "results/{study}/logs/figures.log",
    benchmark:
        "results/{study}/timings/figures.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=study_settings(),
        code=code_digest("figures"),
    shell:
        "exec python scripts/figures.py --settings {params.settings:q} --folder results/{wildcards.study} "
        "--figures {output.figures} >> {log} 2>&1"


rule report:
    """Write the one self-contained page."""
    input:
        results="results/{study}/final_results.json",
        tables="results/{study}/tables",
        figures="results/{study}/figures",
    output:
        report="results/{study}/report.html",
    log:
        "results/{study}/logs/report.log",
    benchmark:
        "results/{study}/timings/report.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=study_settings(),
        code=code_digest("report"),
    shell:
        "exec python scripts/report.py --settings {params.settings:q} --folder results/{wildcards.study} "
        "--report {output.report} >> {log} 2>&1"
