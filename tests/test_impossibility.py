"Chapter 02: every identity and bound on random populations of 2 to 6 groups, and the naive statements that fail."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from maxmin_nb.impossibility import (diversity_bound, extreme_bounds, gap_bounds, group_gaps, midpoint_loss, mismatch_bound, overlap, pair_table,
    pinsker_bounds, pooled_reward, visible_distance)
from maxmin_nb.preferences import diversity, mix, sigmoid, tv_distance
from maxmin_nb.rlhf import gibbs, kl, project

seeds, groups = st.integers(0, 2**32 - 1), st.integers(2, 6)
many = settings(max_examples=200, deadline=None)
largest = lambda p, q: np.abs(p - q).max()
between = lambda p, D: np.array([[D(a, b) for b in p] for a in p])

def population(seed, U):
    "(rng, ref, r, shares, β, design, ρ): uneven everything; some pairs never asked."
    rng = np.random.default_rng(seed)
    P, Y = rng.integers(1, 4), rng.integers(2, 6)
    n = Y*(Y - 1)//2
    design = rng.dirichlet(np.full(n, .7), P)
    if n > 1: design[:, rng.integers(n)] = 0; design /= design.sum(1, keepdims=True)
    ref = rng.dirichlet(np.full(Y, .8), P) + 1e-6
    return rng, ref/ref.sum(1, keepdims=True), rng.normal(size=(U, P, Y))*10**rng.uniform(-2, .8), rng.dirichlet(np.ones(U)), 10**rng.uniform(-1.5, 1.5), design, rng.dirichlet(np.ones(P))

def linear(seed, U):
    "(diff, ρ, φ, p, η) with features of norm at most 1."
    rng = np.random.default_rng(seed)
    n, d = rng.integers(3, 8), rng.integers(1, 4)
    psi = rng.normal(size=(n, d)); psi /= np.linalg.norm(psi, axis=1).max()
    diff, phi = pair_table(n)@psi, rng.normal(size=(U, d))*10**rng.uniform(-2, 1)
    return diff, rng.dirichlet(np.ones(len(diff))), phi, sigmoid(phi@diff.T), rng.dirichlet(np.ones(U))

@many
@given(seeds, groups, st.sampled_from(['mean', 'maximum', 'visible']))
def test_pooled_data_in_every_seminorm(seed, U, name):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 7); p, eta, rho, q, x = rng.random((U, n))**rng.choice([.2, 1, 4]), rng.dirichlet(np.ones(U)), rng.dirichlet(np.ones(n)), rng.random(n), rng.normal(size=(n, 2))
    D = dict(mean=lambda a, b: tv_distance(a, b, rho), maximum=largest, visible=lambda a, b: visible_distance(a, b, x, rho))[name]
    d, dist = np.array([D(mix(eta, p), o) for o in p]), between(p, D)
    rest = [mix(np.delete(eta, u)/(1 - eta[u]), np.delete(p, u, 0)) for u in range(U)]
    np.testing.assert_allclose(d, [(1 - eta[u])*D(rest[u], p[u]) for u in range(U)], atol=1e-9)
    low = extreme_bounds(eta, dist)
    assert d.max() >= low[0] - 1e-9 and eta@d >= low[1] - 1e-9
    assert max(D(q, o) for o in p) >= dist.max()/2 - 1e-9

def test_naive_distance_fails_with_three_groups():
    p, eta = np.array([[.9], [.1], [.5]]), np.ones(3)/3
    d = tv_distance(mix(eta, p), p)
    np.testing.assert_allclose(d, [.4, .4, 0], atol=1e-12)
    assert (d < (1 - eta)*diversity(p)).all()
    np.testing.assert_allclose(extreme_bounds(eta, between(p, tv_distance)), [.4, .8/3], atol=1e-12)

@many
@given(st.floats(-40, 40), st.floats(-40, 40))
def test_steepness(s, t):
    assert abs(sigmoid(s) - sigmoid(t)) <= np.tanh(abs(s - t)/4) + 1e-15
    np.testing.assert_allclose(abs(sigmoid(s) - sigmoid(-s)), np.tanh(abs(s)/2), atol=1e-15)

@many
@given(seeds, groups)
def test_what_the_fit_keeps(seed, U):
    diff, rho, phi, p, eta = linear(seed, U)
    see = lambda a, b: visible_distance(a, b, diff, rho)
    q, D = sigmoid(diff@project(mix(eta, p), diff, rho)), tv_distance(p[0], p[1], rho)
    for o in p:
        assert see(q, o) <= tv_distance(q, o, rho) + 1e-8
        np.testing.assert_allclose(see(q, o), see(mix(eta, p), o), atol=1e-6)
    assert see(p[0], p[1]) >= 4*D*np.arctanh(min(D, 1 - 1e-15))/np.abs(diff@(phi[0] - phi[1])).max() - 1e-7
    np.testing.assert_allclose(visible_distance(p[0], p[1], 1e4*diff, rho), see(p[0], p[1]), atol=1e-7)
    np.testing.assert_allclose(see(.5 + 1e-9*(p[0] - .5), .5 + 1e-9*(p[1] - .5)), 1e-9*see(p[0], p[1]), rtol=1e-4, atol=1e-15)

@many
@given(seeds)
def test_visible_distance_against_all_vertices(seed):
    "Three free scores: e·Δψ over its polygon, by brute force. One pair: all is visible."
    rng = np.random.default_rng(seed)
    p, q, rho = rng.random(3), rng.random(3), rng.dirichlet(np.ones(3))
    corners = np.array([(a, b, b - a) for a, b in ((1, 1), (1, 0), (0, 1), (-1, -1), (-1, 0), (0, -1))])          # (e_1-e_2, e_1-e_3, e_2-e_3)
    np.testing.assert_allclose(visible_distance(p, q, pair_table(3), rho), (corners@(rho*(p - q))).max(), atol=1e-9)
    np.testing.assert_allclose(visible_distance(p[:1], q[:1], pair_table(2)), abs(p[0] - q[0]), atol=1e-12)

def test_naive_distance_fails_for_the_fit():
    T, eta, p = pair_table(3), np.array([.8945, .1055]), sigmoid(np.array([[2.98, 1.65, 2.57], [-4.02, 1.66, 7.89]])@pair_table(3).T)
    q = sigmoid(T@project(mix(eta, p), T))
    ratio = tv_distance(q, p[0])/(eta[1]*tv_distance(*p))
    np.testing.assert_allclose(ratio, .864, atol=1e-3)
    assert visible_distance(*p, T)/tv_distance(*p) <= ratio

@many
@given(seeds, groups)
def test_reward_mismatch(seed, U):
    diff, rho, phi, p, eta = linear(seed, U)
    hat, other = project(mix(eta, p), diff, rho), np.random.default_rng(seed).normal(size=phi.shape[1])*np.abs(phi).max()
    for c in (hat, other):
        away = np.linalg.norm(c - phi, axis=1)
        for D in (largest, lambda a, b: tv_distance(a, b, rho)):
            d = np.array([D(sigmoid(diff@c), o) for o in p])
            assert (away >= mismatch_bound(np.minimum(d, 1 - 1e-12)) - 1e-3*away - 1e-9).all() and (mismatch_bound(np.minimum(d, 1 - 1e-12)) >= 2*d - 1e-9).all()
            assert away.max() >= mismatch_bound(min(between(p, D).max(), 1 - 1e-12))/2*(1 - 1e-3) - 1e-9
    away = np.linalg.norm(hat - phi, axis=1)
    assert (away >= mismatch_bound([min(visible_distance(mix(eta, p), o, diff, rho), 1 - 1e-12) for o in p])*(1 - 1e-3) - 1e-6).all()

@many
@given(seeds, st.floats(.05, .95))
def test_reward_mismatch_of_groups_that_are_not_bradley_terry(seed, share):
    "Proposition 2 (c) compares with what the same fit finds for the group alone."
    rng = np.random.default_rng(seed)
    diff, rho = rng.normal(size=(6, 2)), rng.dirichlet(np.ones(6)); diff *= 2/np.linalg.norm(diff, axis=1).max()
    p = rng.uniform(.02, .98, (2, 6))
    away = np.linalg.norm(project(mix([share, 1 - share], p), diff, rho) - project(p[0], diff, rho))
    assert away >= mismatch_bound((1 - share)*visible_distance(*p, diff, rho)) - 1e-6

def test_naive_mismatch_and_naive_gap_fail():
    "One feature, B = 1: the pooled data are not realisable."
    x, rho, phi, eta = np.array([[2.], [.01]]), np.array([.1, .9]), np.array([1., 400.]), np.array([.99, .01])
    p = sigmoid(phi[:, None]*x[:, 0]); hat = project(mix(eta, p), x, rho)
    D, seen = tv_distance(*p, rho), visible_distance(*p, x, rho)
    assert mismatch_bound(.01*seen) <= hat[0] - 1 < 2*.01*D
    feat, half = np.array([[2., 0], [.01, 0]]), np.full((2, 2), .5)
    k = overlap(gibbs(half, (hat[0] + 1)/2*feat, 1.), np.ones((2, 1)))
    gap = group_gaps(gibbs(half, hat[0]*feat, 1.), half, feat[None], 1., rho)[0]
    assert 2*diversity_bound(.01*seen, 1., k) <= gap < 2*diversity_bound(.01*D, 1., k)

@many
@given(seeds, groups)
def test_gap_is_a_divergence_above_its_bounds(seed, U):
    rng, ref, r, eta, beta, design, rho = population(seed, U)
    own, tol = gibbs(ref, r, beta), 1e-10*(1 + np.abs(r).max())
    for pi in (rng.dirichlet(np.ones(ref.shape[1]), len(ref)), gibbs(ref, np.tensordot(eta, r, 1), beta), gibbs(ref, (r[0] + r[1])/2, beta)):
        gap = group_gaps(pi, ref, r, beta, rho)
        if (own > 1e-290).all(): np.testing.assert_allclose(gap, beta*kl(pi, own, rho), rtol=1e-8, atol=tol)
        assert (pinsker_bounds(pi, ref, r, beta, rho) <= gap + tol).all() and (pinsker_bounds(pi, ref, r, beta, rho) <= 2*beta + tol).all()
        for a in range(U):
            for b in range(a): assert max(gap[a], gap[b]) >= midpoint_loss(ref, r[a], r[b], beta, rho) - tol
    hat = rng.normal(size=ref.shape)*rng.choice([.1, 1, 10])
    assert (group_gaps(gibbs(ref, hat, beta), ref, r, beta, rho) >= 2*midpoint_loss(ref, hat, r, beta, rho) - 10*tol).all()

@many
@given(seeds, groups)
def test_formula_of_J_and_bound_by_diversity(seed, U):
    rng, ref, r, _, beta, design, rho = population(seed, U)
    (a, b), T = r[:2], pair_table(ref.shape[1])
    J, mid, tol = midpoint_loss(ref, a, b, beta, rho), gibbs(ref, (a + b)/2, beta), 1e-9*(1 + np.abs(r).max())
    delta = (a - b)[:, :, None] - (a - b)[:, None]
    if np.abs(delta).max()/beta < 600:
        np.testing.assert_allclose(J, beta/2*np.log(np.einsum('xi,xj,xij->x', mid, mid, np.cosh(delta/2/beta)))@rho, rtol=1e-8, atol=tol)
    D, k = tv_distance(sigmoid(a@T.T).ravel(), sigmoid(b@T.T).ravel(), (rho[:, None]*design).ravel()), overlap(mid, design)
    assert 0 <= k <= 1 + 1e-12
    assert diversity_bound(D, beta, k) <= J + tol
    span = np.ptp((a + b)/2, axis=1).max()
    assert k >= np.exp(-2*span/beta)*overlap(ref, design)*(1 - 1e-9)

@many
@given(st.floats(1e-3, 12), st.floats(.01, 100))
def test_attained_by_two_responses(t, beta):
    half, r = np.full((1, 2), .5), np.array([[[t/2, -t/2]], [[-t/2, t/2]]])
    o = gap_bounds(half, r, [.5, .5], beta)
    np.testing.assert_allclose([o['any_bound'], o['any_policy']], [o['gap']]*2, rtol=1e-6, atol=1e-10)

@many
@given(seeds, st.floats(1e-3, 1e3), st.floats(1e-12, 1))
def test_diversity_bound_is_convex_and_increasing(seed, beta, kappa):
    D = np.sort(np.random.default_rng(seed).random(20))*.999
    b = diversity_bound(D, beta, kappa)
    assert np.isfinite(b).all() and (np.diff(b) >= 0).all() and np.isfinite(diversity_bound(1., beta, kappa)) and diversity_bound(0., beta, kappa) == 0
    mid = diversity_bound((D[:-1] + D[1:])/2, beta, kappa)
    assert (mid <= (b[:-1] + b[1:])/2 + 1e-9*(beta + b[1:])).all()

@many
@given(seeds, groups)
def test_calculator(seed, U):
    rng, ref, r, eta, beta, design, rho = population(seed, U)
    if rng.random() < .3: design = rho = None
    o, tol = gap_bounds(ref, r, eta, beta, design, rho), 1e-8*(1 + np.abs(r).max())
    assert max(o['pinsker'], o['bound'], o['any_policy']) <= o['gap'] + tol and o['any_bound'] <= o['any_policy'] + tol
    pi = gibbs(ref, pooled_reward(eta, r, design), beta)
    np.testing.assert_allclose(o['gap'], group_gaps(pi, ref, r, beta, rho).max(), rtol=1e-9, atol=tol)
    if ref.shape[1] == 2 and U == 2:                                       # always realisable: the bound holds with D
        T, w = pair_table(2), np.full(len(ref), 1/len(ref)) if rho is None else rho
        hat, p = pooled_reward(eta, r), sigmoid(r@T.T)[..., 0]
        k = overlap(gibbs(ref, (hat + r)/2, beta), np.ones((len(ref), 1)))
        np.testing.assert_allclose(o['bound'], (2*diversity_bound((1 - eta)*tv_distance(*p, w), beta, k)).max(), rtol=1e-5, atol=tol)

def test_one_group_for_all_has_no_gap():
    r = np.random.default_rng(0).normal(size=(1, 2, 4)).repeat(3, 0); ref = np.full((2, 4), .25)
    np.testing.assert_allclose(list(gap_bounds(ref, r, [.2, .3, .5], .5).values()), 0, atol=1e-8)

ref, r = np.full((1, 3), 1/3), np.arange(6.).reshape(2, 1, 3)
@pytest.mark.parametrize('f, says', [
    (lambda: extreme_bounds([.5, .5], np.ones((2, 3))), 'groups, groups'), (lambda: extreme_bounds([1., 0.], np.ones((2, 2))), 'positive share'), (lambda: extreme_bounds([.5, .6], np.ones((2, 2))), 'shares'),
    (lambda: visible_distance([.5], [.5], np.ones((2, 1))), 'diff'), (lambda: visible_distance([.5, .1], [.5, .2], np.ones((2, 1)), [1, 1]), 'rho'),
    (lambda: mismatch_bound(1.), 'below 1'), (lambda: mismatch_bound(.5, 0), 'B is 0'), (lambda: pair_table(1), 'n is 1'),
    (lambda: pooled_reward([.5, .5], r[0]), 'groups, prompts, responses'), (lambda: pooled_reward([.5, .5], r + np.inf), 'finite'), (lambda: pooled_reward([.5, .5], r, np.ones((1, 2))/2), 'design'),
    (lambda: gap_bounds(ref, r[:, :, :2], [.5, .5], 1.), 'ref.shape'), (lambda: gap_bounds(ref, r[:1], [1.], 1.), 'two groups'), (lambda: gap_bounds(ref, r, [.5, .6], 1.), 'shares'),
    (lambda: gap_bounds(ref, r, [.5, .5], 0.), 'beta is 0'), (lambda: gap_bounds(ref, r, [.5, .5], 1., [[.5, .5, .5]]), 'design'), (lambda: gap_bounds(ref, r, [.5, .5], 1., rho=[.5, .5]), 'rho')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()
