"Properties of `maxmin_nb.rlhf` on random and extreme cases."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from itertools import combinations
from scipy.optimize import minimize
from maxmin_nb.preferences import mix, sigmoid
from maxmin_nb.rlhf import bt_loss, fit_bradley_terry, gibbs, kl, log_partition, project, utility

seeds = st.integers(0, 2**32 - 1)
gradient = lambda c, diff, w, l2: -(w*sigmoid(-diff@c))@diff + l2*c
table = lambda n: np.array([np.eye(n)[i] - np.eye(n)[j] for i, j in combinations(range(n), 2)])

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 5), st.sampled_from([1e-6, 1e-2, 1., 30.]), st.sampled_from([1e-4, 1., 1e4]))
def test_fit_is_stationary(seed, n, d, l2, unit):
    "The gradient vanishes at the fit, whatever the start, the units of the features and the penalty."
    rng = np.random.default_rng(seed)
    diff, w = rng.normal(size=(n, d))*unit, rng.exponential(size=n)
    w[rng.random(n) < .2] = 0
    c = fit_bradley_terry(diff, w, l2)
    assert np.abs(gradient(c, diff, w, l2)).max() <= 1e-6*(np.abs(diff).sum() + l2)
    for start in (50*rng.normal(size=d)/unit, rng.normal(size=d)):
        c2 = fit_bradley_terry(diff, w, l2, start)
        np.testing.assert_allclose(bt_loss(c2, diff, w, l2), bt_loss(c, diff, w, l2), rtol=1e-9, atol=1e-9)

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 4))
def test_fit_without_penalty(seed, d):
    "Both outcomes of every pair: never separable. The loss is that of a general optimiser or less."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(10, d)); diff, w = np.r_[x, -x], rng.random(20) + .01
    c = fit_bradley_terry(diff, w)
    assert np.abs(gradient(c, diff, w, 0)).max() < 1e-7
    assert bt_loss(c, diff, w) <= minimize(bt_loss, np.zeros(d), (diff, w)).fun + 1e-9
    np.testing.assert_allclose(fit_bradley_terry(diff*1e5, w)*1e5, c, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit_bradley_terry(diff, 1e-9*w), c, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit_bradley_terry(np.c_[diff, diff[:, :1]], w)[[0, -1]], c[0]/2, rtol=1e-6, atol=1e-8)   # twins share

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 4))
def test_separable_is_refused(seed, d):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=d); x = rng.normal(size=(12, d)); x *= np.sign(x@e)[:, None]
    with pytest.raises(ValueError, match='separable'): fit_bradley_terry(x)
    y = rng.normal(size=(5, d))                                  # only the last feature separates, and only in one row
    quasi = np.c_[np.r_[y, -y, y[:1]], np.r_[np.zeros(10), 1]]
    with pytest.raises(ValueError, match='separable'): fit_bradley_terry(quasi)
    assert np.isfinite(fit_bradley_terry(quasi, l2=1e-3)).all()
    assert np.isfinite(fit_bradley_terry(quasi, np.r_[np.ones(10), 0])).all()        # that row does not count

def test_steep_but_not_separable():
    "Large log-odds are no reason to refuse."
    np.testing.assert_allclose(fit_bradley_terry([[1.], [-1.], [40.]], [30., 10, 1]), np.log(3), atol=1e-6)
    np.testing.assert_allclose(fit_bradley_terry([[1.], [-1.]], [1., 1e-9]), np.log(1e9), rtol=1e-6)

@pytest.mark.parametrize('kw, says', [(dict(diff=np.ones(3)), 'diff'), (dict(diff=np.ones((0, 2))), 'diff'), (dict(diff=[[np.inf]]), 'finite'), (dict(weight=[1, 1]), 'weight'),
    (dict(weight=[-1.]), 'weight'), (dict(l2=-1), 'l2'), (dict(l2=np.nan), 'l2'), (dict(weight=[0.], l2=0), 'every weight'), (dict(start=[1, 2]), 'start'), (dict(start=[np.nan]), 'start')])
def test_bad_fit(kw, says):
    with pytest.raises(ValueError, match=says): fit_bradley_terry(**dict(diff=[[1.]], l2=1.) | kw)

def test_too_few_steps():
    with pytest.raises(RuntimeError, match='1 steps'): fit_bradley_terry([[1.], [-1.]], [30., 1], max_iter=1)

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(2, 4), st.integers(2, 6), st.sampled_from([0, .02, .5]))
def test_borda(seed, U, n, l2):
    rng = np.random.default_rng(seed)
    pbar = mix(rng.dirichlet(np.ones(U)), sigmoid(3*rng.normal(size=(U, n))@table(n).T))
    b = np.full(n, .5)
    for (i, j), q in zip(combinations(range(n), 2), pbar): b[i] += q; b[j] += 1 - q
    s = project(pbar, table(n), l2=l2)
    if np.diff(np.sort(b)).min() > 1e-6: assert (s.argsort() == b.argsort()).all()
    np.testing.assert_allclose(s.sum(), 0, atol=1e-8)
    np.testing.assert_allclose(sigmoid(s[:, None] - s).sum(1) + l2*len(table(n))*s, b, atol=1e-7)

def test_projection_keeps_a_bradley_terry_population():
    rng = np.random.default_rng(0)
    diff, phi = rng.normal(size=(20, 4)), rng.normal(size=4)
    np.testing.assert_allclose(project(sigmoid(diff@phi), diff, rng.dirichlet(np.ones(20))), phi, atol=1e-7)

def problem(seed, P, Y):
    rng = np.random.default_rng(seed)
    ref = rng.dirichlet(np.full(Y, .5), P)
    if Y > 1: ref[:, 0] = 0; ref /= ref.sum(1, keepdims=True)
    return rng, ref, rng.dirichlet(np.ones(P)), 10**rng.uniform(-2, 1), rng.normal(size=(3, P, Y))*10**rng.uniform(-1, 2)

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(2, 6))
def test_identity(seed, P, Y):
    "F_u(π) = β E log Z_u - β E KL(π ‖ π_u), hence π_u is best; constants of a prompt do not matter."
    rng, ref, rho, beta, r = problem(seed, P, Y)
    pi = gibbs(ref, rng.normal(size=(P, Y)), 1.)
    own = gibbs(ref, r, beta)
    if (own > 1e-300).sum() == 3*(ref > 0).sum():              # where π_u underflows, floats do not hold its KL
        np.testing.assert_allclose(utility(pi, ref, r, beta, rho), beta*(log_partition(ref, r, beta, rho) - kl(pi, own, rho)), rtol=1e-9, atol=1e-9*np.abs(r).max())
    assert (utility(pi, ref, r, beta, rho) <= beta*log_partition(ref, r, beta, rho) + 1e-9*np.abs(r).max()).all()
    np.testing.assert_allclose(utility(own, ref, r, beta, rho), beta*log_partition(ref, r, beta, rho), rtol=1e-9, atol=1e-9*np.abs(r).max())
    np.testing.assert_allclose(own.sum(-1), 1); assert (own[..., 0] == 0).all()
    np.testing.assert_allclose(gibbs(ref, r + rng.normal(size=(P, 1)), beta), own, atol=1e-9)
    assert (kl(pi, ref) >= 0) and kl(pi, pi) == 0

def test_what_is_never_given_does_not_matter():
    ref = np.array([[.5, .5, 0]])
    for bad in (np.inf, -np.inf, np.nan, 1e300):
        r = np.array([[1., 0, bad]])
        pi = gibbs(ref, r, .5)
        assert pi[0, 2] == 0 and np.isfinite([utility(pi, ref, r, .5), log_partition(ref, r, .5)]).all()
    assert utility(np.ones((1, 3))/3, ref, np.zeros((1, 3)), 1.) == -np.inf and kl(np.ones((1, 3))/3, ref) == np.inf

def test_shapes():
    ref, r = np.full((2, 3), 1/3), np.zeros((4, 5, 2, 3))
    assert gibbs(ref, r, 1.).shape == r.shape and log_partition(ref, r, 1.).shape == utility(ref, ref, r, 1.).shape == (4, 5) and np.shape(kl(ref, ref)) == ()

@pytest.mark.parametrize('call', [lambda: gibbs([[.5, .5]], [[0, 1.]], 0), lambda: gibbs([[.5, .4]], [[0, 1.]], 1), lambda: gibbs([.5, .5], [0, 1.], 1), lambda: kl([[1.]], [[1.]], [2.]),
    lambda: project([2.], [[1.]]), lambda: project([.5], [[1.], [2.]])])
def test_bad_input(call):
    with pytest.raises(ValueError): call()
