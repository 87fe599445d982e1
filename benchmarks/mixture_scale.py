"""Time and memory of fit_mixture against the number of comparisons: 20 features, three groups, up to 10⁵ users with integer ids, one start on a sample of users.

    python benchmarks/mixture_scale.py [largest exponent] [repeats]

Prints a table and the slope of the time of an EM iteration, the least of the repeats, and writes nbs/results/bench/mixture_scale.json, from which chapter 03 draws the
log-log figure. Each run is a process of its own, as memory is that process's peak.
The floor: the comparisons alone are n·20·8 bytes (1.6 GB at 10⁷), and an iteration does 2·n·20·(20 + 2)·3 multiplications and additions of which the products with K·20² dominate.
"""
import datetime, json, os, resource, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np

D, K, SIZES = 20, 3, ('1e4', '3e4', '1e5', '3e5', '1e6', '3e6', '1e7')
OUT = Path(__file__).resolve().parent.parent/'nbs/results/bench/mixture_scale.json'


def data(n, seed=0):
    "(diff (n, 20), users (n,)), made in pieces so that making them does not set the peak of memory."
    rng, H = np.random.default_rng(seed), min(10**5, n//20)
    phi, users = rng.normal(size=(D, K))*.5, np.sort(rng.integers(H, size=n))
    group, x = rng.choice(K, H, p=[.6, .3, .1]), np.empty((n, D))
    for i in range(0, n, 100_000):
        b = slice(i, i + 100_000)
        z = rng.normal(size=x[b].shape)
        first = rng.random(len(z)) < 1/(1 + np.exp(-np.take_along_axis(z@phi, group[users[b]][:, None], 1)[:, 0]))
        x[b] = np.where(first[:, None], z, -z)
    return x, users, group


def one(n):
    "One fit: seconds, least seconds of an iteration on everybody and of the processor in it, iterations, peak memory and that of the data alone in GiB, share of users placed right."
    from maxmin_nb import mixture
    x, users, group = data(n)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    before, steps, plain = peak(), [], mixture.m_step
    def timed(t, *rest):
        if len(t.row) == n: steps.append((time.perf_counter(), time.process_time()))
        return plain(t, *rest)
    mixture.m_step = timed
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = mixture.fit_mixture(x, users, K, restarts=1, sample=min(1000, n//20))
    seconds, (iteration, cpu) = time.perf_counter() - start, np.diff(np.array(steps)[1:], axis=0).min(0)
    ids, where = np.unique(group[m.users], return_inverse=True)
    return dict(n=n, users=len(m.users), seconds=seconds, iteration=float(iteration), iteration_cpu=float(cpu), iterations=len(m.trace), gib=peak(), data_gib=before,
                right=mixture.match_groups(m.groups, where)[0])


def main(largest=7, repeats=3):
    from maxmin_nb.core import provenance, write_json
    out = dict(date=datetime.date.today().isoformat(), load_before=os.getloadavg()[0], **provenance(), features=D, groups=K, repeats=repeats, rows=[])
    print(f'{D} features, {K} groups; matrix multiply {out["gflops"]:.0f} GFLOP/s; load {out["load_before"]:.1f}; least of {repeats} runs\n'
          'comparisons   users    fit s  iteration s  iterations  peak GiB  data GiB  placed right  GFLOP/s in an iteration')
    for size in SIZES:
        if float(size) > 10**float(largest): break
        runs = []
        for _ in range(repeats):
            done = subprocess.run([sys.executable, __file__, '--one', size], capture_output=True, text=True)
            if done.returncode: raise SystemExit(done.stderr)
            runs.append(json.loads(done.stdout))
        out['rows'].append(r := runs[0] | {k: min(o[k] for o in runs) for k in ('seconds', 'iteration', 'iteration_cpu')} | dict(gib=max(o['gib'] for o in runs), seconds_all=[o['seconds'] for o in runs]))
        r['gflops'] = 2*r['n']*D*(D + 2)*K/r['iteration']/1e9
        print(f'{r["n"]:11d}  {r["users"]:6d}  {r["seconds"]:7.2f}  {r["iteration"]:11.4f}  {r["iterations"]:10d}  {r["gib"]:8.2f}  {r["data_gib"]:8.2f}  {r["right"]:12.4f}  {r["gflops"]:.0f}', flush=True)
    out['load_after'] = os.getloadavg()[0]
    for k, name in (('iteration', 'slope'), ('iteration_cpu', 'slope_cpu')): out[name] = float(np.polyfit(*np.log([[r[o] for r in out['rows']] for o in ('n', k)]), 1)[0])
    print(f'slope of the time of an iteration: {out["slope"]:.3f} (of the processor: {out["slope_cpu"]:.3f}); load {out["load_after"]:.1f}')
    if float(largest) >= 7: write_json(OUT, out)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--one']: print(json.dumps(one(int(float(sys.argv[2])))))
    else: main(*map(int, sys.argv[1:]))
