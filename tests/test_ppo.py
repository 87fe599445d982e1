"PPO and MaxMin PPO: gradients, learning, checkpoints."
import numpy as np, pytest, torch
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.policy import Policy
from maxmin_nb.ppo import PPO, ValueHead, clipped_loss, gae, returns_to_go, whiten
from maxmin_nb.reward_models import RewardHeads, features, fit_heads, fit_rewards, load_heads, save_heads
from maxmin_nb.preferences import Comparisons
from maxmin_nb.text import tiny_model
from maxmin_nb.welfare import CVaR, Egalitarian, Nash, SoftMin, Utilitarian

PROMPTS = ['a good film', 'a bad film', 'the plot', 'music and story']

def start(kind='llama', seed=0): return Policy(tiny_model(kind), 2, 4, 1., 8, seed)

@pytest.fixture(scope='module')
def heads():
    p = start()
    x = p.sample(PROMPTS, n=8, reference=True)
    f, n = features(x, 8), x.n_words.numpy()
    chosen, rejected, users, rng = [], [], [], np.random.default_rng(0)
    for u in range(6):
        for _ in range(30):
            i, j = rng.choice(len(f), 2, replace=False)
            if (n[i] < n[j]) == (u < 4): i, j = j, i
            chosen.append(i); rejected.append(j); users.append(u)
    return {K: fit_heads(f, chosen, rejected, users, x.row, K, 8, 2, 8) for K in (1, 2)}

def test_gae_is_the_sum_of_discounted_errors():
    r, v = torch.randn(3, 6), torch.randn(3, 6)
    for lam in (0., .3, .95, 1.):
        nxt = torch.cat([v[:, 1:], torch.zeros(3, 1)], 1)
        delta = r + nxt - v
        want = torch.stack([sum(lam**k*delta[:, t+k] for k in range(6 - t)) for t in range(6)], 1)
        assert torch.allclose(gae(r, v, lam), want, atol=1e-5)
    assert torch.allclose(gae(r, v, 1.), returns_to_go(r) - v, atol=1e-5)

def test_loss_weighs_tokens_not_rows():
    logp = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    adv = torch.tensor([[1., 0, 0], [-1., -1, -1]])
    loss, _ = clipped_loss(logp, logp.detach(), adv, mask)
    assert torch.allclose(torch.autograd.grad(loss, logp)[0], -adv*mask/4)

def test_whitening_degenerate():
    one = torch.tensor([[True, False]])
    assert whiten(torch.tensor([[5., 1.]]), one).tolist() == [[0., 0.]]

def test_value_head_recovers_a_linear_value(heads):
    p = start()
    x = p.sample(PROMPTS, n=20)
    v = ValueHead(64, 1, 8, l2=1e-6)
    w = np.random.default_rng(0).normal(size=(67, 1))
    y = (v.inputs(x)@torch.from_numpy(w)).transpose(1, 2)*x.actions[:, None]
    assert (v(x) == 0).all()
    v.update(x, y)
    assert (v(x) - y).abs().max() < 1e-2*y.abs().max()

def test_first_step_has_ratio_one_and_no_kl(heads):
    run = PPO(start(), heads[1], batch=8)
    run.train(PROMPTS, 1)
    assert run.history[0]['kl'] == 0
    lone = PPO(start(), heads[1], batch=8, epochs=1)
    lone.train(PROMPTS, 1)
    assert lone.history[0]['clip_fraction'] == 0

def test_minibatches_cover_the_batch_and_agree_with_one_pass(heads):
    a, b = (PPO(start(), heads[1], batch=8, minibatch=m, epochs=1, lr=1e-9) for m in (None, 3))
    for r in (a, b): r.train(PROMPTS, 1)
    for k in ('reward', 'utility', 'kl', 'explained'): assert np.allclose(a.history[0][k], b.history[0][k], atol=1e-5)

def test_ppo_learns(heads):
    p = start()
    before = heads[1].score(p.sample(PROMPTS, n=64, step=99)).mean()
    PPO(p, heads[1], batch=32, lr=5e-3, beta=.02).train(PROMPTS, 15)
    after = heads[1].score(p.sample(PROMPTS, n=64, step=99)).mean()
    assert after > before + .3, (before, after)

def test_gradient_of_a_step_is_the_policy_gradient(heads):
    "One epoch's gradient equals that of an unoptimised loss through the whole model, written here."
    p = start()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for n, t in p.trainable.items():
            if 'lora_B' in n: t.normal_(0, .1, generator=g)
    run = PPO(p, heads[1], batch=6, epochs=1, lr=1e-12, max_grad_norm=1e9)
    run.train(PROMPTS, 1)
    got = {n: t.grad.clone() for n, t in p.trainable.items()}
    x = p.sample(run.draw_prompts(PROMPTS, 0), step=1)
    ref = p.logprobs(x, reference=True)[0]
    old = p.logprobs(x)[0]
    value = ValueHead(64, 2, 8)
    r0 = p.sample(run.draw_prompts(PROMPTS, 0), n=2, step=0, reference=True)
    G = returns_to_go(heads[1].tokens(r0))
    value.update(r0, torch.cat([G, torch.zeros_like(G)], 1))
    v = value(x)
    reward = heads[1].tokens(x)[:, 0] - run.beta*(old - ref)
    adv = whiten(gae(reward, v[:, 0] - run.beta*v[:, 1], run.lam), x.actions)
    for t in p.trainable.values(): t.grad = None
    total = 0.
    for i in range(len(x)):
        ids, n = x.ids[i][x.real[i]][None], int(x.actions[i].sum())
        lp = (p.net.base(ids).logits[0, -n-1:-1]/p.net.temperature).log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]
        total = total - ((lp - lp.detach()).exp()*adv[i][x.actions[i]]).sum()
    (total/x.actions.sum()).backward()
    for n, t in p.trainable.items(): assert torch.allclose(got[n], t.grad, atol=1e-5, rtol=1e-3), n

@pytest.mark.parametrize('welfare', [Egalitarian(), Utilitarian((.7, .3)), SoftMin(.5), CVaR(.6), Nash(zero=-5.)])
def test_any_welfare_trains(heads, welfare):
    run = MaxMinPPO(start(), heads[2], welfare=welfare, batch=8)
    run.train(PROMPTS, 2)
    w = np.array(run.history[1]['weights'])
    assert w.min() >= 0 and np.isclose(w.sum(), 1)
    F = np.array(run.history[1]['utility'])
    if not isinstance(welfare, Egalitarian): assert np.allclose(w, welfare.weights(F)/welfare.weights(F).sum())

def test_jump_is_on_the_worst_off(heads):
    run = MaxMinPPO(start(), heads[2], weights_step='jump', batch=8)
    run.train(PROMPTS, 3)
    for h in run.history: assert h['weights'][int(np.argmin(h['utility']))] == 1

def test_exponentiated_moves_weight_to_the_worse_off(heads):
    run = MaxMinPPO(start(), heads[2], batch=8)
    run.train(PROMPTS, 1)
    h = run.history[0]
    assert h['weights'][int(np.argmin(h['utility']))] > .5

def test_per_response_minimum_pays_the_minimum(heads):
    run = MaxMinPPO(start(), heads[2], batch=8, per_response_min=True)
    run.steps, run.value = 1, ValueHead(64, 3, 8)
    x = run.policy.sample(PROMPTS*2)
    _, reward, mix = run.judge(x, torch.zeros(x.actions.shape))
    assert torch.allclose(reward.sum(1), heads[2].score(x).min(1).values, atol=1e-4)

@pytest.mark.parametrize('minibatch', [None, 3])
@pytest.mark.parametrize('stop', [1, 2])
def test_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(heads, tmp_path, minibatch, stop):
    kw = dict(batch=7, minibatch=minibatch, lr=1e-2)
    straight = MaxMinPPO(start(), heads[2], **kw)
    straight.train(PROMPTS, 3, tmp_path/'a')
    broken = MaxMinPPO(start(), heads[2], **kw)
    step = broken.step
    def until(prompts):
        if len(broken.history) == stop: raise KeyboardInterrupt
        return step(prompts)
    broken.step = until
    with pytest.raises(KeyboardInterrupt): broken.train(PROMPTS, 3, tmp_path/'b')
    resumed = MaxMinPPO(start(), heads[2], **kw)
    resumed.train(PROMPTS, 3, tmp_path/'b')
    for n, a in straight.policy.state().items(): assert a.tobytes() == resumed.policy.state()[n].tobytes()
    strip = lambda h: {k: v for k, v in h.items() if not k.startswith('s_') and k != 'tokens_per_s'}
    assert [strip(h) for h in straight.history] == [strip(h) for h in resumed.history]

def test_checkpoint_of_another_run_is_refused_and_kept(heads, tmp_path):
    PPO(start(), heads[1], batch=4).train(PROMPTS, 1, tmp_path)
    before = (tmp_path/'checkpoint.safetensors').read_bytes()
    with pytest.raises(ValueError, match='other settings'): PPO(start(), heads[1], batch=5).train(PROMPTS, 1, tmp_path)
    assert (tmp_path/'checkpoint.safetensors').read_bytes() == before

@pytest.mark.parametrize('bad, said', [
    (lambda h: PPO(start(), h[1], batch=0), 'batch is 0'), (lambda h: PPO(start(), h[1], beta=-1), 'beta is -1'),
    (lambda h: PPO(start(), h[1]).train([], 1), 'the list of prompts is empty'), (lambda h: PPO(start(), h[1]).train(PROMPTS, -1), 'steps is -1'),
    (lambda h: PPO(Policy(tiny_model(), 1, 4, 1., 8, read=3), h[1]), 'make them equal'), (lambda h: MaxMinPPO(start(), h[2], utility='mean'), "utility is 'mean'"),
    (lambda h: MaxMinPPO(start(), h[2], utility='regret'), "'regret' needs own"), (lambda h: MaxMinPPO(start(), h[2], weights_step='slow'), "weights_step is 'slow'"),
    (lambda h: MaxMinPPO(start(), h[2], welfare=SoftMin(1.), weights_step='exponentiated'), 'egalitarian dual')])
def test_bad_input_is_named(heads, bad, said):
    with pytest.raises(ValueError, match=said): bad(heads)

def test_nan_reward_stops_with_a_sentence(heads):
    from dataclasses import replace
    broken = replace(heads[1], phi=heads[1].phi*np.nan)
    with pytest.raises(FloatingPointError, match='not finite'): PPO(start(), broken, batch=4).train(PROMPTS, 1)

def test_heads_round_trip(heads, tmp_path):
    save_heads(heads[2], tmp_path/'h.safetensors')
    b = load_heads(tmp_path/'h.safetensors')
    assert np.array_equal(b.phi, heads[2].phi) and b.mixture.users == heads[2].mixture.users and b.layer == heads[2].layer

def test_units_are_deviations_within_prompts(heads):
    p = start()
    x = p.sample(PROMPTS, n=8, reference=True)
    h = heads[2].relative_to(features(x, 8), x.row)
    s = h.score(x).numpy().reshape(len(PROMPTS), 8, 2)
    assert np.allclose(s.mean((0, 1)), 0, atol=1e-4) and np.allclose((s.var(1, ddof=1)).mean(0), 1, atol=1e-3)

def test_fit_rewards_from_text_names_bad_input():
    c = Comparisons(['a', 'b'], ['a film', 'a film'], ['good', 'bad'], ['bad', 'good'])
    with pytest.raises(ValueError, match='n_groups is 3 and there are 2 users'): fit_rewards(start(), c, 3)

def test_rewards_from_short_texts_keep_zero_and_unit():
    "No response reaches T: units must not depend on how wide the rollout happens to be."
    p = Policy(tiny_model(), 2, 4, 1., 32)
    rng = np.random.default_rng(0)
    words = 'good bad film story sad happy not very long plot'.split()
    texts = [' '.join(rng.choice(words, rng.integers(1, 6))) for _ in range(40)]
    c = Comparisons([f'u{i%4}' for i in range(20)], [PROMPTS[i%4] for i in range(20)], texts[:20], texts[20:])
    h = fit_rewards(p, c, 2, progress=False)
    pairs = list(dict.fromkeys([*zip(c.prompt, c.chosen), *zip(c.prompt, c.rejected)]))
    x = p.read(*map(list, zip(*pairs)))
    assert x.response.shape[1] < 32 and np.allclose(h.score(x).mean(0), 0, atol=1e-4)

def test_relative_utilities_are_measured_on_the_reference(heads):
    from dataclasses import replace
    shifted = replace(heads[2], zero=heads[2].zero + 5*heads[2].unit, unit=3*heads[2].unit)
    runs = [MaxMinPPO(start(), h, batch=8) for h in (heads[2], shifted)]
    for r in runs: r.train(PROMPTS, 1)
    assert np.allclose(runs[0].history[0]['utility'], runs[1].history[0]['utility'], atol=1e-4)

def test_a_plain_welfare_class_can_be_resumed(heads, tmp_path):
    from maxmin_nb.welfare import Welfare
    class Mean(Welfare):
        def value(self, F): return np.mean(F, -1)
        def weights(self, F): return np.full(np.shape(F), 1/np.shape(F)[-1])
    a = MaxMinPPO(start(), heads[2], welfare=Mean(), batch=4)
    a.train(PROMPTS, 1, tmp_path)
    b = MaxMinPPO(start(), heads[2], welfare=Mean(), batch=4)
    b.train(PROMPTS, 1, tmp_path)
    assert b.history == a.history

def test_one_new_welfare_passes_through_solver_gridworld_and_training(heads):
    "Five lines, no conjugate, no domain: nothing that uses a welfare needs to know it."
    from maxmin_nb.general_utility import gridworld, policy_gradient, solve_cuts
    from maxmin_nb.maxmin import solve_maxmin
    from maxmin_nb.welfare import Welfare
    class Gini(Welfare):
        def value(self, F): return (np.sort(F, -1)*[.75, .25]).sum(-1)
        def weights(self, F): return np.where(np.argsort(np.argsort(F, -1), -1) == 0, .75, .25)
    rng = np.random.default_rng(0)
    s = solve_maxmin(rng.dirichlet(np.ones(4), 3), rng.normal(size=(2, 3, 4)), .5, Gini())
    assert s.gap < 1e-8 and np.isclose(s.value, Gini().value(s.utilities))
    mdp, r = gridworld()
    best, (found, _) = solve_cuts(mdp, r, Gini()), policy_gradient(mdp, r, Gini())
    assert best.value >= found.value >= .98*best.value > 0
    run = MaxMinPPO(start(), heads[2], welfare=Gini(), batch=8)
    run.train(PROMPTS, 2)
    for h in run.history: assert np.allclose(h['weights'], Gini().weights(np.array(h['utility'])))

def saved_base(tmp_path):
    "The tiny model in a folder, as a base that has a name."
    from maxmin_nb.text import load_model
    lm = tiny_model()
    for o in (lm.model, lm.tokenizer): o.save_pretrained(tmp_path/'base')
    return load_model(str(tmp_path/'base'))

@pytest.mark.parametrize('adapter', [False, True], ids=['merged', 'adapter'])
def test_exported_policy_is_an_ordinary_model(heads, tmp_path, adapter):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    run = MaxMinPPO(Policy(saved_base(tmp_path), 2, 4, .6, 8), heads[2], batch=8, lr=1e-2)
    p = run.train(PROMPTS, 2)
    p.export(tmp_path/'out', adapter=adapter, data='film prompts', scale='smoke')
    model, g = AutoModelForCausalLM.from_pretrained(tmp_path/'out').eval(), GenerationConfig.from_pretrained(tmp_path/'out')
    assert (g.temperature, g.do_sample, g.top_k, g.max_new_tokens) == (.6, True, 0, 8)
    assert (tmp_path/'out/adapter_model.safetensors').is_file() == adapter and AutoTokenizer.from_pretrained(tmp_path/'out').eos_token_id == 2
    x = p.sample(PROMPTS)
    lp, ref = p.logprobs(x)[0], p.logprobs(x, reference=True)[0]
    assert (lp - ref).abs().max() > 1e-3
    for i in range(len(x)):
        ids, n = x.ids[i][x.real[i]][None], int(x.actions[i].sum())
        with torch.no_grad(): got = (model(ids).logits[0, -n-1:-1]/g.temperature).log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]
        assert torch.allclose(got, lp[i][x.actions[i]], atol=1e-4)
    card = (tmp_path/'out/README.md').read_text()
    for s in ('film prompts', 'smoke', 'Egalitarian', 'exponentiated', '2, shares', 'relative to the reference', 'temperature 0.6', '2 steps', 'kl'): assert s in card, s

def test_an_adapter_without_a_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match='was made in memory'): start().export(tmp_path/'out', adapter=True)
    assert not (tmp_path/'out').exists()
