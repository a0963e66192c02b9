# Pictures of erased concepts under an attack; scored by the rule of all pictures.
rule attack:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/samples/{arm}/{result}/meta.json"),
    log:
        "logs/{experiment}/samples/{arm}/{result}.log",
    benchmark:
        "benchmarks/{experiment}/samples/{arm}/{result}.tsv"
    wildcard_constraints:
        arm=one_of("attack", "arm"),
        result=one_of("attack"),
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
        "exec python -m stages.attack {params.arguments} --threads {threads} > {log} 2>&1"
