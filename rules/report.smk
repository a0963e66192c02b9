# The published folder. Its stamp carries the recipe of the whole report and is the target: no file with a plain path
# can be taken for a fresh one.
REPORT = os.path.dirname(PLAN.stamp)


rule plan:
    output:
        PLAN.file,
    log:
        f"logs/{PARAMS['experiment']}/plan.log",
    conda:
        "../envs/conda.yaml"
    params:
        file=PARAMS_FILE,
    shell:
        "python -m lethe.experiment.plan {params.file} --out {output} > {log} 2>&1"


rule report:
    input:
        ancient(get_missing(get_metas("weights", "samples", "metrics"), PLAN.stamp)),
        plan=ancient(PLAN.file),
    output:
        stamp=PLAN.stamp,
        page=report(
            f"{REPORT}/index.html",
            caption="../reports/captions/index.rst",
            category="Report",
        ),
        tables=report(
            expand(f"{REPORT}/tables/{{table}}.csv", table=PLAN.tables),
            caption="../reports/captions/table.rst",
            category="Tables",
        ),
        paired=report(
            expand(f"{REPORT}/tables/{{table}}_paired.csv", table=PLAN.tables),
            caption="../reports/captions/paired.rst",
            category="Tables",
        ),
    log:
        f"logs/{PARAMS['experiment']}/report.log",
    benchmark:
        f"benchmarks/{PARAMS['experiment']}/report.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        out=subpath(output.stamp, parent=True),
        experiment=PARAMS["experiment"],
        arguments=shlex.join(flags(PARAMS["report"])),
    shell:
        "exec python -m stages.report --plan {input.plan} --experiment {params.experiment} --out {params.out}"
        " {params.arguments} > {log} 2>&1"
