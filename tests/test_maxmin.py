"MaxMin, min-max regret and their relatives: the exact solver against its own certificate, CVXPY, scalar search and the statements of chapter 05."
import itertools
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize_scalar
from maxmin_nb.maxmin import _simplex_qp, _support, ceiling, frontier, resample, solve_maxmin, solve_minmax_regret
from maxmin_nb.preferences import chernoff_information
from maxmin_nb.rlhf import gibbs, kl, log_partition, utility
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian, Welfare

many = settings(max_examples=200, deadline=None)
seeds = st.integers(0, 10**9)
betas = st.floats(-3, 3).map(lambda e: 10**e)
mild = st.floats(-1, 1).map(lambda e: 10**e)

def problem(seed, groups=None, prompts=4, responses=6):
    "ref, rewards, rho: random sizes; some responses never given, some rewards tied."
    rng = np.random.default_rng(seed)
    U, P, Y = groups or rng.integers(2, 7), rng.integers(1, prompts + 1), rng.integers(2, responses + 1)
    ref, r = rng.dirichlet(np.full(Y, rng.choice([.2, 1, 5])), P), rng.normal(size=(U, P, Y))*10**rng.uniform(-1, 1, (U, 1, 1))
    if rng.random() < .3: ref[:, 0] = 0; ref[:, 1] += .1; ref /= ref.sum(-1, keepdims=True)
    if rng.random() < .3: r = r.round()
    return ref, r, rng.dirichlet(np.ones(P)), rng

def welfare(kind, rng, ref, r, rho):
    "One of the five, with parameters that fit the rewards."
    U, S, zero = len(r), np.ptp(r) or 1., (ref*r).sum(-1)@rho
    eta = rng.dirichlet(np.ones(U))*.8 + .2/U
    return [Egalitarian(), Utilitarian(eta), CVaR(rng.uniform(.1, 1), eta), SoftMin(S*10**rng.uniform(-3, 1), eta), Nash(eta, zero - rng.choice([0, S]), .05*S)][kind]

def sigma(w, ref, r, beta, rho): return w.sum()*beta*log_partition(ref, np.tensordot(w/w.sum(), r, 1), beta, rho)
def policies(rng, ref, n=20):
    "Random policies on the support, (n, P, Y)."
    p = rng.dirichlet(np.full(ref.shape[1], rng.choice([.2, 1])), (n, len(ref)))*(ref > 0) + 1e-300*(ref > 0)
    return p/p.sum(-1, keepdims=True)

@settings(max_examples=400, deadline=None)
@given(seeds, st.integers(0, 4), betas, st.floats(-6, 6).map(lambda e: 10**e))
def test_certificate(seed, kind, beta, scale):
    "The gap is below 1e-8, the value is that of the policy, and no random policy beats it."
    ref, r, rho, rng = problem(seed)
    r = scale*r
    W = welfare(kind, rng, ref, r, rho)
    s = solve_maxmin(ref, r, beta, W, rho)
    tol = 1e-7*max(1, abs(s.value)) if kind == 4 else 1e-9*(np.ptp(r) + abs(s.value)) + 1e-14*beta
    assert -1e-9 < s.gap < 1e-8
    assert np.allclose(s.policy.sum(-1), 1, atol=1e-12) and (s.policy >= 0).all() and (s.policy[ref == 0] == 0).all()
    assert abs(W.value(utility(s.policy, ref, r, beta, rho)) - s.value) <= tol
    assert W.value(utility(policies(rng, ref)[:, None], ref, r, beta, rho)).max() <= s.value + tol

@many
@given(seeds, st.integers(0, 4), mild)
def test_dual(seed, kind, beta):
    "Value = σ(w*) - W_*(w*) with the welfare's own conjugate; the policy is the Gibbs policy of w*; and every other w bounds from above."
    ref, r, rho, rng = problem(seed)
    W = welfare(kind, rng, ref, r, rho)
    s = solve_maxmin(ref, r, beta, W, rho)
    size = np.ptp(r)*max(1, s.weights.sum())
    assert abs(sigma(s.weights, ref, r, beta, rho) - W.conjugate(s.weights, tol=1e-6) - s.value) < 1e-7*(1 + size)
    assert np.allclose(gibbs(ref, np.tensordot(s.weights/s.weights.sum(), r, 1), beta)[rho > 0], s.policy[rho > 0], atol=1e-7)
    for _ in range(5):
        w = W.weights(s.utilities + np.ptp(r)*rng.normal(size=len(r)))
        assert sigma(w, ref, r, beta, rho) - W.conjugate(w) >= s.value - 1e-9*(1 + np.ptp(r)*w.sum())

@many
@given(seeds, mild)
def test_two_groups_against_a_search(seed, beta):
    ref, r, rho, _ = problem(seed, 2)
    sol = minimize_scalar(lambda v: sigma(np.array([v, 1 - v]), ref, r, beta, rho), bounds=(0, 1), method='bounded', options=dict(xatol=1e-12))
    ends = [sigma(np.array(w), ref, r, beta, rho) for w in ([0., 1.], [1., 0.])]
    assert abs(solve_maxmin(ref, r, beta, rho=rho).value - min(sol.fun, *ends)) <= 1e-8*np.ptp(r) + 1e-12

@many
@given(seeds, betas)
def test_slackness(seed, beta):
    "Weight zero means better off; positive weight means worst off."
    ref, r, rho, _ = problem(seed)
    s, tol = solve_maxmin(ref, r, beta, rho=rho), 1e-7*np.ptp(r) + 1e-12
    assert (s.utilities >= s.value - tol).all() and (abs(s.utilities - s.value)[s.weights > 1e-3] <= 1e3*tol).all() and abs(s.weights@s.utilities - s.value) <= tol
    assert np.isclose(s.weights.sum(), 1) and (s.weights >= 0).all()

@many
@given(seeds, mild)
def test_duplicates_share_their_weight(seed, beta):
    "Of several optimal weights those of least norm; the policy does not notice copies."
    ref, r, rho, rng = problem(seed)
    s = solve_maxmin(ref, r, beta, rho=rho)
    copies = rng.integers(1, 4, len(r))
    t = solve_maxmin(ref, np.repeat(r, copies, 0), beta, rho=rho)
    first = np.cumsum(copies) - copies
    assert np.allclose(t.weights, np.repeat(t.weights[first], copies), atol=1e-5)
    assert np.allclose(t.policy, s.policy, atol=1e-6) and abs(t.value - s.value) <= 1e-9*np.ptp(r) + 1e-12

@many
@given(seeds, mild)
def test_least_norm_against_a_combination(seed, beta):
    "A further group, the mean of all: optimal weights form a segment, and its point of least norm is known."
    ref, r, rho, _ = problem(seed)
    w = solve_maxmin(ref, r, beta, rho=rho).weights
    U, t = len(r), solve_maxmin(ref, np.r_[r, [r.mean(0)]], beta, rho=rho).weights
    a = t[-1]                                                              # w moved from all the others alike to the mean
    if np.linalg.matrix_rank((r - r.mean(-1, keepdims=True)).reshape(U, -1)[:, np.tile(ref, 1).ravel() > 0]) < U: return
    assert np.allclose(t[:-1], w - a/U, atol=2e-5)
    assert np.isclose(a, min(U*w.min(), w.sum()/U/(1 + 1/U)), atol=2e-5)

@many
@given(seeds, st.integers(0, 3), mild, st.floats(.01, 100.), st.floats(-5, 5))
def test_units(seed, kind, beta, a, c):
    "(a r + c, a β) has the value a V + c and the same policy, for welfares without a scale of their own."
    ref, r, rho, rng = problem(seed)
    W = welfare(min(kind, 2), rng, ref, r, rho)
    s, t = solve_maxmin(ref, r, beta, W, rho), solve_maxmin(ref, a*r + c, a*beta, W, rho)
    assert np.isclose(t.value, a*s.value + c, atol=1e-8*(a*np.ptp(r) + abs(c)) + 1e-12) and np.allclose(t.policy, s.policy, atol=1e-6)

@many
@given(seeds, mild)
def test_one_weighting_for_all_prompts(seed, beta):
    "Weights for each prompt solve another problem, of no higher value."
    ref, r, rho, _ = problem(seed)
    each = sum(p*solve_maxmin(ref[[x]], r[:, [x]], beta).value for x, p in enumerate(rho))
    assert each <= solve_maxmin(ref, r, beta, rho=rho).value + 1e-9*np.ptp(r) + 1e-12

@many
@given(seeds, mild)
def test_derivatives(seed, beta):
    ref, r, rho, rng = problem(seed)
    r, w = np.where(ref > 0, r, 0)/(np.ptp(r) or 1.), rng.uniform(.1, 1, len(r))
    at, h = _support(ref, r, rho), 1e-5
    f, g, H, pi = at(w, beta)
    assert np.isclose(f, sigma(w, ref, r, beta, rho), atol=1e-11) and np.allclose(g, utility(pi, ref, r, beta, rho), atol=1e-11)
    for u, e in enumerate(np.eye(len(w))):
        up, down = at(w + h*e, beta), at(w - h*e, beta)
        assert np.isclose((up[0] - down[0])/(2*h), g[u], atol=1e-6) and np.allclose((up[1] - down[1])/(2*h), H[u], atol=1e-5/beta)
    tilt = rng.normal(size=len(r))
    tilt -= tilt.mean()
    assert np.allclose(at(w, beta, .1*tilt)[3], at(w/w.sum() + beta*.1*tilt, beta)[3], atol=1e-11)

@many
@given(seeds)
def test_quadratic_programme(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    M, q = rng.normal(size=(n, n)), rng.normal(size=n)*rng.choice([.1, 10])
    Q, x = M@M.T + 1e-6*np.eye(n), rng.dirichlet(np.ones(n))*(rng.random(n) < .7) + 1e-3*np.eye(n)[0]
    x /= x.sum()
    d = _simplex_qp(Q, q, x)
    y, h = x + d, q + Q@d
    assert abs(y.sum() - 1) < 1e-9 and y.min() > -1e-12 and y@h - h.min() < 1e-8*(1 + abs(q).max() + abs(Q).max())

@many
@given(seeds, mild)
def test_regret(seed, beta):
    "Regret is a divergence from one's own policy, does not see c_u(x), and its optimum is the price of pluralism (8)."
    ref, r, rho, rng = problem(seed)
    s = solve_minmax_regret(ref, r, beta, rho)
    own = gibbs(ref, np.where(ref > 0, r, 0), beta)
    assert np.allclose(s.utilities, -beta*kl(s.policy, own, rho), atol=1e-7*np.ptp(r) + 1e-12) and (s.utilities <= 1e-9*np.ptp(r) + 1e-12).all() and abs(s.gap) < 1e-8
    t = solve_minmax_regret(ref, r + 3*np.ptp(r)*rng.normal(size=(*r.shape[:2], 1)), beta, rho)
    assert abs(s.value - t.value) <= 1e-8*np.ptp(r) + 1e-12 and np.allclose(s.policy, t.policy, atol=1e-5)
    log_own = np.log(np.where(ref > 0, own, 1))
    price = lambda w: -beta*np.log(((ref > 0)*np.exp(np.tensordot(w, log_own, 1))).sum(-1))@rho
    assert abs(price(s.weights) + s.value) <= 1e-7*np.ptp(r) + 1e-12
    for _ in range(5): assert price(rng.dirichlet(np.ones(len(r)))) <= -s.value + 1e-8*np.ptp(r) + 1e-12
    assert (beta*kl(policies(rng, ref)[:, None], own, rho)).max(-1).min() >= -s.value - 1e-8*np.ptp(r) - 1e-12

@many
@given(seeds, betas)
def test_price_is_chernoff(seed, beta):
    p, q = np.random.default_rng(seed).uniform(.01, .99, 2)
    s = solve_minmax_regret([[.5, .5]], beta*np.log([[[p, 1 - p]], [[q, 1 - q]]]), beta)
    assert abs(-s.value - beta*chernoff_information([p], [q])[0]) < 1e-8*beta

@many
@given(seeds)
def test_three_exponents(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    P, Q, rho = rng.uniform(.01, .99, n), rng.uniform(.01, .99, n), rng.dirichlet(np.ones(n))
    both = np.array([np.c_[P, 1 - P], np.c_[Q, 1 - Q]])
    joint, shared = chernoff_information(P, Q, rho)[0], -solve_minmax_regret(np.full((n, 2), .5), np.log(both), 1., rho).value
    each = sum(p*chernoff_information([a], [b])[0] for p, a, b in zip(rho, P, Q))
    assert joint <= shared + 1e-9 and shared <= each + 1e-9

@many
@given(seeds, betas)
def test_minimum_for_each_response(seed, beta):
    "Its value is at most V, and its worst-off group loses at most (1 - 1/U) R."
    ref, r, rho, _ = problem(seed)
    V, tol = solve_maxmin(ref, r, beta, rho=rho).value, 1e-9*np.ptp(r) + 1e-12*max(1, beta)
    worst = utility(gibbs(ref, r.min(0), beta), ref, r, beta, rho).min()
    R = np.where(ref > 0, np.ptp(r, axis=0), 0).max(-1)@rho
    assert beta*log_partition(ref, r.min(0), beta, rho) <= worst + tol <= V + 2*tol
    assert V - worst <= (1 - 1/len(r))*R + tol

@many
@given(seeds, mild)
def test_gibbs_policies_are_pareto_optimal(seed, beta):
    ref, r, rho, rng = problem(seed)
    w = rng.dirichlet(np.ones(len(r)))
    pi = gibbs(ref, np.tensordot(w, r, 1), beta)
    near = (1 - 1e-3)*pi + 1e-3*policies(rng, ref)
    for p in (policies(rng, ref), near): assert ((utility(p[:, None], ref, r, beta, rho) - utility(pi, ref, r, beta, rho))@w <= 1e-10*np.ptp(r) + 1e-12).all()

@many
@given(seeds, mild)
def test_what_a_table_of_samples_promises(seed, beta):
    "E V_N <= min F_u(law returned) <= V, all tables of two samples enumerated."
    rng = np.random.default_rng(seed)
    U, Y = int(rng.integers(2, 7)), 3
    ref, r = rng.dirichlet(np.ones(Y), 1), rng.normal(size=(U, 1, Y))
    promise, law = 0., np.zeros((1, Y))
    for y in itertools.product(range(Y), repeat=2):
        chance, s = ref[0, list(y)].prod(), solve_maxmin([[.5, .5]], r[:, :, list(y)], beta)
        promise += chance*s.value
        np.add.at(law[0], list(y), chance*s.policy[0])
    delivered = utility(law/law.sum(), ref, r, beta).min()
    assert promise <= delivered + 1e-9 <= solve_maxmin(ref, r, beta).value + 2e-9

@many
@given(seeds)
def test_no_policy_above_the_ceiling(seed):
    ref, r, rho, rng = problem(seed)
    bs = (np.ptp(r) or 1.)*np.geomspace(.05, 5, 4)
    ks, worst = frontier(ref, r, bs, rho)
    p = policies(rng, ref)
    k, a = kl(p, ref, rho), (p[:, None]*np.where(ref > 0, r, 0)).sum(-1)@rho
    assert (a.min(-1) <= ceiling(k, bs, ks, worst) + 1e-9*np.ptp(r) + 1e-12).all() and np.allclose(ceiling(ks, bs, ks, worst), worst, atol=1e-8*np.ptp(r) + 1e-12)
    assert (np.diff(ks) <= 1e-8).all() and (np.diff(worst) <= 1e-8*np.ptp(r) + 1e-12).all()

def test_what_is_said_wrongly():
    "The naive statements fail."
    half = np.full((2, 2), .5)
    two = np.array([[[2., 0], [0, 0]], [[0, 0], [2, 0]]])
    V = solve_maxmin(half, two, 1.).value
    assert abs(V - .620) < 1e-3 and np.mean([solve_maxmin(half[[x]], two[:, [x]], 1.).value for x in (0, 1)]) < 1e-9       # w(x) for each prompt is not the same
    ref, r, beta = np.array([[.45, .45, .1]]), np.array([[[1., 0, .1]], [[0., 1, .1]]]), .02
    safe = utility(gibbs(ref, r.min(0), beta), ref, r, beta)
    assert np.allclose(safe, .084, atol=1e-3) and (safe < utility(ref, ref, r, beta) - .3).all()                           # per response is not safe
    a = np.array([[[1., 0]], [[0., 1.]]])
    assert np.allclose(solve_maxmin([[.5, .5]], a, 1.).policy, .5, atol=1e-9)
    assert np.allclose(solve_maxmin([[.5, .5]], a + np.array([1., 0])[:, None, None], 1.).policy, [.269, .731], atol=1e-3)  # not identified
    ref, r = np.array([[.2, .3, .5]]), np.array([[[1., 0, 0]], [[0, 2., 1]], [[.3, .2, 1.5]]])
    assert abs(solve_maxmin(ref, r, .3).weights - solve_minmax_regret(ref, r, .3).weights).max() > .05                     # another w for regret
    q = np.array([[[.99, .01], [.5, .5]], [[.01, .99], [.5, .5]]])
    assert abs(-solve_minmax_regret(half, np.log(q), 1.).value - .807) < 1e-3 and abs(chernoff_information(q[0, :, 0], q[1, :, 0])[0] - .512) < 1e-3

class Shortfall(Welfare):
    "A reader's welfare: neither conjugate nor domain."
    def __init__(self, line): self.line = line
    def value(self, F): return -np.maximum(self.line - np.asarray(F), 0).mean(-1)
    def weights(self, F): return (np.asarray(F) < self.line)/np.shape(F)[-1]

class HalfAndHalf(Welfare):
    "Another: half the worst off, half the mean."
    def value(self, F): return .5*np.min(F, -1) + .5*np.mean(F, -1)
    def weights(self, F): return .5*Egalitarian().weights(F) + .5/np.shape(F)[-1]

@many
@given(seeds, mild, st.booleans())
def test_a_welfare_of_ones_own(seed, beta, smooth):
    ref, r, rho, rng = problem(seed)
    W = HalfAndHalf() if smooth else Shortfall((ref*r).sum(-1).mean() + np.ptp(r)*rng.uniform(-.3, .3))
    try: s = solve_maxmin(ref, r, beta, W, rho)
    except RuntimeError: assert not smooth; return                         # a flat top that the policies tried do not reach: said, not hidden
    assert abs(s.gap) < 1e-6 and W.value(utility(policies(rng, ref)[:, None], ref, r, beta, rho)).max() <= s.value + 2e-6*np.ptp(r) + 1e-12

@pytest.mark.parametrize('beta', [1e-3, 1., 1e3])
@pytest.mark.parametrize('scale', [1e-150, 1e-6, 1., 1e6, 1e12, 1e150])
def test_any_scale(beta, scale):
    rng = np.random.default_rng(0)
    ref, r = rng.dirichlet(np.ones(6), 5), scale*rng.normal(size=(3, 5, 6))
    for f in (solve_maxmin, solve_minmax_regret):
        s = f(ref, r[[0, 1, 2, 1]], beta)
        assert abs(s.gap) < 1e-8 and np.isfinite(s.policy).all() and abs(s.weights[1] - s.weights[3]) < 1e-3

def test_never_given_and_never_asked():
    rng = np.random.default_rng(1)
    ref, r = rng.dirichlet(np.ones(4), 3), rng.normal(size=(2, 3, 4))
    ref[:, 2] = 0; ref /= ref.sum(-1, keepdims=True)
    there, not_there = r.copy(), r.copy()
    not_there[:, :, 2] = np.inf
    assert np.array_equal(solve_maxmin(ref, there, .5).policy, solve_maxmin(ref, not_there, .5).policy)
    far = r.copy(); far[:, 0] *= 1e9
    assert np.allclose(solve_maxmin(ref, far, .5, rho=[0, .5, .5]).policy[1:], solve_maxmin(ref[1:], r[:, 1:], .5).policy, atol=1e-9)

def test_by_cvxpy():
    "Values and policies of 100 random problems, both criteria, by exponential cones."
    cp = pytest.importorskip('cvxpy')
    rng = np.random.default_rng(3)
    for i in range(100):
        U, P, Y = int(rng.integers(2, 7)), int(rng.integers(1, 4)), int(rng.integers(2, 6))
        ref, r, rho, beta = rng.dirichlet(np.ones(Y), P), rng.normal(size=(U, P, Y)), rng.dirichlet(np.ones(P)), 10**rng.uniform(-1, 1)
        best = np.array([beta*log_partition(ref, o, beta, rho) for o in r])
        for zero, s in ((0*best, solve_maxmin(ref, r, beta, rho=rho)), (best, solve_minmax_regret(ref, r, beta, rho))):
            pi, t = cp.Variable((P, Y)), cp.Variable()
            cost = beta*(rho@cp.sum(cp.rel_entr(pi, ref), axis=1))
            rules = [cp.sum(cp.multiply(rho[:, None]*o, pi)) - cost - z >= t for o, z in zip(r, zero)]
            value = cp.Problem(cp.Maximize(t), [cp.sum(pi, axis=1) == 1, *rules]).solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
            assert abs(value - s.value) < 1e-6 and abs(s.gap) < 1e-8
            assert abs(utility(pi.value/pi.value.sum(-1, keepdims=True), ref, r, beta, rho) - zero - s.utilities).max() < 1e-4

def test_resample():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 3); p[0] = [0, 1, 0, 0, 0]; p[1, 4] = 0; p /= p.sum(-1, keepdims=True)
    draws = np.array([resample(rng, p) for _ in range(20_000)])
    freq = np.array([np.bincount(d, minlength=5) for d in draws.T])/len(draws)
    assert abs(freq - p).max() < .015 and (freq[p == 0] == 0).all()
    assert np.array_equal(resample(np.random.default_rng(5), p), resample(np.random.default_rng(5), p))

class Best(Welfare):
    def value(self, F): return np.max(F, -1)
    def weights(self, F): return np.eye(np.shape(F)[-1])[np.argmax(F, -1)]
class Spite(Welfare):
    def value(self, F): return -np.max(F, -1)
    def weights(self, F): return -np.eye(np.shape(F)[-1])[np.argmax(F, -1)]

REF, R = np.full((2, 3), 1/3), np.arange(12.).reshape(2, 2, 3)
@pytest.mark.parametrize('f, says', [
    (lambda: solve_maxmin(REF, R[0], 1.), 'groups, prompts, responses'), (lambda: solve_maxmin(REF, R[:, :1], 1.), 'rewards'), (lambda: solve_maxmin(REF, R[:0], 1.), 'rewards'),
    (lambda: solve_maxmin(2*REF, R, 1.), 'probability vector'), (lambda: solve_maxmin(REF*np.nan, R, 1.), 'probability vector'),
    (lambda: solve_maxmin(REF, np.where(R == 7, np.inf, R), 1.), r'\(1, 0, 1\) is NaN or infinite'), (lambda: solve_minmax_regret(REF, R*np.nan, 1.), 'NaN or infinite'),
    (lambda: solve_maxmin(REF, R, 0.), 'beta is 0'), (lambda: solve_maxmin(REF, R, np.inf), 'beta is inf'), (lambda: solve_maxmin(REF, R, [1., 2.]), 'beta is'),
    (lambda: solve_maxmin(REF, R, 1., rho=[.5, .6]), 'rho'), (lambda: solve_maxmin(REF, R, 1., Utilitarian([.2, .3, .5])), 'groups'),
    (lambda: solve_maxmin(REF, np.sin(R), 1., Best()), 'not supergradients'), (lambda: solve_maxmin(REF, R, 1., Spite()), 'nonnegative'),
    (lambda: resample(np.random.default_rng(0), [.5, .5]), 'policy has shape'), (lambda: resample(np.random.default_rng(0), [[.5, .6]]), 'probability vector')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()
