# Needs: all rows that the configuration promises. Makes: tables, figures and the report.


report: "../report/workflow.rst"


rule aggregate:
    """Bring all rows together; refuse missing, duplicate or non-finite ones."""
    input:
        **everything(),
    output:
        results=report(
            "results/{study}/final_results.json",
            caption="../report/results.rst",
            category="Report",
        ),
        summary=report(
            "results/{study}/experiment_summary.txt",
            caption="../report/summary.rst",
            category="Report",
        ),
        tables=report(
            directory("results/{study}/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
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
        figures=report(
            directory("results/{study}/figures"),
            patterns=["{figure}.png"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
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
        report=report(
            "results/{study}/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
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
