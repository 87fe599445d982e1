"The split policy: what a response gets must not depend on padding, batch, split, or on what was trained meanwhile."
import numpy as np, pytest, torch
from maxmin_nb.policy import KVCache, Policy, SplitModel, _Chosen, _n_shared, draw, join, load_rollout, save_rollout, uniforms
from maxmin_nb.text import tiny_model

PROMPTS = ['a film', 'give an one line review of the plot of a comedy you saw on plane', 'music', 'the story is too sad and not good']

@pytest.fixture(params=[('llama', 2), ('gpt2', 2), ('llama', 0), ('gpt2', 3)], ids=lambda p: f'{p[0]}-{p[1]}')
def policy(request):
    kind, split = request.param
    p = Policy(tiny_model(kind), split, 4, .7, 8, rows=5)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for n, t in p.trainable.items():
            if 'lora_B' in n: t.normal_(0, .3, generator=g)
    return p

def plain(policy, rollout, i, reference):
    "Log-probabilities of row i by a full forward pass without padding, cache or split."
    ids = rollout.ids[i][rollout.real[i]][None]
    n = int(rollout.actions[i].sum())
    with torch.no_grad():
        if reference: logits = policy.lm.model(ids).logits
        else: logits = policy.net.base(ids).logits
    return (logits[0, -n-1:-1]/policy.net.temperature).log_softmax(-1).gather(-1, ids[0, -n:, None])[:, 0]

def test_logprobs_equal_a_plain_pass(policy):
    rollout = policy.sample(PROMPTS, n=3)
    for reference in (False, True):
        lp, H = policy.logprobs(rollout, reference, entropy=True)
        for i in range(len(rollout)):
            m = rollout.actions[i]
            assert torch.allclose(lp[i][m], plain(policy, rollout, i, reference), atol=1e-4)
            assert (lp[i][~m] == 0).all() and (H[i][~m] == 0).all()
    assert torch.allclose(rollout.logp, policy.logprobs(rollout)[0], atol=1e-4)

def test_a_left_padded_batch_gives_each_row_what_it_has_alone(policy):
    "On GPT-2 too, whose learned positions notice a shift that rotary ones do not."
    rollout = policy.read(PROMPTS, ['good', 'a bad film and music', 'the plot is too long for a film of music', 'so sad'])
    assert len(set(rollout.pad.tolist())) > 1 and len(set(rollout.actions.sum(1).tolist())) > 1
    for reference in (False, True):
        together = policy.logprobs(rollout, reference)[0]
        for i in range(len(rollout)):
            alone = policy.logprobs(rollout[torch.tensor([i])], reference)[0][0]
            assert torch.allclose(alone, together[i, :len(alone)], atol=1e-5)
            assert torch.allclose(alone[rollout.actions[i, :len(alone)]], plain(policy, rollout, i, reference), atol=1e-4)

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
@pytest.mark.parametrize('split', [0, 2])
def test_merged_update_has_the_gradient_of_separate_adapters(kind, split, monkeypatch):
    "The merged matrices, the shared beginning and the logits in blocks against peft's own layers and autograd through whole logits."
    p = Policy(tiny_model(kind), split, 4, .7, 8)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for n, t in p.trainable.items():
            if 'lora_B' in n: t.normal_(0, .3, generator=g)
    a = p.sample(['a good film of', 'a good film of the year and', 'a good film with music'], n=2)
    assert _n_shared(a.ids[:, :a.n_prompt], a.pad) >= 3
    w = torch.randn(a.actions.shape, generator=g)
    logp, H = p.net('upper', a, entropy=True)
    grads = torch.autograd.grad((logp*w).sum(), list(p.trainable.values()))
    whole = p.net.base(a.ids, attention_mask=a.real.long(), position_ids=(a.real.long().cumsum(1) - 1).clamp(min=0)).logits[:, a.n_prompt-1:-1]/.7
    want = whole.log_softmax(-1).gather(-1, a.response[..., None])[..., 0]*a.actions
    for x, y in zip(grads, torch.autograd.grad((want*w).sum(), list(p.trainable.values()))): assert torch.allclose(x, y, atol=1e-4*(1 + y.abs().max()))
    assert torch.allclose(logp, want, atol=1e-4) and torch.allclose(H, torch.distributions.Categorical(logits=whole).entropy()*a.actions, atol=1e-4)

def test_merged_copy_follows_every_change(policy):
    rollout = policy.sample(PROMPTS)
    before = policy.logprobs(rollout)[0]
    opt = torch.optim.Adam(policy.trainable.values(), lr=.05)
    policy.net('upper', rollout)[0].sum().backward()
    opt.step()
    after = policy.logprobs(rollout)[0]
    assert not torch.allclose(before, after, atol=1e-2)
    for i in range(len(rollout)): assert torch.allclose(after[i][rollout.actions[i]], plain(policy, rollout, i, False), atol=1e-4)

def test_shared_beginning_is_sampled_once_and_changes_nothing(policy, monkeypatch):
    prompts = ['a good film', 'a good film of the year and the music', 'a good plot']
    a, seen, once = policy.sample(prompts, n=2), [], policy.net._next_token
    monkeypatch.setattr(policy.net, '_next_token', lambda ids, *more: seen.append(ids.shape) or once(ids, *more))
    b = policy.sample(prompts, n=2)
    assert seen[0][0] == 1 and seen[0][1] >= 2 and torch.equal(a.ids, b.ids)
    monkeypatch.setattr('maxmin_nb.policy._n_shared', lambda *_: 0)
    c, seen[:] = policy.sample(prompts, n=2), []
    assert policy.texts(a) == policy.texts(c) and torch.allclose(a.states, c.states, atol=1e-4) and torch.allclose(a.logp, c.logp, atol=1e-4)

def test_reference_sampling_is_the_untouched_model(policy):
    rollout = policy.sample(PROMPTS, n=2, reference=True)
    assert torch.allclose(rollout.logp, policy.logprobs(rollout, reference=True)[0], atol=1e-4)
    fresh = Policy(policy.lm, policy.net.split, 4, .7, 8)
    assert policy.texts(rollout) == fresh.texts(fresh.sample(PROMPTS, n=2))

def test_rows_do_not_depend_on_the_batch(policy):
    a = policy.sample(PROMPTS, n=3)
    policy.rows = 100
    b = policy.sample(PROMPTS, n=3)
    assert policy.texts(a) == policy.texts(b)
    assert torch.allclose(a.states.sum(1), b.states.sum(1), atol=1e-4)
    one = policy.logprobs(a[torch.tensor([4])])[0][0]
    assert torch.allclose(one, policy.logprobs(a)[0][4, :len(one)], atol=1e-4)

def test_reading_texts_gives_the_states_of_sampling(policy):
    a = policy.sample(PROMPTS, n=1)
    b = policy.read(PROMPTS, [policy.lm.tokenizer.decode(r[m]) for r, m in zip(a.response, a.words)])
    assert a.n_words.tolist() == b.n_words.tolist()
    s = lambda r: (r.states[:, r.n_prompt:]*r.words[..., None]).sum(1)
    assert torch.allclose(s(a), s(b), atol=1e-4)

def test_states_exist_for_every_word_and_no_end_token(policy):
    fresh = Policy(policy.lm, policy.net.split, 4, 1., 8)  # noise in the adapters may keep a policy from ending, or make it end at once
    a = fresh.sample(PROMPTS, n=20)
    assert a.ended.any() and not a.ended.all()
    for x in (a, policy.sample(PROMPTS, n=4)):
        norm = x.hidden[:, x.n_prompt:].norm(dim=-1)
        assert (norm[x.words] > 0).all() and (norm[~x.words] == 0).all()
        assert (x.hidden[:, :x.n_prompt].norm(dim=-1)[~x.real[:, :x.n_prompt]] == 0).all()

def test_gradient_reaches_adapters_only(policy):
    rollout = policy.sample(PROMPTS)
    logp, _ = policy.net('upper', rollout)
    logp.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.trainable.values())
    assert all(p.grad is None for n, p in policy.net.named_parameters() if n not in policy.trainable)
    for p in policy.trainable.values(): p.grad = None

def test_two_policies_share_the_frozen_weights():
    lm = tiny_model()
    before = {n: t.clone() for n, t in lm.model.state_dict().items()}
    a, b = Policy(lm, 2, 4), Policy(lm, 2, 4)
    shared = {t.data_ptr() for t in lm.model.parameters()}
    assert all(t.data_ptr() in shared for n, t in a.net.base.named_parameters() if 'lora_' not in n)
    with torch.no_grad():
        for t in a.trainable.values(): t.add_(1.)
    a.sample(['a film'])
    assert all(torch.equal(before[n], t) for n, t in lm.model.state_dict().items())
    assert not any(torch.equal(x, y) for x, y in zip(a.trainable.values(), b.trainable.values()))

def test_rollout_round_trip(tmp_path):
    p = Policy(tiny_model(), 2, 4)
    a = p.sample(PROMPTS)
    save_rollout(a, tmp_path/'r.safetensors')
    b = load_rollout(tmp_path/'r.safetensors')
    assert torch.equal(a.ids, b.ids) and torch.equal(a.hidden, b.hidden) and b.states is b.hidden and torch.equal(a.row, b.row)

def test_deep_heads_read_the_reference():
    p = Policy(tiny_model(), 0, 4, 1., 8, read=3)
    a = p.sample(PROMPTS)
    ids = a.ids[1][a.real[1]][None]
    with torch.no_grad(): h = p.lm.model(ids, output_hidden_states=True).hidden_states[3][0]
    n = int(a.n_words[1])
    k = int(a.real[1, :a.n_prompt].sum())
    assert torch.allclose(a.states[1, a.n_prompt:a.n_prompt+n], h[k:k+n], atol=1e-4)

def test_draw_never_gives_an_impossible_token():
    logits = torch.tensor([[-float('inf'), 0., -float('inf')]]*3)
    token, logp = draw(logits, torch.tensor([0., .5, 1 - 1e-16], dtype=torch.float64))
    assert token.tolist() == [1, 1, 1] and logp.tolist() == [0., 0., 0.]

def test_draw_is_inversion_over_the_whole_vocabulary():
    "Several blocks, the last one short: the token is where the cumulated probabilities pass u, and every token gets its share."
    logits = 3*torch.randn(2500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    u = torch.cat([p.cumsum(0)[:-1] + 1e-9, p.cumsum(0)[:-1] - 1e-9, torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]]).clamp(0)
    token, logp = draw(logits.expand(len(u), -1), u)
    c = p.cumsum(0)
    assert (c[token] > u - 1e-6).all() and ((c[token] - p[token]) < u + 1e-6).all()
    assert torch.allclose(logp, logits.log_softmax(-1)[token], atol=1e-6)

def test_chosen_logprobs_on_many_blocks():
    g = torch.Generator().manual_seed(0)
    h, W, y = torch.randn(7, 16, generator=g, requires_grad=True), 3*torch.randn(3000, 16, generator=g), torch.tensor([0, 1023, 1024, 2047, 2048, 2999, 5])
    got, H = _Chosen.apply(h, W, y, .7, True)
    want = (h.double()@W.double().T/.7).log_softmax(-1)
    assert torch.allclose(got.double(), want[torch.arange(7), y], atol=1e-4) and torch.allclose(H.double(), -(want.exp()*want).sum(-1), atol=1e-4)
    v = torch.randn(7, generator=g)
    assert torch.allclose(torch.autograd.grad((got*v).sum(), h)[0], torch.autograd.grad((want[torch.arange(7), y]*v).sum(), h)[0].float(), atol=1e-4)

def test_uniforms_are_keyed_by_row():
    assert torch.equal(uniforms(1, 2, range(5), 3)[3:], uniforms(1, 2, [3, 4], 3))
    assert not torch.equal(uniforms(1, 2, [0], 3), uniforms(1, 3, [0], 3))

@pytest.mark.parametrize('bad, said', [
    (lambda: Policy(tiny_model(), 4), 'split is 4; the model has 4 layers'), (lambda: Policy(tiny_model(), 2, temperature=0), 'temperature is 0'),
    (lambda: Policy(tiny_model(), 2, max_new_tokens=0), 'max_new_tokens is 0'), (lambda: Policy(tiny_model(), 2).sample([]), 'the list of prompts is empty'),
    (lambda: Policy(tiny_model(), 2).sample(['']), "a prompt is ''"), (lambda: Policy(tiny_model(), 2).sample(['good '*200]), 'at most 96 fit the model'),
    (lambda: Policy(tiny_model(), 2).read(['a'], []), '1 prompts and 0 responses')])
def test_bad_input_is_named(bad, said):
    with pytest.raises(ValueError, match=said): bad()
