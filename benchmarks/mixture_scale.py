"""Time and memory of fit_mixture against the number of comparisons: 20 features, three groups, up to 10⁵ users with integer ids, one start on a sample of users.

    python benchmarks/mixture_scale.py [figure.png] [largest exponent]

Prints a table, the slope of the time of an EM iteration, and draws the log-log figure. Each size is a process of its own, as memory is that process's peak.
The floor: the comparisons alone are n·20·8 bytes (1.6 GB at 10⁷), and an iteration does 2·n·20·(20 + 2)·3 multiplications and additions of which the products with K·20² dominate.
"""
import json, resource, subprocess, sys, time, warnings
import numpy as np

D, K, SIZES = 20, 3, ('1e4', '3e4', '1e5', '3e5', '1e6', '3e6', '1e7')


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
    "One fit: seconds, seconds of an iteration on everybody, iterations, peak memory and that of the data alone in GiB, share of users placed right."
    from maxmin_nb import mixture
    x, users, group = data(n)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    before, steps, plain = peak(), [], mixture.m_step
    def timed(t, *rest):
        start = time.perf_counter(); out = plain(t, *rest)
        if len(t.row) == n: steps.append((start, time.perf_counter()))
        return out
    mixture.m_step = timed
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = mixture.fit_mixture(x, users, K, restarts=1, sample=min(1000, n//20))
    seconds, begun = time.perf_counter() - start, np.array(steps)[1:, 0]
    ids, where = np.unique(group[m.users], return_inverse=True)
    return dict(n=n, users=len(m.users), seconds=seconds, iteration=float(np.median(np.diff(begun))), iterations=len(m.trace), gib=peak(), data_gib=before,
                right=mixture.match_groups(m.groups, where)[0])


def figure(rows, path):
    from maxmin_nb.plots import new_figure
    fig, (a, b) = new_figure('Time and memory grow in proportion to the comparisons', 'comparisons', ncols=2)
    n = [r['n'] for r in rows]
    for key, label in (('seconds', 'whole fit'), ('iteration', 'one EM iteration')): a.plot(n, [r[key] for r in rows], label=label)
    for key, label in (('gib', 'peak of the process'), ('data_gib', 'of it before the fit')): b.plot(n, [r[key] for r in rows], label=label)
    for ax, y in ((a, 'seconds'), (b, 'GiB')): ax.set(xscale='log', yscale='log', ylabel=y); ax.legend()
    fig.savefig(path, dpi=130)


def main(path='', largest=7):
    from maxmin_nb.core import matmul_gflops
    print(f'{D} features, {K} groups; matrix multiply {matmul_gflops():.0f} GFLOP/s\ncomparisons   users    fit s  iteration s  iterations  peak GiB  data GiB  placed right  GFLOP/s in an iteration')
    rows = []
    for size in SIZES:
        if float(size) > 10**float(largest): break
        done = subprocess.run([sys.executable, __file__, '--one', size], capture_output=True, text=True)
        if done.returncode: raise SystemExit(done.stderr)
        rows.append(r := json.loads(done.stdout))
        print(f'{r["n"]:11d}  {r["users"]:6d}  {r["seconds"]:7.2f}  {r["iteration"]:11.4f}  {r["iterations"]:10d}  {r["gib"]:8.2f}  {r["data_gib"]:8.2f}  {r["right"]:12.4f}  {2*r["n"]*D*(D + 2)*K/r["iteration"]/1e9:.0f}', flush=True)
    big = [r for r in rows if r['n'] >= 1e5] if len(rows) > 3 else rows
    for name, some in (('all sizes', rows), ('from 10⁵', big)): print(f'slope of the time of an iteration, {name}: {np.polyfit(np.log([r["n"] for r in some]), np.log([r["iteration"] for r in some]), 1)[0]:.3f}')
    if path: figure(rows, path)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--one']: print(json.dumps(one(int(float(sys.argv[2])))))
    else: main(*sys.argv[1:])
