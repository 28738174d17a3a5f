# Needs: trained models and the shared attack documents. Makes: attack rows, triggers, transfers.


rule attack_documents:
    """Fix the documents, positions and vocabulary that every attack on every model shares."""
    input:
        model=FILES.initial(SCRATCH),
        test=FILES.split("attack_test").marker,
        search=FILES.split("attack_search").marker,
    output:
        documents=FILES.attack_texts,
        vocabulary=FILES.attack_vocabulary,
        marker=FILES.attack_manifest,
    log:
        FILES.log("attack_documents"),
    benchmark:
        FILES.timing("attack_documents")
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=2_000,
    params:
        settings=settings(
            shared=study.attacks.shared, document_start=study.data.document_start
        ),
        code=code_digest("attack_documents"),
    shell:
        "exec python scripts/attack_documents.py --settings {params.settings:q} --tokenizer {input.model} "
        "--test $(dirname {input.test}) --search $(dirname {input.search}) "
        "--out $(dirname {output.marker}) >> {log} 2>&1"


# Rules for each attack that the library knows: attack_hotflip, attack_uat ...; where runs share jobs, attack_hotflip_seed_42 ...
for _spec in [spec for spec in SPECS.values() if not members_of(spec)]:
    for _group, _runs in attack_groups(_spec.name).items():

        rule:
            """Attack some models; the search differs between the attacks, the damage is measured alike."""
            name:
                f"attack_{_spec.name}{suffix(_group)}"
            input:
                models=[run.model for run in _runs],
                calibrations=[run.calibration for run in _runs],
                documents=FILES.attack_manifest,
            output:
                rows=[run.attack(_spec.name).rows for run in _runs],
                cost=[run.attack(_spec.name).cost for run in _runs],
                markers=[run.attack(_spec.name).marker for run in _runs],
            log:
                FILES.log(f"attacks/{_spec.name}/{_group or '{arm}-seed-{seed}'}"),
            benchmark:
                FILES.timing(f"attacks/{_spec.name}/{_group or '{arm}-seed-{seed}'}")
            conda:
                "../envs/isotone.yaml"
            resources:
                mem_mb=4_000,
                runtime="4h",
            params:
                attack=_spec.name,
                settings=attack_settings(_spec.name, _runs[0]),
                code=code_digest("attack"),
            shell:
                "exec python scripts/attack.py --attack {params.attack} --settings {params.settings:q} "
                "--models {input.models} --calibrations {input.calibrations} --documents $(dirname {input.documents}) "
                "--rows {output.rows} --cost {output.cost} --markers {output.markers} >> {log} 2>&1"


for _spec in [spec for spec in SPECS.values() if members_of(spec)]:
    for _group, _runs in attack_groups(_spec.name).items():

        rule:
            """Compare the rows of several attacks on the same models, document by document."""
            name:
                f"attack_{_spec.name}{suffix(_group)}"
            input:
                rows=[
                    run.attack(member).rows
                    for run in _runs
                    for member in members_of(_spec)
                ],
            output:
                rows=[run.attack(_spec.name).rows for run in _runs],
                cost=[run.attack(_spec.name).cost for run in _runs],
                markers=[run.attack(_spec.name).marker for run in _runs],
            log:
                FILES.log(f"attacks/{_spec.name}/{_group or '{arm}-seed-{seed}'}"),
            benchmark:
                FILES.timing(f"attacks/{_spec.name}/{_group or '{arm}-seed-{seed}'}")
            conda:
                "../envs/isotone.yaml"
            resources:
                mem_mb=1_000,
            params:
                program=_spec.name,
                settings=settings(**{_spec.name: study.attacks.of(_spec.name)}),
                code=code_digest(_spec.name),
            shell:
                "exec python scripts/{params.program}.py --settings {params.settings:q} --sources {input.rows} "
                "--rows {output.rows} --cost {output.cost} --markers {output.markers} >> {log} 2>&1"


for _group, _runs in transfer_groups().items():

    rule:
        """Replay every run's flips or triggers on some of them; propose with the baseline's gradients, too."""
        name:
            f"transfer{suffix(_group)}"
        input:
            targets=[run.model for run in _runs],
            documents=FILES.attack_manifest,
            sources=[run.attack("{attack}").rows for run in trained_runs()],
            models=lambda wildcards, run=_runs[0]: crossed_models(run, wildcards),
        output:
            rows=[replays(run).rows for run in _runs],
            cost=[replays(run).cost for run in _runs],
            markers=[replays(run).marker for run in _runs],
        log:
            FILES.log(f"transfer/{{attack}}/{_group or '{arm}-seed-{seed}'}"),
        benchmark:
            FILES.timing(f"transfer/{{attack}}/{_group or '{arm}-seed-{seed}'}")
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
            runtime="4h",
        params:
            names=[run.key for run in trained_runs()],
            models=lambda wildcards, input: (
                f"--source-models {' '.join(input.models)}" if input.models else ""
            ),
            settings=lambda wildcards: attack_settings(wildcards.attack)(wildcards),
            code=code_digest("transfer"),
        shell:
            "exec python scripts/transfer.py --attack {wildcards.attack} --settings {params.settings:q} "
            "--targets {input.targets} --documents $(dirname {input.documents}) "
            "--sources {input.sources} --source-names {params.names} {params.models} "
            "--rows {output.rows} --cost {output.cost} --markers {output.markers} >> {log} 2>&1"


if PAIRED:

    rule generate_after:
        """Write once more from attacked sources: how far the output itself falls."""
        input:
            model=EACH_RUN.model,
            shared=FILES.attack_manifest,
            attack=EACH_RUN.attack("{attack}").rows,
            test=FILES.split("attack_test").marker,
            documents=FILES.documents,
        output:
            rows=EACH_RUN.generation_after("{attack}").rows,
            cost=EACH_RUN.generation_after("{attack}").cost,
            marker=EACH_RUN.generation_after("{attack}").marker,
        log:
            FILES.log("generate_after/{attack}/{arm}-seed-{seed}"),
        benchmark:
            FILES.timing("generate_after/{attack}/{arm}-seed-{seed}")
        conda:
            "../envs/isotone.yaml"
        resources:
            mem_mb=4_000,
        params:
            settings=settings(generation=study.generation),
            variant=lambda wildcards: SPECS[wildcards.attack].primary(
                study.attacks.of(wildcards.attack)
            ),
            code=code_digest("generate_after"),
        shell:
            "exec python scripts/generate_after.py --settings {params.settings:q} --model {input.model} "
            "--shared $(dirname {input.shared}) --attack {input.attack} --variant {params.variant} "
            "--split $(dirname {input.test}) --documents {input.documents}/attack_test.parquet "
            "--rows {output.rows} --cost {output.cost} --marker {output.marker} >> {log} 2>&1"
