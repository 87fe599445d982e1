"Welfares: concave, increasing, with the supergradient and the conjugate that chapter 04 derives."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog, minimize
from maxmin_nb.rlhf import gibbs, log_partition, utility
from maxmin_nb.welfare import Welfare, CVaR, Egalitarian, Nash, SoftMin, Utilitarian, exponentiated, fenchel_gap, regret, relative

U = 4
num = st.one_of(st.integers(-4, 4).map(float), st.floats(-50, 50))      # integers make ties likely
utilities = arrays(float, U, elements=num)
shares = arrays(float, U, elements=st.floats(.02, 1)).map(lambda s: s/s.sum())
welfare = st.one_of(
    st.builds(Utilitarian, shares), st.just(Egalitarian()),
    st.builds(CVaR, st.one_of(st.just(1.), st.just(.25), st.floats(.05, 1)), st.one_of(st.none(), shares)),
    st.builds(SoftMin, st.floats(.05, 20), st.one_of(st.none(), shares)),
    st.builds(Nash, st.one_of(st.none(), shares), utilities, st.floats(.01, 2)))
many = settings(max_examples=400, deadline=None)

def scale(W, *Fs): return 1 + max(abs(W.weights(F)).max()*abs(G).max() for F in Fs for G in Fs) + max(abs(W.value(F)) for F in Fs)

@many
@given(welfare, utilities, utilities)
def test_supergradient(W, F, G):
    w = W.weights(F)
    assert (w >= 0).all()
    assert W.value(G) <= W.value(F) + w@(G - F) + 1e-9*scale(W, F, G)

@many
@given(welfare, utilities, utilities, st.floats(0, 1))
def test_concave_and_increasing(W, F, G, t):
    assert W.value((1 - t)*F + t*G) >= (1 - t)*W.value(F) + t*W.value(G) - 1e-9*scale(W, F, G)
    assert W.value(np.maximum(F, G)) >= W.value(F) - 1e-9*scale(W, F, G)

@many
@given(welfare, utilities, utilities)
def test_fenchel_young(W, F, G):
    assert abs(fenchel_gap(W, F, W.weights(F))) <= 1e-7*scale(W, F)       # equality at a supergradient
    assert fenchel_gap(W, G, W.weights(F)) >= -1e-7*scale(W, F, G)        # inequality elsewhere

@settings(max_examples=200, deadline=None)
@given(welfare, utilities)
def test_off_the_domain_no_plane_lies_above(W, direction):
    "Where the conjugate is -inf, w·F - W(F) really has no lower bound along one of a few rays."
    w = W.weights(np.zeros(U)) + .3*direction/(1 + abs(direction).max())
    if np.isfinite(W.conjugate(w, tol=.02)): return                       # clearly outside only
    rays = [s*e for e in (*np.eye(U), np.ones(U)) for s in (-1, 1)]
    low = [w@(t*r) - W.value(t*r) for t in (1e5, 1e8) for r in rays]
    assert min(low) < -100

@settings(max_examples=200, deadline=None)
@given(welfare.filter(lambda W: isinstance(W, (Utilitarian, Egalitarian, CVaR))), utilities)
def test_linear_programme(W, F):
    assert abs(linprog(F, **W.domain(U)).fun - W.value(F)) < 1e-6*(1 + abs(F).max())

@pytest.mark.parametrize('W', [SoftMin(.7, [.1, .2, .3, .4]), SoftMin(3.), Nash([.1, .2, .3, .4], [0, 1, -1, 0.], .2), Nash(None, 0., .05)])
def test_inner_minimum_is_the_welfare(W):
    "min_w w·F - W_*(w) = W(F), by a solver that does not know the minimiser."
    rng = np.random.default_rng(0)
    d = W.domain(U)
    cons = [] if d['A_eq'] is None else [dict(type='eq', fun=lambda w: d['A_eq']@w - d['b_eq'])]
    for F in rng.normal(size=(5, U))*2:
        start = np.clip(W.weights(F*0), *np.array(d['bounds']).T)
        sol = minimize(lambda w: w@F - W.conjugate(np.maximum(w, 1e-12), tol=1e-5), start, bounds=[(1e-9, h) for _, h in d['bounds']], constraints=cons, method='SLSQP', options=dict(ftol=1e-14, maxiter=500))
        assert abs(sol.fun - W.value(F)) < 1e-5 and np.allclose(sol.x, W.weights(F), atol=5e-3*max(1, abs(sol.x).max()))

def test_batches_agree_with_rows():
    F = np.random.default_rng(1).integers(-2, 3, (3, 5, U)).astype(float)
    for W in (Utilitarian(), Egalitarian(), CVaR(.4), SoftMin(.5), Nash(None, -3., .1)):
        w, v = W.weights(F), W.value(F)
        assert w.shape == F.shape and v.shape == F.shape[:-1]
        for i in np.ndindex(v.shape):
            assert np.allclose(W.weights(F[i]), w[i]) and np.isclose(W.value(F[i]), v[i]) and np.isclose(W.conjugate(w)[i], W.conjugate(w[i]))

def test_limits():
    F, eta = np.random.default_rng(2).normal(size=(50, U)), [.1, .2, .3, .4]
    for W, V in ((CVaR(1., eta), Utilitarian(eta)), (CVaR(.1, eta), Egalitarian()), (SoftMin(1e-5, eta), Egalitarian()), (SoftMin(1e6, eta), Utilitarian(eta))):
        assert np.allclose(W.value(F), V.value(F), atol=1e-4)
    big = np.array([1e6, -1e6, 0, 3.])
    assert np.isfinite(SoftMin(.01).value(big)) and np.allclose(SoftMin(.01).weights(big), [0, 1, 0, 0])

@many
@given(shares, utilities, st.floats(0, 30), st.floats(-5, 5))
def test_exponentiated(w, F, step, c):
    v = exponentiated(w, F, step)
    assert np.isclose(v.sum(), 1) and (v >= 0).all()
    assert v@F <= w@F + 1e-9*(1 + abs(F).max())                           # weight moves to the worse off
    assert np.allclose(exponentiated(w, F + c, step), v, atol=1e-8)        # blind to a common zero

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(.1, 3.))
def test_zero_and_scale(seed, beta):
    rng = np.random.default_rng(seed)
    r, ref, rho, c = rng.normal(size=(U, 3, 5)), rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(3)), rng.normal(size=(U, 3, 1))*9
    z = relative(r, ref, rho)
    assert np.allclose((ref*z).sum(-1), 0) and np.allclose((ref*z**2).sum(-1)@rho, 1)
    assert np.allclose(relative(r*rng.uniform(.1, 9, (U, 1, 1)) + c, ref, rho), z, atol=1e-7)
    pi = rng.dirichlet(np.ones(5), 3)
    of = lambda r: regret(utility(pi, ref, r, beta, rho), beta*log_partition(ref, r, beta, rho))
    assert np.allclose(of(r + c), of(r), atol=1e-8) and (of(r) <= 1e-10).all()

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), welfare, st.floats(.1, 3.))
def test_bound_of_every_policy_by_every_weighting(seed, W, beta):
    "W(F(π)) ≤ |w| β E log Z(r_w/β) - W_*(w): theorem 4."
    rng = np.random.default_rng(seed)
    r, ref = rng.normal(size=(U, 3, 5)), rng.dirichlet(np.ones(5), 3)
    for _ in range(10):
        F = utility(rng.dirichlet(np.ones(5)*.3, 3), ref, r, beta)
        w = W.weights(rng.normal(size=U)*2)
        bound = w.sum()*beta*log_partition(ref, np.tensordot(w/w.sum(), r, 1), beta) - W.conjugate(w)
        assert W.value(F) <= bound + 1e-8*(1 + abs(bound))

def test_reference_never_gives():
    ref, r = np.array([[.5, .5, 0.]]), np.array([[[1., 3., np.inf]]])
    assert np.allclose(relative(r, ref)[0, 0, :2], [-1, 1])

@pytest.mark.parametrize('f, says', [
    (lambda: CVaR(1.2), 'alpha is 1.2'), (lambda: SoftMin(0.), 'tau is 0'), (lambda: Nash(delta=0.), 'delta is 0'), (lambda: Utilitarian([1., 0.]), 'positive numbers'),
    (lambda: Egalitarian().value([1., np.nan]), 'finite'), (lambda: Egalitarian().value(3.), 'one entry for each group'), (lambda: Nash(zero=[0., 0.]).value([1., 1., 1.]), '2 zeros'),
    (lambda: exponentiated([.5, .6], [0., 0.], 1.), 'sum to 1'), (lambda: exponentiated([.5, .5], [0., 0.], -1.), 'step is -1'), (lambda: relative(np.ones((2, 1, 3)), np.ones((1, 3))/3), 'does not vary'), (lambda: relative(np.ones((2, 3)), np.ones((1, 3))/3), 'shape of ref'), (lambda: regret([1., 2.], [1.]), 'one number for each group'),
    (lambda: SoftMin(1., [.5, .5]).conjugate([.2, .3, .5]), 'shares of 2')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()


def test_inequalities_of_a_readers_domain_count():
    "A cap of .6 on every weight, given as inequalities, is part of the domain."
    class Capped(Welfare):
        def domain(self, n_groups): return dict(A_ub=np.eye(n_groups), b_ub=[.6]*n_groups, A_eq=[[1.]*n_groups], b_eq=[1.], bounds=[(0., 1.)]*n_groups)
    assert Capped().conjugate([.6, .2, .2]) == 0 and Capped().conjugate([.7, .2, .1]) == -np.inf
