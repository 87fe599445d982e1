"""solve_maxmin and solve_minmax_regret against CVXPY with exponential cones, in one interleaved run on one core.

    OMP_NUM_THREADS=1 python benchmarks/maxmin_vs_cvxpy.py [rounds]

Needs the development dependency cvxpy. Prints seconds, the ratio, the largest difference of the values, and the matrix-multiply rate of the machine.
"""
import statistics, sys, time
import cvxpy as cp, numpy as np
from maxmin_nb.core import matmul_gflops
from maxmin_nb.maxmin import solve_maxmin, solve_minmax_regret
from maxmin_nb.rlhf import log_partition


def by_cvxpy(ref, rewards, beta, rho, best=None, **options):
    "(value, policy) of max_π min_u F_u(π) - best_u, stated for CVXPY."
    best = np.zeros(len(rewards)) if best is None else best
    pi, t = cp.Variable(ref.shape), cp.Variable()
    kl = rho@cp.sum(cp.rel_entr(pi, ref), axis=1)
    rules = [cp.sum(cp.multiply(rho[:, None]*r, pi)) - beta*kl - b >= t for r, b in zip(rewards, best)]
    problem = cp.Problem(cp.Maximize(t), [cp.sum(pi, axis=1) == 1, *rules])
    problem.solve(solver=cp.CLARABEL, **options)
    return problem.value, pi.value


def main(rounds=7, groups=4, prompts=200, responses=50, beta=.5):
    rng = np.random.default_rng(0)
    ref, rewards, rho = rng.dirichlet(np.ones(responses), prompts), rng.normal(size=(groups, prompts, responses)), np.full(prompts, 1/prompts)
    best = np.array([beta*log_partition(ref, r, beta, rho) for r in rewards])
    torch_threads()
    tasks = {'maxmin': (lambda: solve_maxmin(ref, rewards, beta, rho=rho), lambda: by_cvxpy(ref, rewards, beta, rho)),
             'regret': (lambda: solve_minmax_regret(ref, rewards, beta, rho), lambda: by_cvxpy(ref, rewards, beta, rho, best))}
    print(f'{groups} groups x {prompts} prompts x {responses} responses, beta {beta}, {rounds} rounds, matrix multiply {matmul_gflops():.0f} GFLOP/s, CVXPY {cp.__version__}')
    for name, pair in tasks.items():
        seconds, values = ([], []), [None, None]
        for _ in range(rounds):
            for i, f in enumerate(pair):
                start = time.perf_counter(); out = f(); seconds[i].append(time.perf_counter() - start)
                values[i] = out.value if i == 0 else out[0]
                if i == 0: gap = out.gap
        ours, theirs = (statistics.median(s) for s in seconds)
        print(f'{name}: ours {1e3*ours:.1f} ms, CVXPY {theirs:.2f} s, ratio {theirs/ours:.0f}, values differ by {abs(values[0] - values[1]):.1e}, our gap {gap:.1e}')


def torch_threads():
    "One thread for the rate of the matrix product too, so that it describes the core that is used."
    import torch
    torch.set_num_threads(1)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
