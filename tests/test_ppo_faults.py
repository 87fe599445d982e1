"Faults of other people's PPO, each a test with the right value; and what cannot be trained on is handled or refused in a sentence."
import copy
import numpy as np, pytest, torch
from maxmin_nb import policy as policy_module
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.policy import Policy
from maxmin_nb.ppo import PPO, clipped_loss, log_figure, tracker, whiten
from maxmin_nb.reward_models import features, fit_heads
from maxmin_nb.text import tiny_model

PROMPTS = ['a film', 'give an one line review of the plot of a comedy you saw on plane', 'music', 'the story is too sad and not good']

def start(kind='llama', temperature=1., lm=None): return Policy(lm or tiny_model(kind), 2, 4, temperature, 8)

@pytest.fixture(scope='module')
def heads():
    "Two groups: one likes length, the other the opposite and something else."
    p = start()
    x = p.sample(PROMPTS, n=8, reference=True)
    rng, n = np.random.default_rng(0), x.n_words.numpy()
    pairs = [(i, j) for i, j in rng.integers(len(n), size=(300, 2)) if n[i] != n[j]]
    better = [(i, j) if (n[i] > n[j]) == (k%2 == 0) else (j, i) for k, (i, j) in enumerate(pairs)]
    return {K: fit_heads(features(x, 8), *np.array(better).T, [f'u{k%2}' for k in range(len(pairs))], x.row, K, 8, 2, 8) for K in (1, 2)}

def moved(p, size=.2):
    "The policy away from the reference."
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for n, t in p.trainable.items():
            if 'lora_B' in n: t.normal_(0, size, generator=g)
    return p

def gradients(run): return {n: t.grad.clone() for n, t in run.policy.trainable.items()}
def same(a, b, **kw): return all(torch.allclose(a[n], b[n], **kw) for n in a)

# --- the ratio and the reference at the start

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
@pytest.mark.parametrize('sizes', [{}, dict(minibatch=3), dict(microbatch=2)], ids=str)
def test_ratio_is_one_and_kl_zero_at_the_first_minibatch(heads, kind, sizes):
    run, ratios = PPO(start(kind), heads[1], batch=8, **sizes), []
    update = run.update
    def spy(rollout, rows, old, *rest):
        if not ratios:
            mb = rollout[rows]
            ratios.append((run.policy.net('upper', mb)[0] - old[rows, :mb.response.shape[1]])[mb.actions].exp())
        return update(rollout, rows, old, *rest)
    run.update = spy
    run.train(PROMPTS, 1)
    assert run.history[0]['kl'] == 0
    assert (ratios[0] - 1).abs().max() < 1e-5

# --- padding

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_left_padding_leaves_a_row_its_log_probabilities(kind, monkeypatch):
    p = moved(start(kind))
    x = p.sample(PROMPTS, n=2)
    assert len(set(x.real[:, :x.n_prompt].sum(1).tolist())) > 2, 'prompts of mixed length'
    def gap():
        lp = p.logprobs(x)[0]
        def alone(i):
            n, ids = int(x.actions[i].sum()), x.ids[i][x.real[i]][None]
            with torch.no_grad(): return p.net.base(ids).logits[0, -n-1:-1].log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]
        return max((alone(i) - lp[i][x.actions[i]]).abs().max().item() for i in range(len(x)))
    assert gap() < 1e-4
    monkeypatch.setattr(policy_module, '_n_shared', lambda *a: 0)       # a beginning that all rows share is read apart, from position 0
    monkeypatch.setattr(policy_module, '_positions', lambda real: torch.arange(real.shape[1]).expand(real.shape))
    p.net('lower', x.ids, x.real, policy_module._positions(x.real))
    x.hidden = p.net('lower', x.ids, x.real, policy_module._positions(x.real))
    assert (gap() > 1e-2) == (kind == 'gpt2'), 'with positions that count the padding GPT-2 is wrong, and the fault hides in a Llama'

# --- how a batch is cut

def two_rows(p):
    "Responses of 1 and 3 tokens with advantages +1 and -1."
    x = p.read(PROMPTS[:2], ['', 'good film'])
    assert x.actions.sum(1).tolist() == [1, 3]
    return x, x.actions*torch.tensor([[1.], [-1.]])

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_loss_and_gradient_do_not_depend_on_the_microbatch(heads, kind):
    found = {}
    for size in (None, 1):
        run = PPO(moved(start(kind)), heads[1], batch=2, lr=1e-12, max_grad_norm=1e9, microbatch=size)
        x, adv = two_rows(run.policy)
        old = run.policy.logprobs(x)[0]
        run.update(x, torch.arange(2), old, old, adv, 0.)
        found[size] = gradients(run)
    assert same(found[None], found[1], atol=1e-6)
    n = x.actions.sum()
    whole, _ = clipped_loss(old, old, adv, x.actions)
    parts = [clipped_loss(old[i:i+1], old[i:i+1], adv[i:i+1], x.actions[i:i+1], n=n)[0] for i in range(2)]
    assert whole.item() == sum(parts).item() == .5          # -(1·1 + 3·(-1))/4; a mean of means would say 0

def test_accumulation_gives_the_gradient_of_the_minibatch(heads):
    found = {}
    for size in (None, 1, 2, 5, 99):
        run = PPO(moved(start()), heads[1], batch=7, epochs=1, lr=1e-12, max_grad_norm=1e9, microbatch=size)
        run.train(PROMPTS, 1)
        found[size] = gradients(run)
    for size in (1, 2, 5, 99): assert same(found[None], found[size], atol=1e-5, rtol=1e-4), size

# --- temperature and truncation

def test_one_temperature_for_sampler_policy_and_reference():
    p = moved(start(temperature=.6))
    x = p.sample(PROMPTS, n=3)
    assert torch.allclose(x.logp, p.logprobs(x)[0], atol=1e-4)
    for reference, model in ((False, p.net.base), (True, p.lm.model)):
        lp = p.logprobs(x, reference)[0]
        for i in range(len(x)):
            n, ids = int(x.actions[i].sum()), x.ids[i][x.real[i]][None]
            with torch.no_grad(): want = (model(ids).logits[0, -n-1:-1]/.6).log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]
            assert torch.allclose(lp[i][x.actions[i]], want, atol=1e-4)

def test_exported_policy_samples_as_in_training():
    g = start(temperature=.6).generation_config()
    assert (g.do_sample, g.temperature, g.top_k, g.top_p, g.max_new_tokens, g.eos_token_id, g.pad_token_id) == (True, .6, 0, 1., 8, 2, 2)

# --- one response, many batches

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_a_response_has_the_same_reward_log_probability_and_value_alone(heads, kind):
    run = PPO(start(kind), heads[2], batch=8)
    run.train(PROMPTS, 1)
    x = run.policy.sample(PROMPTS, n=2, step=9)
    reward, lp, value = heads[2].score(x), run.policy.logprobs(x)[0], run.value(x)
    for i in range(len(x)):
        one = x[torch.tensor([i])]
        T = one.response.shape[1]
        assert torch.allclose(heads[2].score(one)[0], reward[i], atol=1e-4)
        assert torch.allclose(run.policy.logprobs(one)[0][0], lp[i, :T], atol=1e-4)
        assert torch.allclose(run.value(one)[0], value[i, :, :T], atol=1e-4)

def test_dropout_is_off_in_every_pass(heads):
    lm = tiny_model('gpt2')
    assert lm.model.config.attn_pdrop > 0
    lm.model.train()
    run = PPO(Policy(lm, 2, 4, 1., 8), heads[1], batch=8)
    run.train(PROMPTS, 2)
    assert not [n for n, m in run.policy.net.named_modules() if m.training]
    x = run.policy.sample(PROMPTS)
    assert torch.equal(x.logp, run.policy.sample(PROMPTS).logp)
    for reference in (False, True): assert torch.equal(run.policy.logprobs(x, reference)[0], run.policy.logprobs(x, reference)[0])

# --- whitening

def test_whitening_of_one_token_and_of_equal_ones():
    m = torch.tensor([[True, False], [True, True]])
    assert whiten(torch.tensor([[3., 9.]]), torch.tensor([[True, False]])).tolist() == [[0., 0.]]
    for c in (0., 1e-3, 7e5): assert whiten(torch.full((2, 2), c), m).abs().sum() == 0
    assert torch.isnan(whiten(torch.full((2, 2), float('nan')), m)[m]).all(), 'NaN must not pass as zero'

def test_all_rewards_equal_teaches_nothing(heads):
    flat = copy.copy(heads[1]); flat.phi = heads[1].phi*0
    run = PPO(start(), flat, batch=8)
    before = run.policy.state()
    run.train(PROMPTS, 2)
    assert all((before[n] == a).all() for n, a in run.policy.state().items())
    with pytest.raises(ValueError, match='it has no scale'): MaxMinPPO(start(), flat, batch=8).train(PROMPTS, 1)

# --- the end token

def test_missing_end_is_penalised_by_what_the_response_did(heads):
    "Subtracted at the last token of responses that were cut, for every group; an end token in the prompt is not an end."
    p = start()
    prompts = ['a </s> film </s>', 'the plot'] 
    assert p.lm.eos in p.lm.encode(prompts[0])
    runs = [PPO(p, heads[2], batch=16, eos_penalty=e) for e in (0., 2.)]
    x = p.sample(prompts, n=20)
    cut = ~x.ended
    assert 0 < cut.sum() < len(x)
    (price, cost), zero = runs[1].costs(x, torch.zeros(x.actions.shape)), torch.zeros(x.actions.shape)
    paid = (cost*price[None, :, None]).sum(1)
    assert torch.equal(paid.sum(1), 2.*cut) and (paid[cut].argmax(1) == x.actions[cut].sum(1) - 1).all()
    a, b = (r.judge(x, zero)[0]['utility'] for r in runs)
    assert np.allclose(np.array(a) - b, 2*cut.float().mean().item(), atol=1e-5)

def test_penalty_makes_responses_end(heads):
    ended = []
    for e in (0., 5.):
        run = PPO(start(), heads[1], batch=32, lr=5e-3, eos_penalty=e)
        ended.append(run.train(PROMPTS, 10).sample(PROMPTS, n=50, step=99).ended.float().mean().item())
    assert ended[1] > ended[0] + .1

def give_tokens(pad, bos):
    lm = tiny_model()
    lm.tokenizer.pad_token, lm.tokenizer.bos_token = pad, bos
    return lm

def test_tokenizers_without_pad_with_pad_equal_to_end_and_without_begin(heads):
    ends = []
    for pad, bos in ((None, '<s>'), ('</s>', '<s>'), (None, None), ('<unk>', '<s>')):
        run = PPO(start(lm=give_tokens(pad, bos)), heads[1], batch=8)
        run.train(PROMPTS, 2)
        assert run.history[0]['kl'] == 0 and 0 < run.history[0]['ended'] < 1
        ends.append(run.policy.state())
    for e in ends[1:]: assert all(e[n].tobytes() == a.tobytes() for n, a in ends[0].items())

# --- interrupted in the middle of an epoch

def test_interrupted_inside_an_epoch_the_next_batches_losses_and_rates_are_the_same(heads, tmp_path):
    def run(folder, stop=None):
        r, calls = MaxMinPPO(start(), heads[2], batch=7, minibatch=3, microbatch=2, lr=1e-2), [0]
        update, seen = r.update, []
        def counted(rollout, rows, *rest):
            calls[0] += 1
            if calls[0] == stop: raise KeyboardInterrupt
            out = update(rollout, rows, *rest)
            seen.append((len(r.history), r.opt.param_groups[0]['lr'], rows.tolist(), rollout.ids.sum().item(), *out))
            return out
        r.update = counted
        try: r.train(PROMPTS, 3, folder)
        except KeyboardInterrupt: pass
        return r, seen
    whole, seen = run(tmp_path/'a')
    run(tmp_path/'b', stop=9)                        # in the second epoch of the second step
    again, rest = run(tmp_path/'b')
    assert rest == seen[-len(rest):] and rest[0][0] == 1
    assert all(again.policy.state()[n].tobytes() == a.tobytes() for n, a in whole.policy.state().items())

# --- the whole gradient

def plain_gradient(run, x, r0):
    "Loss of one step on the responses `x`, unoptimised: row by row through the whole model, no padding, no cache, no split, loops for the advantages."
    p, K = run.policy, run.rewards.n_groups
    def logp(i, model):
        n, ids = int(x.actions[i].sum()), x.ids[i][x.real[i]][None]
        return (model(ids).logits[0, -n-1:-1]/p.net.temperature).log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]
    def state(x, i):
        h = x.states[i, x.n_prompt-1:-1][x.actions[i]].double()
        t = torch.arange(len(h)).double()/8
        pos = torch.stack([torch.ones_like(t), t, t**2], 1)*64**.5
        return torch.cat([pos, (h - h.mean(1, keepdim=True))/(h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()], 1)
    def words(x, i): return (x.states[i, x.n_prompt:]@torch.from_numpy(run.rewards.phi/run.rewards.unit/8).float()*x.words[i][:, None])[x.actions[i]]
    A, b = 300*torch.eye(67).double(), 0.
    for i in range(len(r0)):                                                     # the value head's lesson
        s, w = state(r0, i), words(r0, i).double()
        cut = torch.zeros(len(w), 1).double(); cut[-1] = float(~r0.ended[i])
        G = torch.cat([w] + [torch.zeros(len(w), 1)]*(run.kl == 'reward') + [cut]*(run.eos_penalty > 0), 1)
        A, b = A + s.T@s, b + s.T@G.flip(0).cumsum(0).flip(0)
    B = torch.linalg.solve(A, b)
    lps, refs = [logp(i, p.net.base) for i in range(len(x))], [logp(i, p.lm.model).detach() for i in range(len(x))]
    score = torch.stack([words(x, i).sum(0) for i in range(len(x))]) - torch.from_numpy(run.rewards.zero/run.rewards.unit).float()
    w = torch.from_numpy(run.rewards.shares).double()
    price = torch.cat([w] + [torch.tensor([-run.beta])]*(run.kl == 'reward') + [torch.tensor([-run.eos_penalty])]*(run.eos_penalty > 0))
    adv = []
    for i, (lp, ref) in enumerate(zip(lps, refs)):
        r = words(x, i).double()@w - run.beta*(lp.detach() - ref)*(run.kl == 'reward')
        r[-1] -= run.eos_penalty*float(~x.ended[i])
        V = torch.cat([state(x, i)@B@price, torch.zeros(1)])
        adv.append(torch.stack([sum(run.lam**(s - t)*(r[s] + V[s + 1] - V[s]) for s in range(t, len(r))) for t in range(len(r))]))
    every = torch.cat(adv)
    loss = 0.
    for lp, ref, a in zip(lps, refs, adv):
        loss = loss - ((lp - lp.detach()).exp()*(a - every.mean())/every.std(unbiased=False)).sum()
        if run.kl == 'loss': loss = loss + run.beta/every.std(unbiased=False)*((ref - lp).exp() - 1 - (ref - lp)).sum()
    (loss/len(every)).backward()

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
@pytest.mark.parametrize('kw', [{}, dict(microbatch=2), dict(kl='loss'), dict(eos_penalty=1.5), dict(kl='loss', eos_penalty=1., microbatch=3)], ids=str)
def test_gradient_is_that_of_an_unoptimised_reference(heads, kind, kw):
    run = PPO(moved(start(kind, .8), .1), heads[2], batch=6, epochs=1, lr=1e-12, max_grad_norm=1e9, **kw)
    run.train(PROMPTS, 1)
    got = gradients(run)
    run.opt.zero_grad()
    drawn = run.draw_prompts(PROMPTS, 0)
    plain_gradient(run, run.policy.sample(drawn, step=1), run.policy.sample(drawn, n=2, step=0, reference=True))
    want = gradients(run)
    assert max(g.abs().max() for g in want.values()) > 1e-3
    for n in want: assert torch.allclose(got[n], want[n], atol=2e-5, rtol=2e-3), n

# --- stop on KL

def test_updates_stop_beyond_the_target(heads):
    kw = dict(batch=8, epochs=6, lr=2e-2)
    free, stopped, far = (PPO(start(), heads[1], target_kl=t, **kw) for t in (None, .05, 1e9))
    for r in (free, stopped, far): r.train(PROMPTS, 1)
    assert free.history[0]['updates'] == far.history[0]['updates'] == 6 > stopped.history[0]['updates'] >= 1
    assert stopped.history[0]['drift'] > .05
    assert all(far.policy.state()[n].tobytes() == a.tobytes() for n, a in free.policy.state().items())

# --- what cannot be trained on

def test_not_finite_rewards_name_the_response_and_leave_the_policy(heads):
    broken = copy.copy(heads[2]); broken.phi = heads[2].phi.copy(); broken.phi[:, 1] = np.inf
    run = PPO(start(), broken, batch=4)
    before = run.policy.state()
    with pytest.raises(FloatingPointError, match='the reward of response 1 of this step for group 2 is .*not finite'): run.train(PROMPTS, 1)
    assert all((before[n] == a).all() for n, a in run.policy.state().items())

def test_empty_responses(heads):
    lm = tiny_model()
    with torch.no_grad(): lm.model.lm_head.weight[2, 0] = 50.                 # ends at once
    run = PPO(start(lm=lm), heads[1], batch=8)
    run.train(PROMPTS, 2)
    assert run.history[-1]['length'] == 0 and run.history[-1]['ended'] == 1 and np.isfinite(run.history[-1]['grad_norm'])

def test_all_responses_equal(heads):
    run = PPO(start(temperature=1e-3), heads[1], batch=8)
    run.train(PROMPTS[:1]*4, 2)
    assert run.history[-1]['reward_se'][0] < 1e-5 and all(np.isfinite(a).all() for a in run.policy.state().values())

def test_prompt_longer_than_the_context_is_named_before_anything_is_computed(heads):
    run = PPO(start(), heads[1], batch=2)
    with pytest.raises(ValueError, match='has 202 tokens; with 8 new ones at most 120 fit the model'): run.train(PROMPTS*5 + ['good '*200], 1)
    assert run.history == [] and run.reference is None

def test_rewards_of_another_model_are_refused(heads):
    wide = copy.copy(heads[1]); wide.phi = np.zeros((576, 1))
    with pytest.raises(ValueError, match='states of width 576 and the policy.s trunk has 64: they were fitted on another model'): PPO(start(), wide)
    with pytest.raises(ValueError, match='a reward model with another tokenizer cannot be used'): PPO(start(), tiny_model('gpt2').model)

@pytest.mark.parametrize('kw, said', [(dict(microbatch=0), 'microbatch is 0'), (dict(kl='k2'), "kl is 'k2'"), (dict(target_kl=-1), 'target_kl is -1'), (dict(eos_penalty=-1.), 'eos_penalty is -1')])
def test_bad_settings_are_named(heads, kw, said):
    with pytest.raises(ValueError, match=said): PPO(start(), heads[1], **kw)

# --- logs

def test_trackers_get_every_number_of_a_step(heads, tmp_path):
    from accelerate.tracking import GeneralTracker
    class Kept(GeneralTracker):
        name, requires_logging_directory = 'kept', False
        def __init__(self): super().__init__(); self.rows, self.config, self.closed = [], None, False
        @property
        def tracker(self): return self
        def store_init_configuration(self, values): self.config = values
        def log(self, values, step=None, **kw): self.rows.append((step, values))
        def finish(self): self.closed = True
    kept = Kept()
    run = MaxMinPPO(start(), heads[2], batch=8)
    run.train(PROMPTS, 2, log_with=kept)
    assert [s for s, _ in kept.rows] == [1, 2] and kept.closed and kept.config['batch'] == 8
    want = {'utility/1', 'utility/2', 'weights/1', 'weights/2', 'kl', 'entropy', 'clip_fraction', 'tokens_per_s', 'lr', 'drift'}
    assert want <= set(kept.rows[0][1]) and kept.rows[1][1]['utility/2'] == run.history[1]['utility'][1]
    fig = log_figure(run.history)
    assert len(fig.axes) == 3

def test_a_tracker_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match='not installed|Unsupported logging'): tracker('no_such_tracker', None)
