# Needs: a corpus and a model source. Makes: split documents, base model, tokens.

SCRATCH = study.model.source == "scratch"
PAIRED = study.data.task == "pairs"
ONLINE = {study.model.source, *(source.source for source in study.data.candidates())}
FETCHED = [LAYOUT.fetched] if "hub" in ONLINE else []


if FETCHED:

    localrules:
        fetch,


rule fetch:
    """Download model and dataset into the cache; the only step that uses the network."""
    output:
        marker=FILES.fetched,
    log:
        FILES.log("fetch"),
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
    params:
        settings=settings(
            model=study.model,
            data=study.data,
            **({"revisions": study.revisions()} if study.revisions() else {}),
        ),
    shell:
        "exec env HF_HUB_OFFLINE=$ISOTONE_HUB_OFFLINE HF_DATASETS_OFFLINE=$ISOTONE_HUB_OFFLINE python scripts/fetch.py --settings {params.settings:q} --marker {output.marker} >> {log} 2>&1"


rule corpus:
    """Read the documents and split them, disjoint by document."""
    input:
        FETCHED,
    output:
        documents=directory(FILES.documents),
        marker=FILES.corpus,
    log:
        FILES.log("corpus"),
    benchmark:
        FILES.timing("corpus")
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=2_000,
    params:
        settings=settings(**as_mapping(study.data), version=Corpus.version),
    shell:
        "exec python scripts/corpus.py --settings {params.settings:q} --documents {output.documents} "
        "--marker {output.marker} >> {log} 2>&1"


rule setup:
    """Bring model and tokenizer into one form, and prove that they work."""
    input:
        FETCHED,
        documents=FILES.documents,
    output:
        model=directory(FILES.initial(SCRATCH)),
        marker=FILES.setup,
    log:
        FILES.log("setup"),
    benchmark:
        FILES.timing("setup")
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=4_000,
        # A longer window needs no other model, so it is no parameter.
        longest=study.longest_sequence(),
    params:
        settings=settings(
            model=study.model,
            base_seed=study.base.seed,
            document_start=study.data.document_start,
            length=study.training.length,
            dtype=study.training.precision,
            version=Setup.version,
            **({"task": study.data.task} if PAIRED else {}),
        ),
    shell:
        "exec python scripts/setup.py --settings {params.settings:q} --documents {input.documents} "
        "--longest {resources.longest} --model {output.model} --marker {output.marker} >> {log} 2>&1"


rule tokenize:
    """Turn one split into memory-mapped tokens."""
    input:
        documents=FILES.documents,
        model=FILES.initial(SCRATCH),
    output:
        tokens=FILES.split("{split}").tokens,
        documents=FILES.split("{split}").documents,
        marker=FILES.split("{split}").marker,
        sources=FILES.split("{split}").sources if PAIRED else [],
    log:
        FILES.log("tokenize/{split}"),
    benchmark:
        FILES.timing("tokenize/{split}")
    conda:
        "../envs/isotone.yaml"
    resources:
        mem_mb=2_000,
    params:
        settings=tokens_settings,
    shell:
        "exec python scripts/tokenize_split.py --settings {params.settings:q} --tokenizer {input.model} "
        "--documents {input.documents}/{wildcards.split}.parquet --out $(dirname {output.marker}) >> {log} 2>&1"
