"""Metrics: columns of values a picture, and numbers with their intervals that are made of them.

A family is one module, and adding a metric is adding that file:

    VERSION = 2                     # to be raised when its numbers change
    NEEDS = ("clip",)               # families whose columns it reads
    METRICS = {"cp": {"label": "CP", "unit": "%", "direction": "up", "digits": 1, "rows": "erased", "column": "cp",
                      "share": 1, "place": 20, "meaning": "prompts whose CLIP similarity fell below the reference's"}}
    def looks(work) -> dict[str, Look]                      # if any: networks that look at every drawn picture
    def measure(work, table) -> tuple[columns, metrics]
    def protocol(work) -> dict                              # if any: how its numbers came about; of each network of
                                                            # section score that it names, `weights` is added
    def files(work, table) -> dict[str, str]                # if any: name -> text, to stand beside scores.csv

`work` is a `lethe.measuring.work.Work`, `table` the scores so far, a row a picture. What several families ask of the
networks is in `lethe.measuring.networks`, means with their intervals are in `lethe.measuring.values`, other models'
pictures in `lethe.measuring.pairing`.

`looks` names networks to be run in the one pass over the pictures; their output is `work.seen[name]`. `columns` are
per-image values in the table's order (NaN where a picture has none); `metrics` hold, for each name in METRICS, a Value,
or the reason (a sentence) why this run cannot have it, and may hold "name:category" beside a declared name.

METRICS is a literal, read without importing the module: report and planning take their lists from it. The report makes
its number anew from the column, with the training seeds in its interval:

    rows      erased | near | other | retain | eval: pictures whose column is averaged; "": no column of the tables
    column    the column of scores.csv
    share     1: percentage of these rows whose column is 1; 0: percentage whose column is not; absent: the mean itself
    over      reference | base: divided by the mean of the distilled (the dense) model's same rows, * 100; with share 0
              what is missing of that to 100
    label, unit, digits, direction, meaning     how it is shown, and which way is better
    of_reference    the value of the reference itself, where that is so by definition
    place     order of columns
    table     tables that show it, such as ["unsafe"]; absent: all of them (`kept` has none of erased or eval rows)
    by        "category": also over the prompts of each category that the prompt files tell
    hidden    true: in the CSV, not in the printed table
    names     a key of its protocol that tells the network: the heading of its column names that too
"""
