"Numbers at their limits: twelve orders of magnitude, one group and fifty, groups of one person, probabilities of 0 and 1, single and double precision. No NaN, and no warning without a reason: every warning is an error here."
import warnings
import numpy as np, pytest, torch
from maxmin_nb.dro import ChiSquareBall, KLBall, certificate, eg, jump, play
from maxmin_nb.evaluation import bootstrap
from maxmin_nb.general_utility import MDP, policy_gradient, solve_cuts, solve_lp
from maxmin_nb.impossibility import gap_bounds
from maxmin_nb.maxmin import ceiling, frontier, resample, solve_maxmin, solve_minmax_regret
from maxmin_nb.mixture import fit_mixture
from maxmin_nb.policy import draw
from maxmin_nb.ppo import ValueHead, clipped_loss, gae, k3, returns_to_go, whiten
from maxmin_nb.preferences import bt_prob, chernoff_information, diversity, log_sigmoid, mix
from maxmin_nb.rlhf import fit_bradley_terry, gibbs, kl, log_partition, utility
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian, exponentiated, regret, relative

pytestmark = pytest.mark.filterwarnings('error')
TENS = [1e-6, 1e-3, 1., 1e3, 1e6]
GROUPS = [1, 2, 7, 50]

def problem(U, P=3, Y=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(Y), P), rng.normal(size=(U, P, Y))

def welfares(U, unit=1.):
    eta = np.random.default_rng(U).dirichlet(np.full(U, 5.)).tolist()
    return [Egalitarian(), Utilitarian(eta), SoftMin(.3*unit, eta), CVaR(.3, eta), Nash(eta, delta=.05*unit), KLBall(.2, eta), ChiSquareBall(.2, eta)]

def finite(*xs): assert all(np.isfinite(np.asarray(x, float)).all() for x in xs)

# --- exact solvers

@pytest.mark.parametrize('scale', TENS)
@pytest.mark.parametrize('beta', TENS)
@pytest.mark.parametrize('U', [1, 2, 7])
def test_exact_solver_over_twelve_orders_of_magnitude(U, beta, scale):
    ref, r = problem(U)
    s = solve_maxmin(ref, scale*r, beta)
    finite(s.policy, s.weights, s.utilities, s.value, s.gap)
    assert abs(s.gap) < 1e-6 and np.allclose(s.policy.sum(-1), 1) and np.allclose(s.weights.sum(), 1)
    same = solve_maxmin(ref, r, beta/scale)                                  # the units of reward are a convention
    assert np.isclose(s.value, scale*same.value, rtol=1e-7, atol=1e-9*scale)
    finite(solve_minmax_regret(ref, scale*r, beta).value)

@pytest.mark.parametrize('scale', [1e-6, 1., 1e6])
@pytest.mark.parametrize('U', GROUPS)
def test_any_welfare_of_one_to_fifty_groups(U, scale):
    ref, r = problem(U)
    for W in welfares(U, scale):
        s = solve_maxmin(ref, scale*r, .3*scale, W)
        finite(s.policy, s.weights, s.utilities, s.value)
        assert abs(s.gap) < 1e-6, W

@pytest.mark.parametrize('U', [1, 2, 7])
def test_frontier_and_ceiling_over_twelve_orders_of_beta(U):
    ref, r = problem(U)
    betas = np.geomspace(1e-6, 1e6, 13)
    k, worst = frontier(ref, r, betas)
    finite(k, worst, ceiling([0., 1e-9, .5, 1e3], betas, k, worst))
    assert (np.diff(k) < 1e-9).all() and (np.diff(worst) < 1e-7).all() and (k >= 0).all()

def test_probabilities_of_zero_and_one():
    one = np.eye(3)[[0, 2]]                                                 # a reference that always says the same
    r = np.where(one > 0, [[[1.]], [[2.]]], np.nan)                         # and rewards that nobody could know
    s = solve_maxmin(one, r, .3)
    assert (s.policy == one).all() and s.value == 1 and s.gap < 1e-12
    ref, r = problem(2)
    ref[:, 0] = 0; ref /= ref.sum(-1, keepdims=True)
    for W in welfares(2): assert (solve_maxmin(ref, r, .3, W).policy[:, 0] == 0).all()
    rho = [1., 0., 0.]
    finite(solve_maxmin(ref, r, .3, rho=rho).value, gibbs(ref, r[0], 1e-9), log_partition(ref, r, 1e-9, rho), kl(gibbs(ref, r[0], 1e-9), ref, rho), utility(ref, ref, r, .3, rho))
    assert (resample(np.random.default_rng(0), one) == [0, 2]).all()
    c, w = chernoff_information([0., 1., .5], [0., 1., .5])
    assert c == 0 and chernoff_information([1., 0.], [0., 1.])[0] == np.inf
    finite(w, diversity(np.eye(2)), mix([0., 1.], np.eye(2)), bt_prob(1e300, -1e300), log_sigmoid([-1e308, 0, 1e308]))

@pytest.mark.parametrize('beta', [1e-6, 1e-2, 1., 1e6])
def test_impossibility_bounds_at_any_beta(beta):
    ref, r = problem(2, P=2, Y=4)
    b = gap_bounds(ref, r, [.8, .2], beta)
    finite(*b.values())
    assert b['pinsker'] <= b['gap']*(1 + 1e-6) + 1e-12*beta and b['bound'] <= b['gap']*(1 + 1e-6) + 1e-12*beta

# --- welfare and ambiguity

@pytest.mark.parametrize('scale', TENS)
@pytest.mark.parametrize('U', GROUPS)
@pytest.mark.parametrize('shift', [0., 1e8, -1e8])
def test_weights_of_a_welfare(U, scale, shift):
    rng = np.random.default_rng(1)
    for F in (scale*rng.normal(size=U) + shift, np.full(U, shift), np.r_[scale, np.full(U - 1, -scale)]):
        for W in welfares(U):
            w = W.weights(F)
            finite(w, W.value(F), np.nan_to_num(W.conjugate(w), neginf=0))
            assert (w >= 0).all() and (isinstance(W, Nash) or np.isclose(w.sum(), 1)), W
        w = exponentiated(np.full(U, 1/U), F, 10.)
        finite(w, exponentiated(np.eye(U)[0], F, 1.), regret(F, F))
        assert np.isclose(w.sum(), 1)

@pytest.mark.parametrize('W', [SoftMin(1e-6), SoftMin(1e6), CVaR(1e-6), CVaR(1.), Nash(delta=1e-6), KLBall(0.), KLBall(1e6), ChiSquareBall(0.), ChiSquareBall(1e6), SoftMin(1., [1 - 1e-12, 1e-12]), CVaR(.5, [1 - 1e-12, 1e-12])], ids=repr)
def test_settings_at_their_limits(W):
    for F in ([0., 0.], [1., -1.], [1e6, -1e6], [1e-9, 0.]):
        w = W.weights(F)
        finite(w, W.value(F))
        assert (w >= 0).all()

@pytest.mark.parametrize('scale', TENS)
@pytest.mark.parametrize('U', [1, 2, 50])
def test_game_of_weights_and_policy(U, scale):
    ref, r = problem(U)
    for weigh in (jump(), eg(.5/scale), eg(1e3/scale, 1/scale)):
        t = play(ref, scale*r, .3*scale, 20, weigh, .5)
        finite(*t)
        assert np.allclose(t.weights.sum(-1), 1) and certificate(t.policies[-1], t.weights[-1], ref, scale*r, .3*scale) > -1e-9*scale

def test_relative_rewards_of_any_size():
    ref, r = problem(3)
    for scale in TENS: assert np.allclose(relative(scale*r, ref), relative(r, ref))

# --- Markov decision processes

@pytest.mark.parametrize('scale', TENS)
@pytest.mark.parametrize('U', [1, 3])
@pytest.mark.parametrize('gamma', [0., .999])
def test_general_utility(U, scale, gamma):
    rng = np.random.default_rng(2)
    P = rng.dirichlet(np.ones(4), (4, 2))
    P[0] = np.eye(4)[0]                                                      # a state that is never left
    mdp, r = MDP(P, np.eye(4)[1], gamma), scale*rng.normal(size=(U, 4, 2))
    a, b = solve_lp(mdp, r, Egalitarian()), solve_cuts(mdp, r, Egalitarian())
    for o in (a, b, policy_gradient(mdp, r, Egalitarian(), 30, .1/scale)[0]): finite(o.d, o.F, o.value, o.bound, o.pi)
    assert abs(a.value - b.value) <= 1e-5*(1 + abs(a.value)) and a.gap < 1e-6*max(scale, 1)

# --- mixture

@pytest.mark.parametrize('scale', [1e-6, 1e-3, 1., 1e3, 1e6])
@pytest.mark.parametrize('K', [1, 2])
def test_em_with_features_of_any_size(K, scale):
    rng = np.random.default_rng(3)
    x, users = rng.normal(size=(240, 3)), np.repeat(np.arange(12), 20)
    sign = np.where(rng.random(240) < 1/(1 + np.exp(-2*x[:, 0]*np.where(users%2, 1, -1))), 1, -1)[:, None]
    m = fit_mixture(scale*x*sign, users, K, l2=1e-3*scale**2, restarts=3)     # the penalty has the units of the features
    same = fit_mixture(x*sign, users, K, l2=1e-3, restarts=3)
    finite(m.coef, m.weights, m.responsibilities, m.log_likelihood)
    assert np.allclose(scale*m.coef, same.coef, rtol=1e-4, atol=1e-6) and np.allclose(m.weights, same.weights, atol=1e-6)

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('K', [1, 3, 12])
def test_em_with_groups_of_one_person(K, dtype):
    "As many groups as people, up to one comparison each."
    rng = np.random.default_rng(4)
    x = rng.normal(size=(12, 2)).astype(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'a component lost all its users|.* components ended without users|EM had not converged')   # said with reason here
        m = fit_mixture(x, np.arange(12), K, restarts=2)
    finite(m.coef, m.weights, m.responsibilities, m.predict_proba(x, np.arange(12)), m.user_log_likelihood(x, np.arange(12)))
    assert np.allclose(m.responsibilities.sum(1), 1) and np.isclose(m.weights.sum(), 1)

def test_em_in_single_and_double_precision():
    rng = np.random.default_rng(5)
    x, users = rng.normal(size=(400, 4)).astype(np.float32), np.repeat(np.arange(20), 20)
    x *= np.where(x[:, :1]*np.where(users%2, 1, -1)[:, None] > 0, 1, -1)
    a, b = (fit_mixture(x.astype(t), users, 2, restarts=3) for t in (np.float32, np.float64))
    assert np.allclose(a.coef, b.coef, rtol=1e-5, atol=1e-6) and np.allclose(a.responsibilities, b.responsibilities, atol=1e-6)

def test_em_of_fifty_groups():
    rng = np.random.default_rng(6)
    users = np.repeat(np.arange(100), 8)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'a component lost all its users|.* components ended without users|EM had not converged')
        m = fit_mixture(rng.normal(size=(800, 3)), users, 50, restarts=1, max_iter=30)
    finite(m.coef, m.weights, m.responsibilities)

@pytest.mark.parametrize('weight', [1e-12, 1., 1e12])
def test_weights_of_comparisons_of_any_size(weight):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(60, 2))
    m = fit_mixture(x, np.repeat(np.arange(6), 10), 2, weight=np.full(60, weight), l2=1e-3*weight, restarts=2)
    finite(m.coef, m.weights, m.responsibilities, m.log_likelihood)
    finite(fit_bradley_terry(x, weight=np.full(60, weight)))

# --- PPO

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('scale', TENS)
def test_advantages_of_any_size(dtype, scale):
    g = torch.Generator().manual_seed(0)
    r, v = (scale*torch.randn(4, 6, generator=g, dtype=dtype) for _ in range(2))
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 5])[:, None]
    a = gae(r*mask, v*mask, .95)
    white = whiten(a, mask)
    finite(a, white, returns_to_go(r))
    assert abs(white[mask].mean()) < 1e-5 and abs(white[mask].std(unbiased=False) - 1) < (1e-3 if scale > 1e-4 else .05) and (white[~mask] == 0).all()
    wide = gae((r*mask).double(), (v*mask).double(), .95)
    assert torch.allclose(a.double(), wide, rtol=1e-4, atol=1e-5*scale)
    for lam in (0., 1.): finite(gae(r*mask, v*mask, lam))

@pytest.mark.parametrize('drift', [0., 1e-9, 1., 30., 80.])
def test_clipped_loss_far_from_the_sampler(drift):
    old = torch.full((2, 3), -1.)
    logp = (old + torch.tensor([[drift, -drift, 0.], [drift, -drift, 0.]])).requires_grad_()
    adv, mask = torch.tensor([[1., 1., 1.], [-1., -1., -1.]]), torch.ones(2, 3, dtype=torch.bool)
    loss, share = clipped_loss(logp, old, adv, mask)
    loss.backward()
    finite(loss.item(), share, logp.grad, k3(old, logp.detach()))
    assert (k3(old, logp.detach()) >= -1e-6).all()

def test_value_head_in_single_precision():
    class R:
        n_prompt, states, actions = 2, 1e4*torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4, dtype=torch.bool)
        def __len__(self): return 3
    h = ValueHead(8, 2, 4)
    finite(h(R()))
    for scale in TENS:
        h.update(R(), scale*torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)))
        finite(h(R()))

# --- sampling

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('u', [0., 1e-300, .5, 1 - 2**-53])
def test_draw_at_the_ends(dtype, u):
    V = 3000
    for z in (torch.zeros(1, V), 1e4*torch.randn(1, V, generator=torch.Generator().manual_seed(0)), torch.full((1, V), -torch.inf).index_fill_(1, torch.tensor([1700]), 0.), 1e-30*torch.ones(1, V)):
        token, lp = draw(z.to(dtype), torch.tensor([u], dtype=torch.float64))
        assert 0 <= token < V and torch.isfinite(lp) and lp <= 1e-3 and torch.isfinite(z[0, token])

def test_draw_never_takes_what_has_probability_zero():
    z = torch.zeros(1, 2500)
    z[:, ::2] = -torch.inf
    u = torch.linspace(0, 1 - 2**-53, 4001, dtype=torch.float64)
    token, lp = draw(z.expand(len(u), -1), u)
    assert (token%2 == 1).all() and torch.allclose(lp, torch.tensor(-np.log(1250), dtype=lp.dtype), atol=1e-5)

def test_draws_in_single_and_double_precision_agree_but_at_edges():
    z, u = torch.randn(64, 5000, generator=torch.Generator().manual_seed(1)), torch.rand(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = draw(z, u), draw(z.double(), u)
    same = a[0] == b[0]
    assert same.double().mean() > .95 and torch.allclose(a[1][same].double(), b[1][same], atol=1e-4)

def test_bootstrap_of_any_size():
    for scale in [*TENS, 0.]:
        m, low, high = bootstrap(scale*np.random.default_rng(0).normal(size=30))
        finite(m, low, high)
        assert low <= m <= high
