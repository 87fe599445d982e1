"Occupancies, welfares of them, the linear programme, cutting planes, policy gradients: what chapter 07 states."
from itertools import product
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from scipy.special import softmax
from maxmin_nb.general_utility import (MDP, action_values, best_policy, flow_residual, gridworld, occupancy, occupancy_kl, pareto_front, policy_gradient, policy_of,
                                       reinforce_gradient, returns, rollout, solve_cuts, solve_lp, utilities, welfare_gradient)
from maxmin_nb.rlhf import kl, utility
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian, Welfare, fenchel_gap

many = settings(max_examples=200, deadline=None)
seeds, groups, gammas = st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([0., .3, .9, .97])

def problem(seed, U=2, gamma=.8, S=4, A=3):
    "A random process; half of them with few successors and one first state, so that some states are never reached."
    rng = np.random.default_rng(seed)
    P, start = rng.dirichlet(np.ones(S)*rng.choice([.02, .5]), (S, A)), rng.dirichlet(np.ones(S))
    if rng.random() < .5: P, start = np.where(P == P.max(-1, keepdims=True), 1., 0.), np.eye(S)[0]
    return rng, MDP(P, start, gamma), rng.normal(size=(U, S, A))

def random_policy(rng, m): return rng.dirichlet(np.ones(m.shape[1])*rng.choice([.1, 1.]), m.shape[0])

def welfares(rng, U):
    eta = rng.dirichlet(np.ones(U)*3)*.9 + .1/U
    return [Utilitarian(eta), Egalitarian(), CVaR(rng.uniform(.2, 1), eta), SoftMin(rng.uniform(.2, 2), eta), Nash(eta, -3., .1)]

class Gini(Welfare):
    def value(self, F): return self.weights(F)@F
    def weights(self, F): return ((2*np.arange(len(F), 0, -1) - 1)/len(F)**2)[np.argsort(np.argsort(F))]

class GiniLP(Gini):
    def domain(self, n):
        sets, c = np.array(list(product((0., 1.), repeat=n))), (2*np.arange(n, 0, -1) - 1)/n**2
        return dict(A_ub=sets, b_ub=np.r_[0, np.cumsum(c)][sets.sum(1).astype(int)], A_eq=np.ones((1, n)), b_eq=np.ones(1), bounds=[(0., None)]*n)


@many
@given(seeds, gammas)
def test_occupancies_are_the_solutions_of_the_flow_equations(seed, gamma):
    rng, m, r = problem(seed, gamma=gamma)
    law, d, T = m.start, 0, 1500 if gamma > .95 else 300
    kinds = [random_policy(rng, m) for _ in range(5)]
    for t in range(T):                                                    # a policy that looks at the clock
        both = law[:, None]*kinds[t*t%5]
        d, law = d + (1 - gamma)*gamma**t*both, np.tensordot(both, m.P, 2)
    assert abs(flow_residual(m, d)).max() < 1e-10 and abs(d.sum() - 1) < 1e-10
    assert abs(occupancy(m, policy_of(d)) - d).max() < 1e-10
    pi = random_policy(rng, m)
    x = occupancy(m, pi).sum(-1)
    assert np.allclose(policy_of(occupancy(m, pi))[x > 1e-9], pi[x > 1e-9], atol=1e-6)   # and no other stationary policy has it

@many
@given(seeds, gammas)
def test_performance_difference_and_best_policy(seed, gamma):
    rng, m, r = problem(seed, gamma=gamma)
    pi, d2 = random_policy(rng, m), occupancy(m, random_policy(rng, m))
    q, v = action_values(m, pi, r[0])
    assert abs((1 - gamma)*m.start@v - utilities(occupancy(m, pi), r)[0]) < 1e-10
    assert abs(utilities(d2, r)[0] - utilities(occupancy(m, pi), r)[0] - (d2*(q - v[:, None])).sum()) < 1e-9
    best = max(utilities(occupancy(m, np.eye(3)[list(a)]), r)[0] for a in product(range(3), repeat=4))
    assert abs(utilities(occupancy(m, best_policy(m, r[0])), r)[0] - best) < 1e-9

@many
@given(seeds, groups, st.floats(0, 1))
def test_welfare_is_concave_in_the_occupancy(seed, U, t):
    rng, m, r = problem(seed, U)
    a, b, ref, beta = occupancy(m, random_policy(rng, m)), occupancy(m, random_policy(rng, m)), rng.dirichlet(np.ones(3), 4), rng.uniform(0, 2)
    for W in welfares(rng, U):
        for cost in (0., beta):                                           # without and with a KL term
            worth = lambda d: W.value(utilities(d, r) - cost*occupancy_kl(d, ref))
            assert worth((1 - t)*a + t*b) >= (1 - t)*worth(a) + t*worth(b) - 1e-9

def test_welfare_is_not_concave_in_the_policy():
    found = 0
    for seed in range(200):
        rng, m, r = problem(seed, 3)
        a, b = random_policy(rng, m), random_policy(rng, m)
        F = lambda p: utilities(occupancy(m, p), r).min()
        found += F((a + b)/2) < (F(a) + F(b))/2 - 1e-3
    assert found > 10

@many
@given(seeds)
def test_one_step_is_the_earlier_chapters(seed):
    rng = np.random.default_rng(seed)
    rho, pi, ref, r = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(3), 4), rng.dirichlet(np.ones(3), 4), rng.normal(size=(3, 4, 3))
    d = occupancy(MDP(rng.dirichlet(np.ones(4), (4, 3)), rho, 0.), pi)
    assert np.allclose(d, rho[:, None]*pi) and abs(occupancy_kl(d, ref) - kl(pi, ref, rho)) < 1e-10
    assert np.allclose(utilities(d, r) - .7*occupancy_kl(d, ref), utility(pi, ref, r, .7, rho))

@many
@given(seeds, groups, gammas)
def test_policy_gradient_theorem(seed, U, gamma):
    rng, m, r = problem(seed, U, gamma)
    theta, e, h = rng.normal(size=m.shape), rng.normal(size=m.shape), 1e-6
    for W in welfares(rng, U):
        worth = lambda th: W.value(utilities(occupancy(m, softmax(th, -1)), r))
        slope = (welfare_gradient(m, r, W, theta)*e).sum()
        sides = [(worth(theta + h*e) - worth(theta))/h, (worth(theta) - worth(theta - h*e))/h]
        if abs(sides[0] - sides[1]) < 1e-3: assert abs(np.mean(sides) - slope) < 1e-4*(1 + abs(slope)), W   # not at a kink

@many
@given(seeds, groups, gammas)
def test_optimum(seed, U, gamma):
    "Theorem 3: every weighting bounds every policy; the multipliers attain it; both solvers agree; a coin a group less one."
    rng, m, r = problem(seed, U, gamma)
    W = welfares(rng, U)
    for W in W[:3]:
        o = solve_lp(m, r, W)
        assert abs(flow_residual(m, o.d)).max() < 1e-10 and o.d.min() >= 0
        assert abs(o.gap) < 1e-7 and abs(fenchel_gap(W, o.F, o.w)) < 1e-7 and abs(W.value(o.F) - o.value) < 1e-12
        c = solve_cuts(m, r, W)
        assert abs(c.value - o.value) < 1e-5 and -1e-9 < c.gap < 3e-5
        if not isinstance(W, Utilitarian): assert ((o.d > 1e-9).sum(-1) - 1).clip(min=0).sum() <= U - 1
        for _ in range(5):
            assert W.value(utilities(occupancy(m, random_policy(rng, m)), r)) <= o.bound + 1e-9
            w = W.weights(rng.normal(size=U))
            best = utilities(occupancy(m, best_policy(m, np.tensordot(w, r, 1))), r)
            assert w@best - W.conjugate(w) >= o.value - 1e-8

@settings(max_examples=200, deadline=None)
@given(seeds, groups)
def test_smooth_welfares_by_cutting_planes(seed, U):
    rng, m, r = problem(seed, U)
    W = welfares(rng, U)[3 + seed%2]
    o = solve_cuts(m, r, W, tol=1e-5)
    assert -1e-9 <= o.gap <= 1e-5*(1 + abs(o.value))
    reward = np.tensordot(W.weights(o.F), r, 1)                           # nearly optimal for its own weighted reward: theorem 3 (b)
    assert ((occupancy(m, best_policy(m, reward)) - o.d)*reward).sum() < .05
    for _ in range(5): assert W.value(utilities(occupancy(m, random_policy(rng, m)), r)) <= o.bound + 1e-9

def test_a_deterministic_policy_does_not_suffice():
    short = 0
    for seed in range(60):
        _, m, r = problem(seed)
        V = solve_lp(m, r, Egalitarian()).value
        best = max(utilities(occupancy(m, np.eye(3)[list(a)]), r).min() for a in product(range(3), repeat=4))
        assert best <= V + 1e-8
        short += best < V - .01
    assert short > 20

def test_best_for_the_weighted_reward_does_not_suffice():
    m, r = gridworld()
    o = solve_lp(m, r, Egalitarian())
    F = utilities(occupancy(m, best_policy(m, np.tensordot(o.w, r, 1))), r)
    assert abs(o.w@F - o.value) < 1e-6 and F.min() < o.value - .5

@pytest.mark.parametrize('U', [2, 4, 6])
def test_coins_are_sharp(U):
    m, r = MDP(np.ones((1, U, 1)), [1.], .5), np.eye(U)[:, None]
    o = solve_lp(m, r, Egalitarian())
    assert abs(o.value - 1/U) < 1e-12 and (o.d > 1e-9).sum() == U

@many
@given(seeds, groups, st.integers(1, 40), gammas)
def test_promise_of_natural_policy_gradient(seed, U, T, gamma):
    rng, m, r = problem(seed, U, gamma)
    for W in welfares(rng, U)[:4]:                                        # weights that sum to one: every weighted reward has at most the span of r
        H = np.ptp(r)/(1 - gamma)
        o, trace = policy_gradient(m, r, W, T, (8*np.log(3)/T)**.5/H)
        assert trace.shape == (T, U) and np.allclose(trace.mean(0), o.F)
        assert -1e-9 <= o.gap <= H*(np.log(3)/(2*T))**.5 + 1e-9
        assert abs(flow_residual(m, o.d)).max() < 1e-9
        for _ in range(3): assert W.value(utilities(occupancy(m, random_policy(rng, m)), r)) <= o.bound + 1e-9

@pytest.fixture(scope='module')
def town(): return gridworld()

@pytest.mark.parametrize('W, kappa', [(Utilitarian([.7, .3]), .05), (Egalitarian(), .02), (CVaR(.5, [.7, .3]), .05), (SoftMin(1., [.7, .3]), .05), (Nash([.7, .3]), .3), (Gini(), .02)])
def test_policy_gradient_meets_the_exact_value(town, W, kappa):
    "Within 2 %; the last one is a welfare that the module has never seen."
    exact = solve_cuts(*town, W)
    o, _ = policy_gradient(*town, W, 1600, kappa)
    assert .98*exact.value <= o.value <= exact.value + 1e-5 and exact.value <= o.bound + 1e-5
    if isinstance(W, (Utilitarian, Egalitarian, CVaR)): assert abs(solve_lp(*town, W).value - exact.value) < 1e-5

@settings(max_examples=200, deadline=None)
@given(seeds, groups)
def test_a_welfare_of_a_reader(seed, U):
    _, m, r = problem(seed, U)
    assert abs(solve_lp(m, r, GiniLP()).value - solve_cuts(m, r, Gini()).value) < 1e-5

def test_gridworld_numbers(town):
    m, r = town
    o = solve_lp(m, r, Egalitarian())
    assert np.allclose(o.F, [5.7858, 5.7858], atol=1e-3) and np.allclose(o.w, [.3559, .6441], atol=1e-3)
    assert np.allclose(solve_lp(m, r, Utilitarian([.7, .3])).F, [11.4928, 0], atol=1e-3)
    assert np.allclose(solve_lp(m, r, CVaR(.5, [.7, .3])).F, [6.7892, 5.2314], atol=1e-3)
    three = gridworld(4, (3, 1), ((0, 0), (0, 3), (3, 3)), .9, 0.)
    assert three[0].shape == (8*16, 4) and solve_lp(*three, Egalitarian()).value > 0

def test_gridworld_delivers_only_what_is_carried(town):
    "Along sampled episodes: a parcel is delivered at most once between two visits to the depot, and only in its own house."
    m, r = gridworld(slip=0.)
    s, a = rollout(m, np.full(m.shape, .25), np.random.default_rng(0), 50, 400)
    delivered = 0
    for t, n in np.ndindex(len(s) - 1, 50):
        load, after, cell = s[t, n]//25, s[t + 1, n]//25, divmod(s[t + 1, n]%25, 5)
        for u, house in enumerate(((2, 0), (0, 4))):
            gain = r[u, s[t, n], a[t, n]]
            assert gain == (100 if cell == house and load >> u & 1 else 0)
            if gain: assert not after >> u & 1; delivered += 1
        if cell == (4, 2): assert after == 3
        elif cell not in ((2, 0), (0, 4)): assert after == load
    assert delivered > 20

@settings(max_examples=200, deadline=None)
@given(seeds)
def test_pareto_front(seed):
    rng, m, r = problem(seed)
    front = pareto_front(m, r)
    for _ in range(20):
        w = rng.dirichlet([1, 1])
        best = w@utilities(occupancy(m, best_policy(m, np.tensordot(w, r, 1))), r)
        assert abs((front@w).max() - best) < 1e-5                         # the corners reach the best of every weighting

def test_sampled_gradient_is_unbiased():
    rng, m, r = problem(1)
    m = MDP(np.random.default_rng(0).dirichlet(np.ones(4), (4, 3)), np.full(4, .25), .6)
    theta, w = rng.normal(size=m.shape), np.array([.3, .7])
    pi = softmax(theta, -1)
    truth = welfare_gradient(m, r, Utilitarian(w), theta)
    for base in (0., rng.normal(size=4)):
        parts = []
        for _ in range(60):
            s, a = rollout(m, pi, rng, 500, 40)
            G = returns(m, r, s, a)
            parts.append(reinforce_gradient(m, pi, s, a, np.tensordot(w, G, 1), base))
        err = np.std(parts, 0)/60**.5
        assert (abs(np.mean(parts, 0) - truth) < 5*err).all() and (err < abs(truth).max()/5).all()
    assert abs((1 - .6)*G[:, 0].mean(-1) - utilities(occupancy(m, pi), r)).max() < .2

def test_returns_by_hand():
    m, r = MDP(np.ones((1, 2, 1)), [1.], .5), np.array([[[1., 0.]], [[0., 2.]]])
    s, a = np.zeros((3, 1), int), np.array([[0], [1], [0]])
    assert np.allclose(returns(m, r, s, a)[:, :, 0], [[1.25, .5, 1], [1, 2, 0]])

def test_one_response_a_batch_is_the_minimum_for_each_response():
    "The mean of the estimate over all responses is the gradient of E min_u r_u, not of min_u E r_u."
    r, p = np.array([[[3., 0., 1.]], [[0., 2., 1.]]]), np.array([[.5, .3, .2]])
    m, g = MDP(np.ones((1, 3, 1)), [1.], 0.), 0
    for a in range(3):
        s, act = np.zeros((1, 1), int), np.array([[a]])
        G = returns(m, r, s, act)
        g = g + p[0, a]*reinforce_gradient(m, p, s, act, np.tensordot(Egalitarian().weights(G[:, 0].mean(-1)), G, 1))
    low = r.min(0)
    assert np.allclose(g, p*(low - (p*low).sum()))
    assert not np.allclose(g, welfare_gradient(m, r, Egalitarian(), np.log(p)), atol=.05)

m2, r2 = problem(0)[1:]
@pytest.mark.parametrize('f, says', [
    (lambda: MDP(np.ones((2, 2, 2)), [1., 0.], .5), 'sum to 1'), (lambda: MDP(np.ones((2, 1)), [1.], .5), r'\(states, actions, states\)'),
    (lambda: MDP(m2.P, [1., 0.], .5), 'start has shape'), (lambda: MDP(m2.P, m2.start, 1.), 'gamma is 1'), (lambda: MDP(m2.P, m2.start, -.1), 'gamma is -0.1'),
    (lambda: occupancy(m2, np.ones((4, 3))), 'pi must be nonnegative'), (lambda: occupancy(m2, np.ones((3, 4))/4), 'pi has shape'),
    (lambda: solve_lp(m2, r2[0], Egalitarian()), 'r has shape'), (lambda: solve_cuts(m2, r2*np.nan, Egalitarian()), 'finite'),
    (lambda: solve_lp(m2, r2, SoftMin(1.)), 'use solve_cuts'), (lambda: solve_lp(m2, r2, Nash()), 'use solve_cuts'),
    (lambda: policy_gradient(m2, r2, Egalitarian(), 0), 'steps is 0'), (lambda: policy_gradient(m2, r2, Egalitarian(), 5, -1.), 'kappa -1'),
    (lambda: pareto_front(m2, problem(0, 3)[2]), '3 groups'), (lambda: gridworld(houses=((4, 2),)), 'different cells'), (lambda: gridworld(n=3), '3 × 3'), (lambda: gridworld(slip=2.), 'slip is 2')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f()

def test_too_few_rounds():
    with pytest.raises(RuntimeError, match='raise rounds or tol'): solve_cuts(m2, r2, SoftMin(.3), rounds=1)

def test_one_programme_is_enough_for_a_linear_welfare():
    o = solve_cuts(m2, r2, Utilitarian(np.full(len(r2), 1/len(r2))), rounds=1)
    assert o.bound - o.value < 1e-6
