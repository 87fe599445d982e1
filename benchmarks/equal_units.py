"""Two to one: does MaxMin fall short of one reward because the same β buys it less KL?

    python benchmarks/equal_units.py [out.json] [tables] [folder]

A mean of two unrelated rewards of unit deviation, with equal weights, has half the variance of one such reward, so the same β allows MaxMin half the KL. Here MaxMin is trained with β/√2, which makes the two equal, at scale
laptop, ratio 2:1, seeds 0 and 1, and its worst-off utility is compared, prompt by prompt, with that of the single reward in the tables (default nbs/results/study). The folder (default runs/study) is the queue's: its samples are used, and what is there is not run again.
"""
import sys, time
from dataclasses import replace
from pathlib import Path
import pandas as pd
from maxmin_nb.core import get_scale, provenance, require, write_json
from maxmin_nb.gpt2 import Study, compare, limit_table, pick, read_tables, whole_study

RATIO, SEEDS = 2., (0, 1)


def main(out='nbs/results/bench/equal_units.json', prefix='nbs/results/study', folder='runs/study'):
    texts = pick(read_tables(prefix)['texts'], ratio=RATIO)
    at = {s.seed: s for s in whole_study(get_scale('laptop')) if s.scale.ratio == RATIO and s.seed in SEEDS}
    missing = [s for s in SEEDS if not {'single', 'maxmin'} <= set(texts[texts.seed == s].method)]
    require(not missing, f"{prefix}_texts.parquet lacks the policies at 2:1 of seeds {missing}; `maxmin gpt2 --all` makes them")
    t0, new = time.perf_counter(), []
    for seed in SEEDS:
        s = replace(at[seed], scale=replace(at[seed].scale, beta=at[seed].scale.beta/2**.5), methods=('maxmin',))
        study = Study(s, Path(folder)/f'equal-units-seed{seed}', shared=Path(folder)/f'shared-laptop-seed{seed}').prepare()
        study._method('maxmin')
        new.append(study.rows(['maxmin'])['texts'])
    new = pd.concat(new)
    reference = lambda t: t[t.method == 'reference'].sort_values(['seed', 'prompt', 'sample']).text.tolist()
    same = reference(new) == reference(texts[texts.seed.isin(SEEDS)])
    require(same, "the reference's answers differ from those of the tables, so the tables are another machine's; make them anew here")
    single = texts[(texts.method == 'single') & texts.seed.isin(SEEDS)]
    both = {'same β': texts[texts.seed.isin(SEEDS)], 'β/√2': pd.concat([new, single])}
    rows = [dict(maxmin=name, beta=at[0].scale.beta/(1 if name == 'same β' else 2**.5), gain=compare(t, 'maxmin', 'single'), **limit_table(t, ['maxmin']).groupby('method')[['kl', 'worst', 'limit']].mean().iloc[0].to_dict()) for name, t in both.items()]
    one = limit_table(pd.concat([single, new[new.method == 'reference']]), ['single']).groupby('method')[['kl', 'worst', 'limit']].mean().iloc[0].to_dict()
    write_json(out, dict(ratio=RATIO, seeds=SEEDS, runs=rows, single=one, seconds=time.perf_counter() - t0, **provenance()))
    for r in rows: print(f"{r['maxmin']}: {r['kl']:.2f} nats, worst-off {r['worst']:+.2f} (limit {r['limit']:+.2f}), less single {r['gain']['mean']:+.2f} [{r['gain']['low']:+.2f}, {r['gain']['high']:+.2f}]")
    print(f"single: {one['kl']:.2f} nats, worst-off {one['worst']:+.2f} (limit {one['limit']:+.2f})")


if __name__ == '__main__': main(*sys.argv[1:])
