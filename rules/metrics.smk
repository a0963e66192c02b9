# Scores of every picture, and metrics against the distilled model of the same budget and seed.
rule score:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/metrics/{arm}/{result}/meta.json"),
    log:
        "logs/{experiment}/metrics/{arm}/{result}.log",
    benchmark:
        "benchmarks/{experiment}/metrics/{arm}/{result}.tsv"
    wildcard_constraints:
        arm=one_of("score", "arm"),
        result=one_of("score"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=16000,
        runtime=480,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.score {params.arguments} --threads {threads} > {log} 2>&1"
