# The one graph of an experiment. What it consists of is planned by lethe/experiment/plan.py from the params file; the rules say how
# each kind of result is made and what it needs. Another experiment: snakemake --cores 2 --config params=params/own.yaml
from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/encode.smk"
include: "rules/weights.smk"
include: "rules/samples.smk"
include: "rules/attacks.smk"
include: "rules/metrics.smk"
include: "rules/report.smk"


localrules:
    all,
    weights,
    samples,
    metrics,
    plan,


rule all:
    default_target: True
    input:
        PLAN.stamp,


rule weights:
    input:
        ancient(get_metas("encode", "weights")),


rule samples:
    input:
        ancient(get_metas("samples")),


rule metrics:
    input:
        ancient(get_metas("metrics")),


onerror:
    say_advice(log)
