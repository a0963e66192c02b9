# Pictures of all prompt sets, one job a model; also those that the base model draws for a concept that brings none.
rule sample:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/samples/{arm}/{result}/meta.json"),
    log:
        "logs/{experiment}/samples/{arm}/{result}.log",
    benchmark:
        "benchmarks/{experiment}/samples/{arm}/{result}.tsv"
    wildcard_constraints:
        arm=one_of("sample", "arm"),
        result=one_of("sample"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=16000,
        runtime=1440,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.sample {params.arguments} --threads {threads} > {log} 2>&1"
