# Needs: all rows that the configuration promises. Makes: tables, figures and the report.


report: "../report/workflow.rst"


rule aggregate:
    """Bring all rows together; refuse missing, duplicate or non-finite ones."""
    input:
        **everything(),
    output:
        results=report(
            FILES.results,
            caption="../report/results.rst",
            category="Report",
        ),
        summary=report(
            FILES.summary,
            caption="../report/summary.rst",
            category="Report",
        ),
        tables=report(
            directory(FILES.tables),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        FILES.log("aggregate"),
    benchmark:
        FILES.timing("aggregate")
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
        results=FILES.results,
    output:
        figures=report(
            directory(FILES.figures),
            patterns=["{figure}.png"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        FILES.log("figures"),
    benchmark:
        FILES.timing("figures")
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
        results=FILES.results,
        tables=FILES.tables,
        figures=FILES.figures,
    output:
        report=report(
            FILES.report,
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        FILES.log("report"),
    benchmark:
        FILES.timing("report")
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
