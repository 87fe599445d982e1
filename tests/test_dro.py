"Ambiguity sets, certificates and rates: every identity and bound of chapter 06 on random populations, and the statements that are false."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr
from maxmin_nb.dro import ChiSquareBall, KLBall, certificate, constants, eg, jump, play
from maxmin_nb.maxmin import solve_maxmin
from maxmin_nb.rlhf import gibbs, kl, log_partition, utility
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian, exponentiated, fenchel_gap

many = settings(max_examples=200, deadline=None)
num = st.one_of(st.integers(-4, 4).map(float), st.floats(-50, 50))      # integers make ties likely
seeds = st.integers(0, 10**6)

@st.composite
def ball(draw):
    "A ball of 2 to 6 groups and two vectors of utilities."
    U = draw(st.integers(2, 6))
    eta = draw(st.one_of(st.none(), arrays(float, U, elements=st.floats(.02, 1)).map(lambda s: s/s.sum())))
    d = draw(st.one_of(st.just(0.), st.floats(1e-6, 3.), st.just(200.)))
    F = arrays(float, U, elements=num)
    return draw(st.sampled_from([KLBall, ChiSquareBall]))(d, eta), draw(F), draw(F)

def problem(seed):
    "A random population of 2 to 6 groups: rewards, reference with a response it never gives, law of prompts, β, generator."
    rng = np.random.default_rng(seed)
    U, P, Y = rng.integers(2, 7), rng.integers(1, 4), rng.integers(2, 6)
    ref = rng.dirichlet(np.ones(Y), P)
    if Y > 2: ref[0, 0] = 0; ref[0] /= ref[0].sum()
    return rng.normal(size=(U, P, Y))*rng.choice([.3, 1, 3]), ref, rng.dirichlet(np.ones(P)), float(rng.choice([.05, .2, 1.])), rng

def even(r): return np.full(len(r), 1/len(r))
def dual(w, ref, r, beta, rho): return beta*log_partition(ref, np.tensordot(w, r, 1), beta, rho)
def scale(F): return 1 + abs(F).max()

# ---- balls

@many
@given(ball())
def test_ball_is_a_welfare(case):
    W, F, G = case
    w, t = W.weights(F), .3
    assert (w >= 0).all() and np.isclose(w.sum(), 1) and W.divergence(w) <= W.radius + 1e-9
    assert W.value(G) <= W.value(F) + w@(G - F) + 1e-7*scale(F - G)                                # supergradient
    assert W.value((1 - t)*F + t*G) >= (1 - t)*W.value(F) + t*W.value(G) - 1e-7*(scale(F) + scale(G))
    assert W.value(np.maximum(F, G)) >= W.value(F) - 1e-7*scale(F)
    assert abs(fenchel_gap(W, F, w)) <= 1e-7*scale(F) and fenchel_gap(W, G, w) >= -1e-7*scale(G)
    assert abs(W.value(2*F + 3) - 2*W.value(F) - 3) <= 1e-7*scale(F)                               # an ambiguity set of populations
    assert F.min() - 1e-9*scale(F) <= W.value(F) <= W._eta(len(F))@F + 1e-9*scale(F)

@many
@given(ball(), seeds)
def test_no_member_of_the_ball_is_worse(case, seed):
    "Members on the way from the shares to random populations, as far as the ball reaches."
    W, F, _ = case
    eta, rng = W._eta(len(F)), np.random.default_rng(seed)
    v = rng.dirichlet(np.ones(len(F))*.4, 20)
    lo, hi = np.zeros(20), np.ones(20)
    for _ in range(40):
        mid = (lo + hi)/2
        ok = W.divergence(eta + mid[:, None]*(v - eta)) <= W.radius
        lo, hi = np.where(ok, mid, lo), np.where(ok, hi, mid)
    assert ((eta + lo[:, None]*(v - eta))@F >= W.value(F) - 1e-7*scale(F)).all()

@many
@given(ball())
def test_worst_case_uses_up_the_radius(case):
    W, F, _ = case
    eta = W._eta(len(F))
    M = F == F.min()
    if np.ptp(F) < 1e-3 or len(F[~M]) and (F[~M] - F.min()).min() < 1e-3: return
    limit = -np.log(eta[M].sum()) if isinstance(W, KLBall) else 1/eta[M].sum() - 1
    if W.radius < limit - 1e-6: assert abs(W.divergence(W.weights(F)) - W.radius) <= 1e-8
    if W.radius > limit + 1e-6: assert np.allclose(W.weights(F), M*eta/eta[M].sum(), atol=1e-9)

@many
@given(ball(), st.floats(.01, 30))
def test_kl_ball_is_the_best_soft_minimum(case, tau):
    W, F, _ = case
    W = KLBall(W.radius, W.shares)
    assert W.value(F) >= SoftMin(tau, W.shares).value(F) - tau*W.radius - 1e-7*scale(F)

@many
@given(ball())
def test_mean_minus_deviations(case):
    W, F, _ = case
    W = ChiSquareBall(W.radius, W.shares)
    eta = W._eta(len(F)); mean = eta@F; dev = np.sqrt(eta@(F - mean)**2)
    formula, uncut = mean - np.sqrt(W.radius)*dev, np.sqrt(W.radius)*(F.max() - mean) <= dev
    if uncut: assert abs(W.value(F) - formula) <= 1e-7*scale(F)
    else: assert W.value(F) >= formula - 1e-7*scale(F)                                            # cut off: less pessimistic than the formula

def test_balls_nest_and_end():
    F, eta = np.random.default_rng(0).normal(size=(200, 4)), [.4, .3, .2, .1]
    for B, large in ((KLBall, np.log(10) + 1e-6), (ChiSquareBall, 9 + 1e-6)):
        v = np.array([B(d, eta).value(F) for d in (0, .01, .1, .5, 1, large)])
        assert (np.diff(v, axis=0) <= 1e-9).all() and np.allclose(v[0], Utilitarian(eta).value(F)) and np.allclose(v[-1], F.min(-1))

def test_domain_is_an_outer_box():
    rng = np.random.default_rng(1)
    for W in (KLBall(.2, [.5, .3, .2]), ChiSquareBall(.5, [.5, .3, .2])):
        lo, hi = np.array(W.domain(3)['bounds']).T
        w = rng.dirichlet(np.ones(3), 4000)
        inside = np.isfinite(W.conjugate(w))
        assert (inside == (W.divergence(w) <= .2 if isinstance(W, KLBall) else W.divergence(w) <= .5)).all()
        assert (w[inside] >= lo).all() and (w[inside] <= hi).all() and abs(w[inside].max(0) - hi).max() < .03
        assert ((w >= lo) & (w <= hi)).all(-1).sum() > inside.sum()                                # linear constraints do not describe it

def test_batches_agree_with_rows():
    F = np.random.default_rng(1).integers(-2, 3, (3, 5, 4)).astype(float)
    for W in (KLBall(.3), ChiSquareBall(.3)):
        assert W.weights(F).shape == F.shape and W.value(F).shape == (3, 5)
        for i in np.ndindex(3, 5): assert np.allclose(W.weights(F)[i], W.weights(F[i])) and np.isclose(W.value(F)[i], W.value(F[i]))

@settings(max_examples=200, deadline=None)
@given(seeds)
def test_ball_in_the_exact_solver(seed):
    "The optimum is certified, and is MaxMin's as soon as the ball holds MaxMin's weights."
    r, ref, rho, beta, rng = problem(seed)
    for B in (KLBall, ChiSquareBall):
        W = B(float(rng.choice([.02, .2, 1.])))
        s, best = solve_maxmin(ref, r, beta, W, rho), solve_maxmin(ref, r, beta, rho=rho)
        assert s.gap < 1e-7 and s.value >= best.value - 1e-6*scale(r)
        if np.isfinite(W.conjugate(best.weights, tol=0)): assert abs(s.value - best.value) < 1e-6*scale(r)

# ---- certificates and lemmas

@many
@given(seeds)
def test_certificate(seed):
    "It is at least what the policy really lacks, for every welfare, policy and weights."
    r, ref, rho, beta, rng = problem(seed)
    U = len(r)
    W = [Egalitarian(), CVaR(.5), SoftMin(.4), Nash(None, -9., .2), KLBall(.2), Utilitarian()][seed % 6]
    pi, w = gibbs(ref, rng.normal(size=ref.shape), .5), W.weights(rng.normal(size=U))
    c = certificate(pi, w, ref, r, beta, W, rho)
    for _ in range(5):
        other = gibbs(ref, np.tensordot(rng.dirichlet(np.ones(U)), r, 1), beta)
        assert W.value(utility(other, ref, r, beta, rho)) - W.value(utility(pi, ref, r, beta, rho)) <= c + 1e-9*scale(r)

@many
@given(seeds, st.floats(.01, .99), st.floats(.01, 5))
def test_what_steps_cost(seed, kappa, s):
    "Lemmas: the policy holds an average of the weights; equations (5) and (6)."
    r, ref, rho, beta, rng = problem(seed)
    U = len(r)
    m, w, v, F = *rng.dirichlet(np.ones(U), 3), rng.normal(size=U)
    r_w, old = np.tensordot(w, r, 1), gibbs(ref, np.tensordot(m, r, 1), beta)
    with np.errstate(divide='ignore'): a = np.where(ref > 0, (1 - kappa)*np.log(old) + kappa*np.log(gibbs(ref, r_w, beta)), -np.inf)
    new = np.exp(a - a.max(-1, keepdims=True)); new /= new.sum(-1, keepdims=True)
    assert np.allclose(new, gibbs(ref, np.tensordot((1 - kappa)*m + kappa*w, r, 1), beta), atol=1e-9)
    pi, sigma = gibbs(ref, rng.normal(size=ref.shape), 1.), kappa/(beta*(1 - kappa))
    left = sigma*(utility(pi, ref, r_w, beta, rho) - utility(new, ref, r_w, beta, rho))
    right = kl(pi, old, rho) - (1 + sigma*beta)*kl(pi, new, rho) - kl(new, old, rho)
    assert abs(left - right) < 1e-8*(1 + abs(left) + sigma*scale(r))
    D, after = lambda p, q: rel_entr(p, q).sum(), exponentiated(w, F, s)
    assert abs(s*F@(after - v) - D(v, w) + D(v, after) + D(after, w)) < 1e-9

@many
@given(seeds)
def test_constants(seed):
    "R bounds the utilities' range, L the curvature; G(w) = w·F(π_w)."
    r, ref, rho, beta, rng = problem(seed)
    c, (w, v) = constants(ref, r, beta, rho), rng.dirichlet(np.ones(len(r))*.5, 2)
    pi = gibbs(ref, rng.normal(size=ref.shape)*3, .3)
    assert np.ptp(utility(pi, ref, r, beta, rho)) <= c.R + 1e-12 and c.S <= 2*c.S_r + 1e-12
    F = utility(gibbs(ref, np.tensordot(w, r, 1), beta), ref, r, beta, rho)
    assert np.isclose(dual(w, ref, r, beta, rho), w@F)
    ahead = dual(v, ref, r, beta, rho) - w@F - F@(v - w)
    assert -1e-9 <= ahead <= c.L/2*abs(v - w).sum()**2 + 1e-9

def test_curvature_is_sharp():
    "Two groups, two responses, r_1 - r_2 = ±1: the second derivative of G attains L."
    r, ref, beta, h = np.array([[[1., 0]], [[0, 1.]]]), np.array([[.5, .5]]), .7, 1e-4
    G = lambda x: dual(np.array([x, 1 - x]), ref, r, beta, None)
    assert np.isclose((G(.5 + h) - 2*G(.5) + G(.5 - h))/h**2, 4*constants(ref, r, beta).L, rtol=1e-5)

# ---- rates

@many
@given(seeds, st.integers(1, 20))
def test_rate_of_exponentiated_gradient(seed, T):
    "(7)."
    r, ref, rho, beta, _ = problem(seed)
    R = constants(ref, r, beta, rho).R
    t = play(ref, r, beta, T, eg(np.sqrt(8*np.log(len(r))/T)/R), start=even(r), rho=rho)
    assert certificate(t.policies[:-1].mean(0), t.weights[:-1].mean(0), ref, r, beta, rho=rho) <= R*np.sqrt(np.log(len(r))/(2*T)) + 1e-9

def test_other_averages_have_no_such_rate():
    r, ref, beta, T = np.array([[[1., 0, 0]], [[0, 1., 0]]]), np.array([[.45, .35, .2]]), .005, 100
    t = play(ref, r, beta, T, eg(np.sqrt(8*np.log(2)/T)), start=[.5, .5])
    w = t.weights[:-1].mean(0)
    of = lambda pi, w: certificate(pi, w, ref, r, beta)
    gaps = of(t.policies[:-1].mean(0), w), of(gibbs(ref, np.tensordot(w, r, 1), beta), w), of(t.policies[-2], t.weights[-2])
    assert np.allclose(gaps, (.011, .499, .520), atol=6e-4) and gaps[0] < np.sqrt(np.log(2)/(2*T)) < .1 < min(gaps[1:])

@many
@given(seeds, st.integers(1, 20), st.floats(.05, 1))
def test_rate_at_fixed_beta(seed, T, part):
    "Certificate log U/(sT), a dual that never rises, the last policy in KL and in utility."
    r, ref, rho, beta, _ = problem(seed)
    L, U = constants(ref, r, beta, rho).L, len(r)
    s, best = part/L, solve_maxmin(ref, r, beta, rho=rho)
    t = play(ref, r, beta, T, eg(s), start=even(r), rho=rho)
    G, tol = np.array([dual(w, ref, r, beta, rho) for w in t.weights]), 1e-9*scale(r)
    assert (np.diff(G) <= tol).all()
    assert certificate(t.policies[:-1].mean(0), t.weights[-1], ref, r, beta, rho=rho) <= np.log(U)/(s*T) + tol
    delta = G[-1] - best.value
    assert beta*kl(best.policy, t.policies[-1], rho) <= delta + 1e-6*scale(r) and delta <= np.log(U)/(s*T) + 1e-6*scale(r)
    if delta <= 2*L: assert certificate(t.policies[-1], t.weights[-1], ref, r, beta, rho=rho) <= 2*np.sqrt(2*L*max(delta, 0)) + 1e-4*scale(r)

@many
@given(seeds, st.integers(1, 20))
def test_rate_of_the_papers_rule(seed, T):
    "(9)."
    r, ref, rho, beta, _ = problem(seed)
    best = solve_maxmin(ref, r, beta, rho=rho)
    S_r, K = constants(ref, r, beta, rho).S_r, kl(best.policy, ref, rho)
    sigma = np.sqrt(8*K/T)/S_r
    if sigma*beta < 1e-9: return
    t = play(ref, r, beta, T, jump(), sigma*beta/(1 + sigma*beta), rho=rho)
    assert best.value - utility(t.policies[:-1].mean(0), ref, r, beta, rho).min() <= S_r*np.sqrt(K/(2*T)) + 1e-6*scale(r)

def test_exact_responses_on_both_sides_fail():
    r, ref, beta = np.array([[[1., 0, .8]], [[0, 1., .8]]]), np.full((1, 3), 1/3), .1
    average = play(ref, r, beta, 1000, jump(), start=[1., 0]).policies[:-1].mean(0)
    assert np.isclose(utility(average, ref, r, beta).min(), .523, atol=1e-3) and np.isclose(solve_maxmin(ref, r, beta).value, .700, atol=1e-3)

@many
@given(seeds)
def test_frank_wolfe(seed):
    "Shrinking policy steps: G(m_T) - V ≤ 8L/(T + 2), for MaxMin and for sets."
    r, ref, rho, beta, rng = problem(seed)
    W = [Egalitarian(), CVaR(.5), ChiSquareBall(.3)][seed % 3]
    best, L, T = solve_maxmin(ref, r, beta, W, rho), constants(ref, r, beta, rho).L, 12
    t = play(ref, r, beta, T, jump(W), 2/(np.arange(T) + 2), start=even(r), rho=rho)
    for k in range(1, T + 1):
        over = dual(t.held[k], ref, r, beta, rho) - best.value
        assert beta*kl(best.policy, t.policies[k], rho) <= over + 1e-6*scale(r) and over <= 8*L/(k + 2) + 1e-6*scale(r)

def test_constant_steps_swing():
    r, ref = np.array([[[1., 0, .4]], [[0, 1., .5]]]), np.full((1, 3), 1/3)
    for kappa in (.1, .02):
        m = play(ref, r, .1, 600, jump(), kappa, start=[.5, .5]).held[-20:, 0]
        assert .4*kappa < np.ptp(m) < 1.5*kappa

# ---- look-ahead

def rises(seed, look):
    "Largest rise of D_t + β KL over 12 steps of the theorem's scheme, relative; None where numbers underflow."
    r, ref, rho, beta, rng = problem(seed)
    best, S, kappa = solve_maxmin(ref, r, beta, rho=rho), constants(ref, r, beta, rho).S, float(rng.choice([.02, .1, .5, .9]))
    sigma = kappa/(beta*(1 - kappa)); s = min(16/(S**2*sigma), 20.)
    t = play(ref, r, beta, 12, eg(s, s if look else 0.), kappa, rho=rho)
    far = kl(best.policy, t.policies[:-1], rho)
    D = far/sigma + rel_entr(best.weights, t.weights[1:]).sum(-1)/s
    return ((D[1:] + beta*far[1:] - D[:-1])/(1 + D[0])).max() if np.isfinite(D).all() else None

@many
@given(seeds)
def test_last_policy_converges_with_look_ahead(seed):
    rise = rises(seed, True)
    assert rise is None or rise <= 1e-6

def test_without_look_ahead_the_distance_can_rise():
    assert max(r for r in (rises(s, False) for s in range(60)) if r is not None) > 1e-4
    assert sum(rises(s, True) is None for s in range(60)) < 6                                    # and the test above tests something

@many
@given(seeds, st.floats(.01, 1), st.floats(.01, 3), st.floats(0, 4))
def test_modes(seed, kappa, s, look):
    "(11): eigenvalues, when it swings, when it is stable; and that (11) is the derivative of the loop."
    h = float(np.random.default_rng(seed).choice([.05, .5, 2., 10.]))
    A = np.array([[1, -s*h], [kappa, 1 - kappa*(1 + (s + look)*h)]])
    e, swing, stable = np.linalg.eigvals(A), kappa*(1 + (s + look)*h) - 2*np.sqrt(kappa*s*h), kappa*(2 + (s + 2*look)*h) - 4
    if abs(swing) > 1e-6: assert (abs(e.imag).max() > 1e-9) == (swing < 0)
    if swing < -1e-6: assert np.allclose(abs(e), np.sqrt(1 - kappa*(1 + look*h)), atol=1e-6)
    if abs(stable) > 1e-6: assert (abs(e).max() < 1) == (stable < 0)

@many
@given(seeds, st.floats(.02, .9), st.floats(.05, 2), st.floats(0, 2))
def test_the_loop_near_its_optimum(seed, kappa, s, look):
    "One step of `play`'s rule, differentiated at an interior optimum, has the eigenvalues of (11)."
    r, ref, rho, beta, rng = problem(seed)
    U, beta = len(r), max(beta, .2)
    w = .5*rng.dirichlet(np.ones(U)) + .5/U
    r_opt = r - utility(gibbs(ref, np.tensordot(w, r, 1), beta), ref, r, beta, rho)[:, None, None]    # all utilities equal at w: optimal
    F = lambda m: utility(gibbs(ref, np.tensordot(m, r_opt, 1), beta), ref, r_opt, beta, rho)
    def step(z):
        a, m = z[:U], z[U:]
        w1 = exponentiated(np.exp(a)/np.exp(a).sum(), F(m), s)
        return np.r_[np.log(w1), (1 - kappa)*m + kappa*exponentiated(w1, F(m), look)]
    z, eps = np.r_[np.log(w), w], 1e-6
    assert np.allclose(step(z), z, atol=1e-9)
    J = np.array([(step(z + eps*e) - step(z - eps*e))/(2*eps) for e in np.eye(2*U)]).T
    pi = gibbs(ref, np.tensordot(w, r_opt, 1), beta); dev = np.where(ref > 0, r_opt, 0); dev = dev - (pi*dev).sum(-1, keepdims=True)
    H = np.einsum('upy,vpy,py,p->uv', dev, dev, pi, rho)/beta
    h = np.linalg.eigvals((np.diag(w) - np.outer(w, w))@H)
    assert abs(h.imag).max() < 1e-6*(1 + abs(h)) .max() and h.real.min() > -1e-8*(1 + abs(h).max())
    for x in h.real[h.real > 1e-3*(1 + h.real.max())]:
        for e in np.linalg.eigvals([[1, -s*x], [kappa, 1 - kappa*(1 + (s + look)*x)]]):
            assert np.linalg.svd(J - e*np.eye(2*U))[1][-1] < 1e-4*(1 + abs(J).max())

# ---- input

two, half = np.array([[[1., 0]], [[0, 1.]]]), np.array([[.5, .5]])

@pytest.mark.parametrize('f, says', [
    (lambda: KLBall(-.1), 'radius is -0.1'), (lambda: ChiSquareBall(np.inf), 'radius is inf'), (lambda: KLBall(.1, [.5, .6]), 'sum to 1'), (lambda: KLBall(.1, [.5, .5]).value([1., 2., 3.]), 'shares of 2'), (lambda: ChiSquareBall(.1).weights([1., np.nan]), 'finite'),
    (lambda: play(half, two[0], .1, 3, jump()), 'groups, prompts, responses'), (lambda: play(half, two + np.inf, .1, 3, jump()), 'NaN or infinite'), (lambda: play(half, two, .1, 3, jump(), kappa=0.), 'kappa is 0'),
    (lambda: play(half, two, .1, 3, jump(), kappa=[.1, .2]), 'kappa is'), (lambda: play(half, two, 0., 3, jump()), 'beta is 0'), (lambda: play(half, two, .1, 3, eg(-1.)), 'step is -1'), (lambda: certificate(half, [1., 0, 0], half, two, .1), 'one weight for each of 2'),
    (lambda: certificate(half, [0., 0], half, two, .1), 'not all zero'), (lambda: constants(half, two, .1, rho=[.5, .5]), 'rho')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()

def test_reference_never_gives():
    "Whatever the reward of a response that the reference never gives, it has probability 0 and no influence."
    ref, r = np.array([[.5, .5, 0.]]), np.array([[[1., 0, np.inf]], [[0, 1., 5.]]])
    a, b = constants(ref, r, .1), constants(half, two, .1)
    assert np.allclose(a, b) and np.allclose(play(ref, r, .1, 5, eg(1.), .5).policies[:, :, :2], play(half, two, .1, 5, eg(1.), .5).policies)
