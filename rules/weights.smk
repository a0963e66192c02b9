# Weights: pruned once a budget, then healed, healed and made to forget in one run, or healed and erased afterwards.
rule prune:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/weights/pruned/{result}/meta.json"),
    log:
        "logs/{experiment}/weights/pruned/{result}.log",
    benchmark:
        "benchmarks/{experiment}/weights/pruned/{result}.tsv"
    wildcard_constraints:
        result=one_of("prune"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=12000,
        runtime=60,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.prune {params.arguments} --threads {threads} > {log} 2>&1"


rule distill:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/weights/distill/{result}/meta.json"),
    log:
        "logs/{experiment}/weights/distill/{result}.log",
    benchmark:
        "benchmarks/{experiment}/weights/distill/{result}.tsv"
    wildcard_constraints:
        result=one_of("distill"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=48000,
        runtime=2880,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.distill {params.arguments} --threads {threads} > {log} 2>&1"


rule bilevel:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/weights/bilevel/{result}/meta.json"),
    log:
        "logs/{experiment}/weights/bilevel/{result}.log",
    benchmark:
        "benchmarks/{experiment}/weights/bilevel/{result}.tsv"
    wildcard_constraints:
        result=one_of("bilevel"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=48000,
        runtime=2880,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.bilevel {params.arguments} --threads {threads} > {log} 2>&1"


rule erase:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/weights/{arm}/{result}/meta.json"),
    log:
        "logs/{experiment}/weights/{arm}/{result}.log",
    benchmark:
        "benchmarks/{experiment}/weights/{arm}/{result}.tsv"
    wildcard_constraints:
        arm=one_of("erase", "arm"),
        result=one_of("erase"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=32000,
        runtime=1440,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.erase {params.arguments} --threads {threads} > {log} 2>&1"
