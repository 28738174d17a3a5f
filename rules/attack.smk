# Needs: trained models and the shared attack documents. Makes: attack rows, triggers, transfers.


rule attack_documents:
    """Fix the documents, positions and vocabulary that every attack on every model shares."""
    input:
        model=f"results/{{study}}/{INITIAL}",
        test="results/{study}/data/attack_test/data.json",
        search="results/{study}/data/attack_search/data.json",
    output:
        documents="results/{study}/data/attack/documents.jsonl",
        vocabulary="results/{study}/data/attack/vocabulary.json",
        marker="results/{study}/data/attack/manifest.json",
    log:
        "results/{study}/logs/attack_documents.log",
    benchmark:
        "results/{study}/timings/attack_documents.tsv"
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


rule attack_hotflip:
    """Attack one model; the search differs between the attacks, the damage is measured alike."""
    input:
        model="results/{study}/runs/{arm}/seed-{seed}/model",
        documents="results/{study}/data/attack/manifest.json",
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/attacks/hotflip.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/attacks/hotflip.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/attacks/hotflip.json",
    log:
        "results/{study}/logs/attacks/hotflip/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/attacks/hotflip/{arm}-seed-{seed}.tsv"
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
        runtime="4h",
    params:
        attack="hotflip",
        settings=attack_settings("hotflip"),
        code=code_digest("attack"),
    shell:
        "exec python scripts/attack.py --attack {params.attack} --settings {params.settings:q} --model {input.model} "
        "--documents $(dirname {input.documents}) "
        "--rows {output.rows} --cost {output.cost} --marker {output.marker} >> {log} 2>&1"


use rule attack_hotflip as attack_uat with:
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/attacks/uat.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/attacks/uat.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/attacks/uat.json",
    log:
        "results/{study}/logs/attacks/uat/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/attacks/uat/{arm}-seed-{seed}.tsv"
    params:
        attack="uat",
        settings=attack_settings("uat"),
        code=code_digest("attack"),


use rule attack_hotflip as attack_gcg with:
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/attacks/gcg.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/attacks/gcg.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/attacks/gcg.json",
    log:
        "results/{study}/logs/attacks/gcg/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/attacks/gcg/{arm}-seed-{seed}.tsv"
    params:
        attack="gcg",
        settings=attack_settings("gcg"),
        code=code_digest("attack"),


use rule attack_hotflip as attack_query with:
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/attacks/query.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/attacks/query.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/attacks/query.json",
    log:
        "results/{study}/logs/attacks/query/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/attacks/query/{arm}-seed-{seed}.tsv"
    params:
        attack="query",
        settings=attack_settings("query"),
        code=code_digest("attack"),


use rule attack_hotflip as attack_random with:
    output:
        rows="results/{study}/runs/{arm}/seed-{seed}/attacks/random.jsonl",
        cost="results/{study}/runs/{arm}/seed-{seed}/attacks/random.cost.jsonl",
        marker="results/{study}/runs/{arm}/seed-{seed}/attacks/random.json",
    log:
        "results/{study}/logs/attacks/random/{arm}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/attacks/random/{arm}-seed-{seed}.tsv"
    params:
        attack="random",
        settings=attack_settings("random"),
        code=code_digest("attack"),


rule transfer:
    """Replay every run's flips or triggers on one target."""
    input:
        target="results/{study}/runs/{target}/seed-{seed}/model",
        documents="results/{study}/data/attack/manifest.json",
        sources=lambda wildcards: [
            in_study(f"runs/{arm}/seed-{seed}/attacks/{wildcards.attack}.jsonl")
            for arm in study.arms
            for seed in study.seeds_of(arm)
        ],
    output:
        rows="results/{study}/transfer/{attack}/{target}-seed-{seed}.jsonl",
        cost="results/{study}/transfer/{attack}/{target}-seed-{seed}.cost.jsonl",
        marker="results/{study}/transfer/{attack}/{target}-seed-{seed}.json",
    log:
        "results/{study}/logs/transfer/{attack}/{target}-seed-{seed}.log",
    benchmark:
        "results/{study}/timings/transfer/{attack}/{target}-seed-{seed}.tsv"
    wildcard_constraints:
        target=r"[a-z][a-z0-9_]*",
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        names=[
            f"{arm}/seed-{seed}" for arm in study.arms for seed in study.seeds_of(arm)
        ],
        settings=lambda wildcards: attack_settings(wildcards.attack)(wildcards),
        code=code_digest("transfer"),
    shell:
        "exec python scripts/transfer.py --attack {wildcards.attack} --settings {params.settings:q} "
        "--target {input.target} --documents $(dirname {input.documents}) "
        "--sources {input.sources} --source-names {params.names} "
        "--rows {output.rows} --cost {output.cost} --marker {output.marker} >> {log} 2>&1"
