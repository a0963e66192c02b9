# Frozen work on pictures: made or found, then encoded once for all trainings.
if PARAMS["pictures"]["make"]:

    rule pictures:
        output:
            touch(made_marker(PARAMS)),
        log:
            f"logs/{PARAMS['experiment']}/pictures.log",
        conda:
            "../envs/conda.yaml"
        threads: 4
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            make=PARAMS["pictures"]["make"],
        shell:
            "( {params.make} ) > {log} 2>&1"


rule encode:
    input:
        ancient(get_parents),
    output:
        update("results/{experiment}/encode/frozen/{result}/meta.json"),
    log:
        "logs/{experiment}/encode/frozen/{result}.log",
    benchmark:
        "benchmarks/{experiment}/encode/frozen/{result}.tsv"
    wildcard_constraints:
        result=one_of("encode"),
    conda:
        "../envs/conda.yaml"
    threads: 4
    resources:
        gpu=get_gpus,
        mem_mb=12000,
        runtime=240,
    params:
        arguments=get_arguments,
    shell:
        "exec python -m stages.encode {params.arguments} --threads {threads} > {log} 2>&1"
