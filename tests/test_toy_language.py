"On a language of three tokens the trained policy is the exact optimum; on a bandit too; KL estimates are unbiased against exact sums."
import numpy as np, pytest, torch
from scipy.optimize import brentq
from maxmin_nb.maxmin import solve_maxmin
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.ppo import PPO, Toy, k3
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian

BETA, FAST = .5, dict(batch=256, lr=5e-3, beta=.5, lam=1.)

@pytest.fixture(scope='module')
def toy(): return Toy()

def kl(p, q): return float((p*np.log(p/q)).sum(-1).mean())

def gibbs(ref, r):
    p = ref*np.exp(r/BETA)
    return p/p.sum(-1, keepdims=True)

@pytest.fixture(scope='module')
def perturbed(toy):
    p = toy.policy()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for n, t in p.trainable.items():
            if 'lora_B' in n: t.normal_(0, .1, generator=g)
    return p

def test_exact_probabilities_sum_to_one(toy, perturbed):
    for q in (toy.ref, toy.exact(perturbed)): assert np.allclose(q.sum(1), 1, atol=1e-5) and q.min() > 0
    assert kl(toy.exact(perturbed), toy.ref) > .01

def test_the_sampler_draws_from_the_exact_policy(toy, perturbed):
    x = perturbed.sample(toy.prompts, n=4000)
    texts, q = perturbed.texts(x), toy.exact(perturbed)
    for i in range(2):
        seen = np.array([sum(t == y for t, r in zip(texts, x.row.tolist()) if r == i) for y in toy.responses])
        assert ((seen - 4000*q[i])**2/(4000*q[i])).sum() < 22.5     # chi-square with 6 degrees of freedom: one in a thousand

@pytest.mark.parametrize('welfare, kw', [
    (Egalitarian(), {}), pytest.param(Nash((.8, .2), zero=-.5), {}, marks=pytest.mark.slow), pytest.param(Egalitarian(), dict(weights_step='jump'), marks=pytest.mark.slow), pytest.param(Utilitarian((.8, .2)), {}, marks=pytest.mark.slow),
    pytest.param(SoftMin(.3, (.8, .2)), {}, marks=pytest.mark.slow), pytest.param(CVaR(.7), {}, marks=pytest.mark.slow), pytest.param(Egalitarian(), dict(utility='raw'), marks=pytest.mark.slow)])
def test_policy_is_the_solution_for_the_welfare(toy, welfare, kw):
    run = MaxMinPPO(toy.policy(), toy.heads, welfare=welfare, **FAST, **kw)
    reached = toy.exact(run.train(toy.prompts, 60))
    best = solve_maxmin(toy.ref, toy.table(run.rewards), BETA, welfare)
    assert kl(toy.ref, best.policy) > .1 and kl(reached, best.policy) < .01
    if run.jump is False: assert np.allclose(run.history[-1]['weights'], best.weights/best.weights.sum(), atol=.1)

def test_minimum_for_each_response_has_its_own_optimum(toy):
    run = MaxMinPPO(toy.policy(), toy.heads, per_response_min=True, **FAST)
    reached, r = toy.exact(run.train(toy.prompts, 60)), toy.table(run.rewards)
    own, maxmin = gibbs(toy.ref, r.min(0)), solve_maxmin(toy.ref, r, BETA).policy
    assert kl(reached, own) < .01 and kl(reached, maxmin) > .05

@pytest.fixture(scope='module')
def bandit(): return Toy(T=1)

def test_bandit(bandit):
    run = PPO(bandit.policy(), bandit.heads, **FAST)
    reached = bandit.exact(run.train(bandit.prompts, 40))
    assert kl(reached, gibbs(bandit.ref, bandit.table(bandit.heads).mean(0))) < .01

def forward_optimum(ref, r):
    "argmax Σ π r - β KL(π_ref ‖ π): π = β π_ref/(λ - r)."
    total = lambda lam: (BETA*ref/(lam - r)).sum() - 1
    return BETA*ref/(brentq(total, r.max() + 1e-9, r.max() + 10) - r)

@pytest.mark.slow
def test_k3_in_the_loss_pulls_towards_another_optimum(bandit):
    "Differentiated at fixed draws, k3 has the gradient of KL(π_ref ‖ π), not of KL(π ‖ π_ref)."
    run = PPO(bandit.policy(), bandit.heads, **FAST | dict(epochs=1), kl='loss')
    reached, r = bandit.exact(run.train(bandit.prompts, 60)), bandit.table(bandit.heads).mean(0)
    other = np.stack([forward_optimum(*x) for x in zip(bandit.ref, r)])
    assert kl(reached, other) < .01 and kl(other, gibbs(bandit.ref, r)) > .02

def test_gradient_of_k3_at_fixed_draws(bandit):
    z, ref = torch.tensor([.3, -.2, .5], dtype=torch.float64, requires_grad=True), torch.tensor([.2, .5, .3], dtype=torch.float64)
    p = z.softmax(0)
    grad = lambda x: torch.autograd.grad(x, z, retain_graph=True)[0]
    at_fixed_draws = grad((p.detach()*k3(p.log(), ref.log())).sum())
    assert torch.allclose(at_fixed_draws, grad((ref*(ref/p).log()).sum())) and not torch.allclose(at_fixed_draws, grad((p*(p/ref).log()).sum()), atol=.01)

def test_kl_estimates_are_unbiased(toy, perturbed):
    "Expectations of k1 and k3, summed over tokens, are the KL divergence of whole responses: exact sums over all of them."
    lp, ref = (perturbed.logprobs(toy.all, reference)[0].double() for reference in (False, True))
    exact, p = kl(toy.exact(perturbed), toy.ref), lp.sum(1).exp()/len(toy.prompts)
    m = toy.all.actions
    assert np.isclose((p*((lp - ref)*m).sum(1)).sum().item(), exact, atol=1e-6)
    assert np.isclose((p*(k3(lp, ref)*m).sum(1)).sum().item(), exact, atol=1e-6)
    assert (k3(lp, ref) >= 0).all() and (lp - ref)[m].min() < 0

def test_logged_kl_is_the_exact_one_within_its_error(toy, perturbed):
    run = PPO(perturbed, toy.heads, batch=1024, lr=1e-12)
    exact = kl(toy.exact(perturbed), toy.ref)
    run.train(toy.prompts, 1)
    assert abs(run.history[0]['kl'] - exact) < 4*run.history[0]['kl_se']
