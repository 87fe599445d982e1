"Mixtures of preference models by user: EM against brute force, optimisers that know nothing of EM, and bad input."
import itertools, time, warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import approx_fprime
from scipy.special import expit, logsumexp
from maxmin_nb.mixture import RewardMixture, choose_groups, e_step, fit_mixture, match_groups

def simulate(seed, sizes, m, d, scale=1.):
    rng = np.random.default_rng(seed)
    g = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    phi, u = rng.normal(size=(len(sizes), d))*scale, np.repeat(np.arange(len(g)), m)
    x = rng.normal(size=(len(u), d))
    first = rng.random(len(u)) < expit((x*phi[g[u]]).sum(1))
    return np.where(first[:, None], x, -x), u, g, phi

def objective(diff, users, coef, weights, l2):
    "The penalised log-likelihood written out, one user and one group at a time."
    total = 0.
    for h in set(users.tolist()):
        total += logsumexp([np.log(w) + sum(-np.logaddexp(0, -d@c) for d in diff[users == h]) for w, c in zip(weights, coef.T)])
    return total - l2/2*(coef**2).sum()

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.sampled_from(['soft', 'hard']), st.sampled_from([1e-3, .1, 3.]), st.sampled_from([.1, 1., 6.]))
def test_objective_never_decreases(seed, K, m, d, method, l2, scale):
    diff, u, g, _ = simulate(seed, [3]*K + [2], m, d, scale)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = fit_mixture(diff, u, K, method, l2=l2, restarts=3, seed=seed)
    assert len(r.traces) == (3 if K > 1 else 1)
    for t in r.traces: assert (np.diff(t) >= -1e-8*(1 + abs(t[1:]))).all()
    assert r.trace[-1] == max(t[-1] for t in r.traces)
    assert np.allclose(r.responsibilities.sum(1), 1) and np.isclose(r.weights.sum(), 1) and (np.diff(r.weights) <= 1e-12).all()

def test_trace_is_the_penalised_likelihood_and_its_end_is_stationary():
    diff, u, _, _ = simulate(1, [12, 8], 8, 3)
    r = fit_mixture(diff, u, 2, l2=.3, tol=1e-13, max_iter=5000)
    f = lambda z: objective(diff, u, z[1:].reshape(3, 2), [expit(z[0]), expit(-z[0])], .3)
    z = np.r_[np.log(r.weights[0]/r.weights[1]), r.coef.ravel()]
    assert np.isclose(f(z), r.trace[-1], atol=1e-8)
    assert np.isclose(r.log_likelihood, r.trace[-1] + .15*(r.coef**2).sum())
    assert abs(approx_fprime(z, f, 1e-6)).max() < 1e-3

def test_hard_em_ends_in_a_partition_that_no_single_move_improves_for_its_rewards():
    diff, u, _, _ = simulate(2, [5, 4], 6, 2)
    r = fit_mixture(diff, u, 2, 'hard', l2=.1, restarts=40)
    assert set(np.unique(r.responsibilities)) == {0, 1}
    from maxmin_nb.rlhf import bt_loss, fit_bradley_terry
    def best(z):                                  # exhaustive: the rewards' optimum for every partition
        total = 0.
        for k in (0, 1):
            rows = np.isin(u, np.flatnonzero(z == k))
            if rows.any(): c = fit_bradley_terry(diff[rows], l2=.1); total -= bt_loss(c, diff[rows], l2=.1)
        return total
    top = max(best(np.array(z)) for z in itertools.product((0, 1), repeat=9))
    assert np.isclose(r.trace[-1], top, atol=1e-5)

def test_one_group_is_the_pooled_fit():
    from maxmin_nb.rlhf import fit_bradley_terry
    diff, u, _, _ = simulate(3, [6, 4], 10, 4)
    w = np.random.default_rng(0).random(len(u))
    r = fit_mixture(diff, u, 1, l2=.2, weight=w, tol=1e-14)
    assert np.allclose(r.coef[:, 0], fit_bradley_terry(diff, weight=w, l2=.2), atol=1e-5)

def test_weights_are_repetitions():
    diff, u, _, _ = simulate(4, [6, 4], 6, 2)
    n = np.random.default_rng(0).integers(1, 4, len(u))
    a, b = fit_mixture(diff, u, 2, weight=n), fit_mixture(np.repeat(diff, n, 0), np.repeat(u, n), 2)
    assert np.allclose(a.coef, b.coef, atol=1e-6) and np.isclose(a.log_likelihood, b.log_likelihood)

def test_order_of_rows_and_names_of_users_do_not_matter():
    diff, u, _, _ = simulate(5, [8, 4], 12, 3, 1.5)
    a = fit_mixture(diff, u, 2)
    p = np.random.default_rng(1).permutation(len(u))
    b = fit_mixture(diff[p], [f'user {o}' for o in u[p]], 2, seed=9)
    assert np.isclose(a.log_likelihood, b.log_likelihood, atol=1e-3) and np.allclose(a.coef, b.coef, atol=1e-2)
    assert b.users == list(dict.fromkeys(f'user {o}' for o in u[p]))
    assert (a.groups[[int(o.split()[1]) for o in b.users]] == b.groups).all()

@pytest.mark.parametrize('method', ['soft', 'hard'])
@pytest.mark.parametrize('seed', range(4))
def test_recovery(method, seed):
    diff, u, g, phi = simulate(seed, [25, 5], 60, 12, .6)
    r = fit_mixture(diff, u, 2, method)
    acc, perm = match_groups(r.groups, g)
    assert acc == 1
    for k in (0, 1): assert np.corrcoef(r.coef[:, k], phi[perm[k]])[0, 1] > .85
    assert np.allclose(r.assign(diff, u), r.responsibilities)

def test_new_users_and_predictions():
    diff, u, g, phi = simulate(7, [20, 10], 40, 5)
    seen = u < 24
    r = fit_mixture(diff[seen], u[seen], 2)
    q = r.assign(diff[~seen], u[~seen])
    assert q.shape == (6, 2)
    perm = match_groups(r.groups, g[:24])[1]
    assert (perm[q.argmax(1)] == g[24:]).all()
    p = r.predict_proba(diff[:3], [u[0], 'nobody', u[2]])
    s = expit(diff[:3]@r.coef)
    assert np.allclose(p, [s[0]@r.responsibilities[0], s[1]@r.weights, s[2]@r.responsibilities[r.users.index(u[2])]])
    assert np.allclose(r.predict_proba(diff[:3]) + r.predict_proba(-diff[:3]), 1)
    assert np.isclose(r.user_log_likelihood(diff[seen], u[seen]).sum(), r.log_likelihood)

def test_deterministic_by_seed():
    diff, u, _, _ = simulate(8, [6, 6], 5, 3)
    a, b = fit_mixture(diff, u, 2, seed=3), fit_mixture(diff, u, 2, seed=3)
    assert (a.coef == b.coef).all() and (a.trace == b.trace).all()

def test_emptied_component_is_reseeded_with_a_warning():
    diff, u = np.ones((24, 1)), np.repeat(np.arange(6), 4)      # six people who agree on everything
    with pytest.warns(UserWarning, match='n_groups=4 may be too many'): r = fit_mixture(diff, u, 4, 'hard', l2=.1)
    assert np.isfinite(r.coef).all() and np.isfinite(r.log_likelihood)

def test_runs_out_of_iterations():
    diff, u, _, _ = simulate(9, [30, 30], 3, 4, .5)
    with pytest.warns(UserWarning, match='max_iter=3'): fit_mixture(diff, u, 2, max_iter=3)

def test_extreme_features_stay_finite():
    diff, u, g, _ = simulate(10, [8, 8], 10, 3)
    for s in (1e-6, 1e6):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for method in ('soft', 'hard'): assert np.isfinite(fit_mixture(diff*s, u, 2, method).coef).all()

@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('users', [['a', 'b', 'a', 'c'], [3, 1, 3, 2]])
def test_save_and_load(tmp_path, users):
    diff = np.random.default_rng(0).normal(size=(4, 2))
    a = fit_mixture(diff, users, 2, restarts=3)
    a.save(tmp_path/'m.safetensors')
    b = RewardMixture.load(tmp_path/'m.safetensors')
    assert a.users == b.users and a.method == b.method and a.log_likelihood == b.log_likelihood and a.n_comparisons == b.n_comparisons
    for k in ('coef', 'weights', 'responsibilities', 'trace'): assert (getattr(a, k) == getattr(b, k)).all()
    assert all((s == t).all() for s, t in zip(a.traces, b.traces, strict=True))
    (tmp_path/'x.safetensors').write_bytes(b'{}')
    with pytest.raises(ValueError, match='damaged'): RewardMixture.load(tmp_path/'x.safetensors')

@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 10**6))
def test_match_groups_is_the_best_permutation(n, K, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, K, n), rng.integers(0, K, n)
    acc, perm = match_groups(a, b)
    assert np.isclose(acc, max((np.array(p)[a] == b).mean() for p in itertools.permutations(range(K))))
    assert np.isclose((perm[a] == b).mean(), acc)

def test_choose_groups():
    diff, u, _, _ = simulate(11, [20, 15], 30, 4)
    table = choose_groups(diff, u, (1, 2, 3), restarts=3)
    assert max(table, key=lambda o: o['heldout'])['n_groups'] == 2 and min(table, key=lambda o: o['bic'])['n_groups'] == 2

def test_fast_enough():
    diff, u, _, _ = simulate(12, [25, 5], 60, 24, .35)
    t = time.perf_counter(); fit_mixture(diff, u, 2, restarts=10)
    assert time.perf_counter() - t < 2

x, u = np.random.default_rng(0).normal(size=(6, 2)), [0, 0, 1, 1, 2, 2]
bad = x.copy(); bad[2, 1] = np.nan
@pytest.mark.parametrize('f, says', [
    (lambda: fit_mixture(x, u, 0), 'n_groups is 0'), (lambda: fit_mixture(x, u, 4), 'there are 3 users'), (lambda: fit_mixture(x, u, 2.), 'n_groups is 2.0'),
    (lambda: fit_mixture(bad, u, 2), 'NaN'), (lambda: fit_mixture(x, u[:5], 2), '5 users and 6 comparisons'), (lambda: fit_mixture(x, [None]*6, 1), 'missing id'),
    (lambda: fit_mixture(x, u, 2, weight=[1, 1, 0, 0, 1, 1]), 'user 1 has no comparison'), (lambda: fit_mixture(x, u, 2, weight=[-1]*6), 'nonnegative'),
    (lambda: fit_mixture(x[:0], [], 1), 'at least one'), (lambda: fit_mixture(x, u, 2, method='fuzzy'), "method is 'fuzzy'"), (lambda: fit_mixture(x, u, 2, l2=-1), 'l2 is -1'),
    (lambda: fit_mixture(abs(x), u, 1, l2=0), 'separable'), (lambda: fit_mixture(abs(x), u, 2, l2=0), 'separable'),
    (lambda: fit_mixture(x, u, 1).rewards(np.ones((2, 3))), 'last axis must be 2'), (lambda: match_groups([0, 1], [0]), 'one label')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()
