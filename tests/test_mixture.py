"Mixtures of preference models by user: EM against brute force, optimisers that know nothing of EM, and bad input."
import itertools, time, warnings
import numpy as np, pytest
from dataclasses import replace
from hypothesis import given, settings, strategies as st
from scipy.optimize import approx_fprime, minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, logsumexp
from maxmin_nb import mixture
from maxmin_nb.mixture import RewardMixture, align, choose_groups, e_step, fit_mixture, item_differences, match_groups
from maxmin_nb.preferences import chernoff_information

many = settings(max_examples=200, deadline=None)
quiet = pytest.mark.filterwarnings('ignore::UserWarning')

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

def test_shares_are_mean_responsibilities():
    diff, u, _, _ = simulate(1, [12, 8], 8, 3)
    for method in ('soft', 'hard'):
        r = fit_mixture(diff, u, 2, method, l2=.3, tol=1e-13, max_iter=2000)
        assert np.allclose(r.weights, r.responsibilities.mean(0), atol=1e-5) and abs(r.weights[0] - .5) > .01

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

def test_a_climb_that_ran_out_of_iterations_is_no_convergence():
    diff, u, _, _ = simulate(0, [70, 70, 60], 4, 3, 2.)
    best = fit_mixture(diff, u, 3)
    with pytest.warns(UserWarning, match='had not converged after max_iter=6'): short = fit_mixture(diff, u, 3, max_iter=6)
    assert short.trace[-1] < best.trace[-1] - 1e-4

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

@many
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.sampled_from([.1, 1., 5.]), st.booleans())
def test_responsibilities_are_bayes_posteriors(seed, K, m, d, scale, ties):
    "With the products written out; they are the same in blocks of any size, from sparse and single-precision features; the objective is its own lower bound's maximum."
    rng = np.random.default_rng(seed)
    diff, u, _, _ = simulate(seed, [2, 3], m, d, scale)
    coef, eta, w, tie = rng.normal(size=(d, K)), rng.dirichlet(np.ones(K)), rng.random(len(u)) + .1, rng.random(len(u)) < .3*ties
    s = expit(diff@coef)
    like = np.array([np.prod(np.where(tie[:, None], np.sqrt(s*(1 - s)), s)[u == h]**w[u == h, None], axis=0) for h in range(5)])
    joint = eta*like
    p = rng.permutation(len(u))
    for x in (diff, diff[p], csr_matrix(diff)):
        rows = p if x is not diff and not hasattr(x, 'tocsr') else np.arange(len(u))
        t = mixture._table(x, u[rows], w[rows], tie[rows])
        q, obj = e_step(mixture._user_sums(t, coef), eta)
        order = [t.users.index(h) for h in range(5)]
        assert np.allclose(q[order], joint/joint.sum(1, keepdims=True), atol=1e-9) and np.isclose(obj, np.log(joint.sum(1)).sum())
    a = rng.dirichlet(np.ones(K), 5)
    with np.errstate(divide='ignore', invalid='ignore'): assert np.nansum(a*(np.log(joint) - np.log(a))) <= obj + 1e-9
    single = e_step(mixture._user_sums(mixture._table(diff.astype(np.float32), u, w, tie), coef), eta)[0]
    assert np.allclose(single, joint/joint.sum(1, keepdims=True), atol=1e-4)

@many
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.floats(0, 2))
def test_gradient_and_curvature(seed, K, d, l2):
    "Fisher's identity and the Hessian of Q against numerical differences."
    rng = np.random.default_rng(seed)
    diff, u, _, _ = simulate(seed, [2, 2], 5, d)
    t, coef, eta, w = mixture._table(diff, u, rng.random(len(u)) + .1), rng.normal(size=(d, K)), rng.dirichlet(np.ones(K)*3), None
    q = e_step(mixture._user_sums(t, coef), eta)[0]
    g, H = mixture._curvature(t, q, coef, l2)
    ell = lambda c: -e_step(mixture._user_sums(t, c.reshape(d, K)), eta)[1] + l2/2*(c**2).sum()
    assert np.allclose(approx_fprime(coef.ravel(), ell, 1e-6), g.T.ravel(), atol=1e-3)
    e = 1e-5*np.eye(d)
    for k in range(K):
        bump = lambda o: mixture._curvature(t, q, coef + np.eye(K)[k]*o[:, None], l2, hessian=False)[0][k]
        assert np.allclose([(bump(o) - bump(-o))/2e-5 for o in e], H[k], atol=1e-5)

@quiet
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 3), st.sampled_from([.05, 1.]))
def test_no_restart_beats_a_general_optimiser_from_its_end(seed, K, l2):
    "BFGS on the likelihood written out, which knows nothing of EM, gains nothing from where the fit ended."
    diff, u, _, _ = simulate(seed, [4, 4, 4], 6, 2, 1.5)
    r = fit_mixture(diff, u, K, l2=l2, restarts=2, tol=1e-12, max_iter=2000)
    def loss(z):
        a, c = np.r_[z[:K-1], 0], z[K-1:].reshape(2, K)
        ll = np.stack([np.bincount(u, -np.logaddexp(0, -diff@c[:, k])) for k in range(K)], 1)
        return -logsumexp(ll + a - logsumexp(a), axis=1).sum() + l2/2*(c**2).sum()
    w = np.maximum(r.weights, 1e-12)
    z = np.r_[np.log(w[:-1]/w[-1]), r.coef.ravel()]
    assert np.isclose(-loss(z), r.trace[-1], atol=1e-6)
    assert -minimize(loss, z, method='BFGS').fun <= r.trace[-1] + 1e-3

def test_one_group_is_scikit_learns_logistic_regression():
    "Coefficients within 1e-6, with and without a penalty."
    linear_model = pytest.importorskip('sklearn.linear_model')
    for seed, (n, d) in enumerate([(2000, 3), (5000, 20), (600, 8)]):
        diff, u, _, _ = simulate(seed, [n//20], 20, d, .5)
        flip = np.random.default_rng(seed).random(len(diff)) < .5
        x, y = np.where(flip[:, None], -diff, diff), ~flip
        for l2 in (.5, 20.):
            theirs = linear_model.LogisticRegression(C=1/l2, fit_intercept=False, solver='newton-cholesky', tol=1e-12, max_iter=1000).fit(x, y).coef_[0]
            assert abs(fit_mixture(diff, u, 1, l2=l2).coef[:, 0] - theirs).max() < 1e-6
        theirs = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, solver='newton-cholesky', tol=1e-12, max_iter=1000).fit(x, y).coef_[0]
        assert abs(fit_mixture(diff, u, 1, l2=0).coef[:, 0] - theirs).max() < 1e-6

@quiet
@pytest.mark.parametrize('seed', range(5))
def test_recovery_where_the_chernoff_rate_says_so(seed):
    "As many comparisons a person as make the bound of an error, (K - 1) e^{-mC}, at most half of one per cent: EM places at least 99 % of 300 people."
    rng = np.random.default_rng(seed)
    phi, pool = rng.normal(size=(3, 6))*.7, rng.normal(size=(500, 6))
    C = min(chernoff_information(*expit(phi[[a, b]]@pool.T))[0] for a, b in ((0, 1), (0, 2), (1, 2)))
    m = int(np.ceil(np.log(2/.005)/C))
    g, u = np.repeat([0, 1, 2], [150, 90, 60]), np.repeat(np.arange(300), m)
    x = pool[rng.integers(500, size=len(u))]
    diff = np.where((rng.random(len(u)) < expit((x*phi[g[u]]).sum(1)))[:, None], x, -x)
    assert match_groups(fit_mixture(diff, u, 3).groups, g)[0] >= .99
    few = np.arange(len(u))%m < 2                                       # and with two comparisons a person nobody could
    assert match_groups(fit_mixture(diff[few], u[few], 3, l2=.1).groups, g)[0] < .9

# Ties

@many
@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(.05, .9))
def test_a_tie_is_half_a_choice_each_way(seed, K, share):
    rng = np.random.default_rng(seed)
    diff, u, _, _ = simulate(seed, [4, 4], 6, 2)
    tie = rng.random(len(u)) < share
    w = rng.random(len(u)) + .2
    both = lambda: fit_mixture(np.r_[diff[~tie], diff[tie], -diff[tie]], np.r_[u[~tie], u[tie], u[tie]], K, restarts=1, seed=seed, weight=np.r_[w[~tie], w[tie]/2, w[tie]/2], l2=.1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a, b = fit_mixture(diff, u, K, restarts=1, seed=seed, weight=w, tie=tie, l2=.1), both()
    at = [b.users.index(h) for h in a.users]
    if K == 1: assert np.allclose(a.coef, b.coef, atol=1e-7)
    q = b.assign(diff, u, w, tie)                                        # at the same parameters everything agrees
    assert np.allclose(q, b.responsibilities[at], atol=1e-9)
    assert np.isclose(b.user_log_likelihood(diff, u, w, tie).sum(), b.log_likelihood) and a.n_comparisons == len(u)

def test_ties_are_davidsons_model_where_they_are_rare():
    "Maximum likelihood under Davidson's model with a small ν, by an optimiser of its own, against the fit with ties; and far from it with a large ν."
    rng = np.random.default_rng(0)
    x, phi = rng.normal(size=(4000, 2)), np.array([1., -.5])
    def davidson(nu, outcome):
        def loss(c):
            t = x@c
            log = np.stack([t/2, -t/2, np.full(len(t), np.log(nu))])
            return -(log[outcome, np.arange(len(t))] - logsumexp(log, axis=0)).sum()
        return minimize(loss, np.zeros(2), method='BFGS', options=dict(gtol=1e-8)).x
    outcome = np.where(rng.random(4000) < .1, 2, (rng.random(4000) > expit(x@phi)).astype(int))
    ours = fit_mixture(np.where((outcome == 1)[:, None], -x, x), np.zeros(4000, int), 1, l2=0, tie=outcome == 2).coef[:, 0]
    assert abs(ours - davidson(1e-6, outcome)).max() < 1e-4 < .01 < abs(ours - davidson(3., outcome)).max()

# Items without features

@many
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_items_have_a_finite_fit_exactly_where_the_graph_is_strongly_connected(seed, n):
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(rng.integers(1, 4*n))])
    reach = np.eye(len(names := np.unique(pairs)), dtype=bool)
    for a, b in np.searchsorted(names, pairs): reach[a, b] = True
    for _ in range(n): reach = reach@reach
    d, items = item_differences(*pairs.T)
    assert set(items) == set(names.tolist()) and (d.sum(1) == 0).all() and (d[0].toarray()[0, [items.index(pairs[0, 0]), items.index(pairs[0, 1])]] == [1, -1]).all()
    if reach.all():
        r = fit_mixture(d, np.zeros(len(pairs), int), 1, l2=0)
        wins = np.zeros((len(items),)*2)
        np.add.at(wins, ([items.index(a) for a, _ in pairs], [items.index(b) for _, b in pairs]), 1)
        p = expit(np.subtract.outer(r.coef[:, 0], r.coef[:, 0]))       # Zermelo: as many wins as expected
        assert np.allclose(wins.sum(1), ((wins + wins.T)*p).sum(1), atol=1e-3)
    else:
        with pytest.raises(ValueError, match='parts with no comparison|not strongly connected') as e: fit_mixture(d, np.zeros(len(pairs), int), 1, l2=0)
        assert '\n' not in str(e.value)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert np.isfinite(fit_mixture(d, np.zeros(len(pairs), int), 1, l2=.1).coef).all()

def test_a_disconnected_graph_with_a_penalty_says_so_and_a_component_is_looked_at_too():
    with pytest.warns(UserWarning, match='only the penalty relates their strengths'): fit_mixture(item_differences(list('abcd'), list('badc'))[0], [0, 0, 1, 1], 1, l2=.1)
    rng = np.random.default_rng(0)                                         # each group alone always prefers one way, both together do not
    d = np.r_[np.tile([0, 1], (200, 1)), np.tile([1, 0], (200, 1))]
    with pytest.raises(ValueError, match='in component . the comparison graph is not strongly connected'): fit_mixture(item_differences(*d.T)[0], np.repeat(np.arange(20), 20), 2, l2=0)

# Standard errors

def log_likelihood(theta, x, u, w, K, l2):
    "ℓ with the penalty, at (φ_1, …, φ_K, α_1, …, α_{K-1})."
    d = x.shape[1]
    c, a = theta[:K*d].reshape(K, d).T, np.r_[theta[K*d:], 0]
    ll = np.stack([np.bincount(u, -w*np.logaddexp(0, -x@c[:, k])) for k in range(K)], 1)
    return logsumexp(ll + a - logsumexp(a), axis=1).sum() - l2/2*(c**2).sum()

@many
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0., .5]))
def test_information_and_scores(seed, K, d, l2):
    "At any parameters: the numerical Hessian of the observed likelihood, and each user's numerical gradient."
    rng = np.random.default_rng(seed)
    x, u, _, _ = simulate(seed, [3, 2], 4, d)
    coef, eta, w = rng.normal(size=(d, K)), rng.dirichlet(np.ones(K)*3), rng.random(len(u)) + .2
    J, s = RewardMixture(coef, eta, list(range(5)), np.zeros((5, K)), 0., len(u), l2=l2).information(x, u, w)
    z, e = np.r_[coef.T.ravel(), np.log(eta[:-1]/eta[-1])], 1e-4*np.eye(K*d + K - 1)
    f = lambda z: log_likelihood(z, x, u, w, K, l2)
    H = np.array([[f(z + a + b) - f(z + a - b) - f(z - a + b) + f(z - a - b) for a in e] for b in e])/4e-8
    assert np.allclose(J, -H, atol=1e-4*max(1, abs(J).max()))
    for h in (0, 4):
        one = lambda z: log_likelihood(z, x[u == h], np.zeros(4, int), w[u == h], K, 0)
        assert np.allclose(s[h], [(one(z + a) - one(z - a))/2e-4 for a in e], atol=1e-5)

def test_standard_errors_of_one_group_plain_and_robust():
    "The textbook formulas: inverse information, and the sandwich clustered by user."
    x, u, _, _ = simulate(0, [40], 15, 3)
    m = fit_mixture(x, u, 1, l2=.3)
    p = expit(-x@m.coef[:, 0])
    A = x.T@(x*(p*(1 - p))[:, None]) + .3*np.eye(3)
    g = np.stack([np.bincount(u, x[:, j]*p) for j in range(3)], 1)
    V = np.linalg.inv(A)
    assert np.allclose(m.standard_errors(x, u)[0][:, 0], np.sqrt(np.diag(V))) and np.allclose(m.standard_errors(x, u)[1], 0)
    assert np.allclose(m.standard_errors(x, u, robust=True)[0][:, 0], np.sqrt(np.diag(V@(g.T@g)@V)))

def test_intervals_hold_the_truth_and_robust_ones_do_where_people_repeat_themselves():
    "Coverage in 120 populations: 95 % where the model is right. Where every person gives each answer four times, plain errors are half of what they should be and the sandwich is not."
    phi = np.array([[1.4, -.6, .3], [-.8, .9, .5]]).T
    truth = RewardMixture(phi, np.array([.6, .4]), [], np.zeros((0, 2)), 0., 0)
    plain, robust, shares, repeated = [], [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        g, u = (rng.random(150) > .6).astype(int), np.repeat(np.arange(150), 12)
        x = rng.normal(size=(len(u), 3))
        x = np.where((rng.random(len(u)) < expit((x*phi.T[g[u]]).sum(1)))[:, None], x, -x)
        m = align(truth, fit_mixture(x, u, 2, l2=0, restarts=2))
        se, sw = m.standard_errors(x, u)
        plain.append(abs(m.coef - phi) < 1.96*se); shares.append(abs(m.weights - truth.weights) < 1.96*sw)
        robust.append(abs(m.coef - phi) < 1.96*m.standard_errors(x, u, robust=True)[0])
        four, who = np.repeat(x, 4, 0), np.repeat(u, 4)
        one = fit_mixture(four, who, 1, l2=0)
        repeated.append([one.standard_errors(four, who)[0]/fit_mixture(x, u, 1, l2=0).standard_errors(x, u)[0], one.standard_errors(four, who, robust=True)[0]/fit_mixture(x, u, 1, l2=0).standard_errors(x, u, robust=True)[0]])
    for o in (plain, robust, shares): assert .91 < np.mean(o) < .985
    assert np.allclose(np.mean(repeated, axis=0)[0], .5) and np.allclose(np.mean(repeated, axis=0)[1], 1)

@quiet
def test_standard_errors_refuse_what_they_do_not_hold_for():
    x, u, _, _ = simulate(3, [6, 6], 5, 2)
    with pytest.raises(ValueError, match="method='soft'"): fit_mixture(x, u, 2, 'hard').standard_errors(x, u)
    twice = RewardMixture(np.ones((2, 2)), np.array([.5, .5]), list(range(12)), np.full((12, 2), .5), 0., len(u))    # one group, twice: the share is a flat direction
    with pytest.raises(ValueError, match='not identified'): twice.standard_errors(x, u)
    d, names = item_differences(list('abcabc'), list('bcacab'))
    se = fit_mixture(d, np.zeros(6, int), 1, l2=0).standard_errors(d, np.zeros(6, int))[0]      # strengths that sum to zero, equal by symmetry
    assert np.allclose(se, se[0]) and np.isclose(se[0, 0], np.sqrt((1 - 1/3)/(6*.25)), rtol=1e-6)

# Labels

@many
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_align_finds_the_nearest_numbering(seed, K, d):
    rng = np.random.default_rng(seed)
    a, b = (RewardMixture(rng.normal(size=(d, K)), rng.dirichlet(np.ones(K)), [1, 2], rng.dirichlet(np.ones(K), 2), 0., 2) for _ in range(2))
    c = align(a, b)
    away = lambda p: ((a.coef - b.coef[:, p])**2).sum()
    assert np.isclose(((a.coef - c.coef)**2).sum(), min(away(list(p)) for p in itertools.permutations(range(K))))
    p = [int(np.flatnonzero((b.coef == c.coef[:, [k]]).all(0))[0]) for k in range(K)]
    assert sorted(p) == list(range(K)) and (c.weights == b.weights[p]).all() and (c.responsibilities == b.responsibilities[:, p]).all()
    assert (align(b, c).coef == b.coef).all()
    with pytest.raises(ValueError, match='must agree'): align(a, replace(b, coef=np.ones((d + 1, K))))

# How many groups

@quiet
def test_yardsticks_of_choose_groups():
    "Each one computed anew from its definition."
    diff, u, _, _ = simulate(11, [8, 6], 10, 3, 1.2)
    names = np.array([f'p{o}' for o in u])
    o1, o2 = table = choose_groups(diff, names, (1, 2), folds=3, seed=5, restarts=2, l2=.1)
    n, d, H = len(u), 3, 14
    for o in table:
        K, m = o['n_groups'], o['mixture']
        assert m.users == list(dict.fromkeys(names.tolist())) and np.isclose(m.log_likelihood, m.user_log_likelihood(diff, names).sum())
        assert np.isclose(o['bic'], -2*m.log_likelihood + K*d*np.log(n) + (K - 1)*np.log(H))
        q = m.responsibilities
        assert np.isclose(o['icl'] - o['bic'], -2*sum(p*np.log(p) for p in q.ravel() if p > 0))
        for kind in ('heldout', 'within'): assert o[kind + '_users'].shape == (H,) and np.isclose(o[kind], o[kind + '_users'].sum()/n) and (o[kind + '_users'] < 0).all()
    # one group knows nothing of users, so its held-out score is the Bradley-Terry fit's; the folds of users are those of the same seed
    rng = np.random.default_rng(5)
    rng.random(n); rng.integers(3, size=H)
    fold, total = rng.permutation(H)%3, np.zeros(H)
    for f in range(3):
        c = fit_mixture(diff[fold[u] != f], u[fold[u] != f], 1, l2=.1).coef[:, 0]
        total += np.bincount(u[fold[u] == f], -np.logaddexp(0, -diff[fold[u] == f]@c), H)
    assert np.allclose(total, o1['heldout_users'], atol=1e-6)
    assert o2['heldout'] > o1['heldout']
    rng = np.random.default_rng(5)                                             # and within: each user's comparisons dealt to the folds, predicted by the user's posterior from the rest
    order = np.lexsort((rng.random(n), u))
    fold, total = np.empty(n, int), np.zeros(H)
    fold[order] = (np.arange(n)%10 + np.repeat(rng.integers(3, size=H), 10))%3
    for f in range(3):
        m, test = fit_mixture(diff[fold != f], u[fold != f], 2, l2=.1, restarts=2, seed=5), fold == f
        ll = np.stack([np.bincount(u[test], -np.logaddexp(0, -diff[test]@c), H) for c in m.coef.T], 1)
        total[m.users] += np.log((m.responsibilities*np.exp(ll[m.users])).sum(1))
    assert np.allclose(total, o2['within_users'], atol=1e-6)
    weights = choose_groups(diff, u, (1,), folds=3, seed=5, weight=np.full(n, 2.), l2=.2)[0]
    assert np.isclose(weights['heldout'], 2*o1['heldout'], atol=1e-6)

@quiet
def test_choose_groups_with_a_user_of_few_telling_comparisons():
    "A fold may leave a user only comparisons that say nothing; that is no error."
    diff, u, _, _ = simulate(2, [5, 5], 6, 2)
    diff[1:6] = 0
    assert np.isfinite([o['within'] for o in choose_groups(diff, u, (1, 2), folds=3, restarts=1, l2=.1)]).all()

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
    (lambda: fit_mixture(x, u, 1).rewards(np.ones((2, 3))), 'last axis must be 2'), (lambda: match_groups([0, 1], [0]), 'one label'),
    (lambda: fit_mixture(np.where(bad == bad, x, np.inf), u, 2), '1 entries that are NaN or infinite'), (lambda: fit_mixture(np.where(np.arange(6)[:, None] < 2, 0, x), ['ann', 'ann', 1, 1, 2, 2], 2), "all comparisons of user 'ann' are between responses with identical features"),
    (lambda: fit_mixture([['a', 'b']], [1], 1), 'must hold numbers'), (lambda: fit_mixture([[[1.], [2]], [3]], [1, 2], 1), 'inhomogeneous|not numbers'), (lambda: fit_mixture([1., 2], [1, 2], 1), r'shape \(2,\)'),
    (lambda: fit_mixture(np.array([['a', 2]], object), [1], 1), 'texts need a reward model'), (lambda: fit_mixture(x, u, True), 'n_groups is True'), (lambda: fit_mixture(x, u, 2, restarts=0), 'at least 1'),
    (lambda: fit_mixture(x, u, 2, tie=[0]*6), 'tie has shape'), (lambda: fit_mixture(x, u, 2, tie=[True]), 'tie has shape'), (lambda: fit_mixture(x, u, 2, weight=[1]*5), 'weight has shape'),
    (lambda: fit_mixture(x, u, 2, sample=1), 'sample is 1'), (lambda: fit_mixture(x, u, 2, l2=np.nan), 'l2 is nan'), (lambda: fit_mixture(x, [[1]]*6, 1), 'cannot be hashed'),
    (lambda: item_differences(['a'], ['a']), "'a' with itself"), (lambda: item_differences([], []), 'one of each'), (lambda: item_differences(['a'], ['a', 'b']), '1 winners and 2 losers'),
    (lambda: choose_groups(x, u, (1,), folds=1), 'folds is 1'), (lambda: choose_groups(x, u, (1,), folds=4), 'folds is 4'), (lambda: fit_mixture(x, u, 1).predict_proba(x, u[:3]), '3 users and 6 comparisons'),
    (lambda: fit_mixture(x, [(1, 2)]*6, 1).save('never.safetensors'), 'only numbers and texts')])
def test_bad_input(tmp_path, monkeypatch, f, says):
    "One sentence each, and nothing is left behind."
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=says) as e: f()
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())

def test_a_user_who_always_answers_the_same_question_alike_is_no_error():
    diff, u, _, _ = simulate(13, [10, 10], 6, 2)
    diff[u == 3] = diff[18]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for K in (1, 2): assert np.isfinite(fit_mixture(diff, u, K, l2=0).coef).all()
