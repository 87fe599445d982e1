"Reward models on text: cached reading, choice of features, heads, shared basis, adapters, and one interface for all."
import shutil, warnings
import numpy as np, pytest, torch
from dataclasses import replace
from hypothesis import given, settings, strategies as st
from maxmin_nb import reward_models as rm
from maxmin_nb.core import load_arrays, save_arrays
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.policy import Policy
from maxmin_nb.ppo import PPO
from maxmin_nb.preferences import Comparisons, log_sigmoid
from maxmin_nb.reward_models import (POOLS, RewardAdapters, RewardHeads, choose_features, features, fit_adapters, fit_heads, fit_rewards, load_heads, read_features,
                                     save_heads, whitener)
from maxmin_nb.text import tiny_model

PROMPTS = ['a good film', 'a bad film', 'the plot', 'music and story']
SMALL = dict(n_layers=1, lora_r=2, n_components=6, lr=1e-2, restarts=2, progress=False)

def start(kind='llama', split=2, read=None, T=8): return Policy(tiny_model(kind), split, 4, 1., T, read=read)

def people(p, groups=(0, 0, 0, 0, 1, 1), n=40, seed=0):
    "Group 0 likes short responses, group 1 long ones: (comparisons, rollout)."
    rng = np.random.default_rng(seed)
    x = p.sample(PROMPTS, n=8, reference=True)
    texts, rows = p.texts(x), []
    x = replace(p.read([PROMPTS[i] for i in x.row], texts), row=x.row)     # the words that a text keeps: special tokens are not among them
    size = x.n_words.numpy()
    for u, g in enumerate(groups):
        for _ in range(n):
            i, j = rng.choice(8, 2, replace=False) + 8*rng.integers(4)
            if (size[i] > size[j]) != (g == 1): i, j = j, i
            rows.append((f'p{u}', PROMPTS[i//8], texts[i], texts[j]))
    return Comparisons(*zip(*rows)), x

@pytest.fixture(scope='module')
def made():
    p = start()
    c, x = people(p)
    return p, c, x, {'heads': fit_rewards(p, c, 2, 6, progress=False), 'shared': fit_rewards(p, c, 2, 6, rank=1, progress=False), 'adapters': fit_adapters(p, c, 2, rounds=2, **SMALL)}

KINDS = pytest.mark.parametrize('kind', ['heads', 'shared', 'adapters'])


# reading

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_every_layer_and_pooling_is_what_the_model_says(kind):
    "Against transformers' own hidden states, one text at a time."
    p = start(kind)
    prompts, texts = ['a good film', 'the plot', 'the plot'], ['good story', 'bad , very bad film and a dull plot indeed', '']
    got = read_features(p, prompts, texts, [0, 1, 3, 4])
    body = (p.lm.model.transformer if kind == 'gpt2' else p.lm.model.model)
    states = []
    hooks = [l.register_forward_hook(lambda m, a, o: states.append(o[0] if isinstance(o, tuple) else o)) for l in (body.h if kind == 'gpt2' else body.layers)]
    hooks.append((body.h if kind == 'gpt2' else body.layers)[0].register_forward_pre_hook(lambda m, a: states.append(a[0])))
    for i, (a, b) in enumerate(zip(prompts, texts)):
        ids, r = p.lm.encode(a), p.lm.encode_response(b)[:p.T]
        states.clear()
        with torch.no_grad(): p.lm.model(torch.tensor([ids + r]))
        for l, layer in enumerate([0, 1, 3, 4]):
            h = states[layer].reshape(-1, 64)[len(ids):].double().numpy()
            want = [h.sum(0)/p.T, h.mean(0), h[-1]] if len(r) else [np.zeros(64)]*3
            assert np.allclose(got[l, :, i], want, atol=1e-5), (i, layer)
    for h in hooks: h.remove()

def test_reading_does_not_depend_on_company_or_order():
    p = start()
    c, x = people(p)
    texts, prompts = p.texts(x), [PROMPTS[i] for i in x.row]
    a = read_features(p, prompts, texts, [1, 2], piece=5, desc='reading')
    assert np.allclose(a, read_features(p, prompts, texts, [1, 2]), atol=1e-5)
    order = np.random.default_rng(0).permutation(len(texts))
    b = read_features(p, [prompts[i] for i in order], [texts[i] for i in order], [2, 1])
    assert np.allclose(a[::-1, :, order], b, atol=1e-5)
    assert np.allclose(a[1, 0], features(x, p.T), atol=1e-5)

def counted(monkeypatch):
    n, plain = [], Policy._pooled
    monkeypatch.setattr(Policy, '_pooled', lambda self, pairs, layers, done: (n.append((len(pairs), tuple(layers))), plain(self, pairs, layers, done))[1])
    return n

def test_what_was_read_is_not_read_again(monkeypatch, tmp_path):
    p, n = start(), counted(monkeypatch)
    c, x = people(p)
    args = [PROMPTS[i] for i in x.row], p.texts(x)
    a = read_features(p, *args, [1, 2], tmp_path)
    first = len(n)
    assert first and (read_features(p, *args, [2, 1], tmp_path)[::-1] == a).all() and len(n) == first
    read_features(p, *args, [2, 4], tmp_path)
    assert n[first:] and all(layers == (4,) for _, layers in n[first:])                # only the layer that was lacking
    first = len(n)
    for other in (Policy(tiny_model(seed=1), 2, 4, 1., 8), start(T=7)): read_features(other, *args, [1], tmp_path)   # other weights, another T
    assert len(n) == first + 2
    more = read_features(p, [*args[0], 'the plot'], [*args[1], 'a new text'], [1], tmp_path)
    assert n[first + 2:] == [(1, (1,))] and (more[0, :, :-1] == a[0]).all()                # only the new text
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert (read_features(p, *args, [1, 2], tmp_path) == a).all()

def test_interrupted_reading_goes_on_where_it_was(monkeypatch, tmp_path):
    p = start()
    c, x = people(p)
    args = [PROMPTS[i] for i in x.row], p.texts(x)
    n, plain = counted(monkeypatch), Policy._pooled
    whole = read_features(p, *args, [2], piece=4)
    pieces, counting = len(n), Policy._pooled
    def stop(self, *a):
        if len(n) == pieces + 3: raise KeyboardInterrupt
        return counting(self, *a)
    monkeypatch.setattr(Policy, '_pooled', stop)
    with pytest.raises(KeyboardInterrupt): read_features(p, *args, [2], tmp_path, piece=4)
    assert len(list(tmp_path.rglob('*.safetensors'))) == 3
    monkeypatch.setattr(Policy, '_pooled', counting)
    assert (read_features(p, *args, [2], tmp_path, piece=4) == whole).all() and len(n) == 2*pieces

@pytest.mark.parametrize('harm', ['flip', 'cut', 'empty', 'other'])
def test_damaged_cache_is_named_and_made_again(tmp_path, harm):
    p = start()
    args = ['the plot']*3, ['good', 'bad film', 'a dull story']
    a = read_features(p, *args, [1], tmp_path)
    f, = tmp_path.rglob('*.safetensors')
    good = f.read_bytes()
    if harm == 'flip': f.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    if harm == 'cut': f.write_bytes(good[:-9])
    if harm == 'empty': f.write_bytes(b'')
    if harm == 'other': save_arrays(f, dict(y=np.ones(3)))
    with pytest.warns(UserWarning, match=f'{f.name} are damaged'): b = read_features(p, *args, [1], tmp_path)
    assert (a == b).all() and f.read_bytes() == good and len(list(tmp_path.rglob('*.*'))) == 1

def test_no_file_is_left_where_writing_fails(monkeypatch, tmp_path):
    import safetensors.numpy
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(safetensors.numpy, 'save_file', full)
    with pytest.raises(OSError, match='No space'): read_features(start(), ['the plot'], ['good'], [1], tmp_path)
    assert not [f for f in tmp_path.rglob('*') if f.is_file()]


# choice of features

def test_choice_of_features_finds_what_can_be_seen():
    "Length is written in a sum and not in the last word; the table is sorted, and its sums are those of a fit written out here."
    p = start()
    c, _ = people(p)
    out = choose_features(p, c, 2, layers=[1, 2], components=(2, 6), progress=False)
    assert len(out) == 12 and [r['heldout'] for r in out] == sorted((r['heldout'] for r in out), reverse=True)
    assert out[0]['pool'] == 'sum' and out[0]['heldout'] > max(r['heldout'] for r in out if r['pool'] == 'last') + .05
    assert all(np.isclose(r['users'].sum()/len(c), r['heldout']) and r['users'].shape == (6,) for r in out)
    prompts, texts, chosen, rejected = rm._distinct(c)
    fold = rm._prompt_folds(prompts, 4, 0)
    assert all(len({f for f, q in zip(fold, prompts) if q == one}) == 1 for one in PROMPTS)
    x, total = read_features(p, prompts, texts, [2])[0, 0], 0.
    for f in range(4):
        W = whitener(x[fold != f], 6)[:, :2]
        tr = fold[chosen] != f
        d = (x@W)[chosen] - (x@W)[rejected]
        m = rm.fit_mixture(d[tr], c.user[tr], 2, l2=1., restarts=2)
        eta, S = m.responsibilities, d[~tr]@m.coef
        for h, u in enumerate(m.users): total += np.log((eta[h]*np.exp(log_sigmoid(S[c.user[~tr] == u]).sum(0))).sum())
    got = next(r for r in out if (r['layer'], r['pool'], r['n_components']) == (2, 'sum', 2))
    assert np.isclose(got['heldout'], total/len(c))


# the shared basis

@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.integers(3, 5))
def test_penalty_of_a_basis_is_the_sum_of_singular_values(seed, r, K, d):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(d, r)), rng.normal(size=(r, K))
    s = np.linalg.svd(A@b, compute_uv=False)
    assert ((A**2).sum() + (b**2).sum())/2 >= s.sum() - 1e-9
    U, s, V = np.linalg.svd(A@b, full_matrices=False)
    A, b = U*s**.5, s[:, None]**.5*V
    assert np.isclose(((A**2).sum() + (b**2).sum())/2, s.sum())

def choices(seed, rank, K=4, d=8, H=40, n=60):
    rng = np.random.default_rng(seed)
    Phi = 2*rng.normal(size=(d, rank))@rng.normal(size=(rank, K))
    g, x = np.arange(H)%K, rng.normal(size=(H*n, d))
    users = np.repeat(np.arange(H), n)
    m = np.einsum('nd,dn->n', x, Phi[:, g[users]])
    return np.where((rng.random(H*n) < rm.sigmoid(m))[:, None], x, -x), users, Phi

@pytest.mark.parametrize('seed', range(3))
def test_shared_basis_climbs_to_a_stationary_point(seed):
    "The trace never falls, the rank is r, and the gradient of the penalised log-likelihood vanishes (by finite differences)."
    x, users, _ = choices(seed, 2)
    mix = rm.fit_mixture(x, users, 4, l2=1., restarts=3, seed=seed)
    m, A = rm._share_basis(x, users, mix, 2, 1., tol=1e-11)
    assert (np.diff(m.trace) > -1e-6).all() and np.linalg.matrix_rank(m.coef, tol=1e-8) == 2 and m.log_likelihood <= mix.log_likelihood + 1e-6 + .5*(mix.coef**2).sum()
    b = np.linalg.lstsq(A, m.coef, rcond=None)[0]
    def J(A, b): return replace(m, coef=A@b).user_log_likelihood(x, users).sum() - ((A**2).sum() + (b**2).sum())/2
    assert np.isclose(J(A, b), m.trace[-1])
    rng = np.random.default_rng(0)
    for _ in range(8):
        dA, db = rng.normal(size=A.shape), rng.normal(size=b.shape)
        slope = (J(A + 1e-4*dA, b + 1e-4*db) - J(A - 1e-4*dA, b - 1e-4*db))/2e-4
        assert abs(slope) < 2e-2*len(x)**.5, slope

def test_a_basis_helps_where_people_share_one():
    "Four groups in two directions, few comparisons: nearer to the truth than separate rewards at most seeds."
    wins = 0
    for seed in range(6):
        x, users, Phi = choices(seed, 2, n=12)
        mix = rm.fit_mixture(x, users, 4, l2=1., restarts=5, seed=seed)
        m, _ = rm._share_basis(x, users, mix, 2, 1.)
        y, who, _ = choices(seed, 2, n=200)
        test = lambda f: f.user_log_likelihood(y[rows], who[rows], known=True).sum()
        rows = np.arange(len(y))%200 >= 12
        wins += test(m) > test(mix)
    assert wins >= 5, wins


# adapters

def fresh(p, c, batch=10**6):
    "The state of a fit before its first step."
    return rm._AdapterEM(rm._adapter_reader(p.lm, 2, 1, 2, 2, 8, 0), c, *rm._start(p, c, 2, 6, 1., 2, 0, 8, False, None, 'sum', None), batch, 1.)

def test_objective_never_falls_and_starts_at_the_heads(made):
    p, c, x, fits = made
    a, h = fits['adapters'], fits['heads']
    assert (np.diff(a.trace) >= 0).all() and a.trace[-1] > a.trace[0] + .1
    start = fit_rewards(p, c, 2, 6, restarts=2, progress=False)
    assert np.isclose(a.trace[0], start.trace[-1], rtol=1e-5)
    assert np.isclose(a.log_likelihood, a.user_log_likelihood(c).sum(), rtol=1e-5)

def test_a_step_that_overshoots_is_retried_and_undone(made):
    "At an absurd rate no step is kept: the objective stays where it was, so do the rewards, and the rates have been halved."
    p, c, x, _ = made
    f = fit_rewards(p, c, 2, 6, restarts=2, progress=False)
    a = fit_adapters(p, c, 2, rounds=1, **SMALL | dict(lr=1e4))
    assert np.allclose(a.trace, a.trace[0]) and np.allclose(a.margins(c), f.margins(c), atol=1e-3)

def test_a_step_too_large_is_kept_at_a_lower_rate(made, monkeypatch):
    p, c, x, _ = made
    rates, plain = [], rm._AdapterEM.m_step
    monkeypatch.setattr(rm._AdapterEM, 'm_step', lambda self, u, q, lr, *a: (rates.append((u, lr)), plain(self, u, q, lr, *a))[1])
    a = fit_adapters(p, c, 2, rounds=4, **SMALL | dict(lr=.3))
    assert min(lr for _, lr in rates) < .3 and (np.diff(a.trace) >= 0).all() and a.trace[-1] > a.trace[0]
    for (u, lr), (v, nxt) in zip(rates, rates[1:]): assert nxt == (lr/2 if u == v else nxt)

def test_an_m_step_is_a_gradient_step_on_its_part_of_the_objective(made):
    "The gradient that AdamW sees in one batch of everything, against finite differences of Σ_h q_hu L_hu - λ/2 |c|²."
    p, c, x, _ = made
    em = fresh(p, c)
    em.read('')
    q = np.random.default_rng(0).random((6, 2))
    def part():
        m = (v := em.scores(0))[em.chosen] - v[em.rejected]
        return (q[em.row, 0]*log_sigmoid(m)).sum() - .5*(em.head[0]**2).sum().item()
    before = part()
    w, grads = q[em.row, 0], {}
    plain = torch.optim.AdamW.step
    def look(self, *a): grads.update({id(t): t.grad.clone() for g in self.param_groups for t in g['params']})
    torch.optim.AdamW.step = look
    try: em.m_step(0, q[:, 0], 1e-3, 1, 0., (0,))
    finally: torch.optim.AdamW.step = plain
    g, = [grads[id(em.head[0])]]
    for i in range(3):
        with torch.no_grad(): em.head[0][i] += 1e-2
        up = part()
        with torch.no_grad(): em.head[0][i] -= 2e-2
        down = part()
        with torch.no_grad(): em.head[0][i] += 1e-2
        assert np.isclose((up - down)/2e-2, -g[i].item()*w.sum(), rtol=2e-2, atol=2e-2)

def test_a_group_without_people_learns_nothing(made):
    p, c, x, _ = made
    em = fresh(p, c)
    em.read('')
    before = em.state()
    em.m_step(0, np.zeros(6), 1e-3, 1, 0., (0,))
    assert all((before[n] == v).all() for n, v in em.state().items())

def test_every_comparison_is_in_one_batch(made):
    p, c, x, _ = made
    for size in (2, 5, 10**6):
        em = fresh(p, c, size)
        out = em.batches(np.arange(len(c)), np.random.default_rng(0))
        assert sorted(np.concatenate(out)) == list(range(len(c)))
        assert max(len(set(em.chosen[b]) | set(em.rejected[b])) for b in out) <= size

@pytest.mark.parametrize('stop', [1, 3])
def test_interrupted_fit_ends_bit_for_bit_as_an_uninterrupted_one(made, monkeypatch, tmp_path, stop):
    p, c, x, _ = made
    whole = fit_adapters(p, c, 2, rounds=2, **SMALL)
    step = rm._AdapterEM.step
    def until(self, run, *a):
        if run['done'] == stop: raise KeyboardInterrupt
        return step(self, run, *a)
    with monkeypatch.context() as m:
        m.setattr(rm._AdapterEM, 'step', until)
        with pytest.raises(KeyboardInterrupt): fit_adapters(p, c, 2, rounds=2, out=tmp_path, **SMALL)
    again = fit_adapters(p, c, 2, rounds=2, out=tmp_path, **SMALL)
    for a, b in ((whole.phi, again.phi), (whole.trace, again.trace), (whole.responsibilities, again.responsibilities), (whole.strengths(x), again.strengths(x))): assert a.tobytes() == b.tobytes()

def test_checkpoint_of_another_fit_is_refused_and_kept(made, tmp_path):
    p, c, x, _ = made
    fit_adapters(p, c, 2, rounds=1, out=tmp_path, **SMALL)
    before = (tmp_path/'checkpoint.safetensors').read_bytes()
    with pytest.raises(ValueError, match='belongs to a fit with other settings'): fit_adapters(p, c, 2, rounds=1, out=tmp_path, **SMALL | dict(lora_r=3))
    assert (tmp_path/'checkpoint.safetensors').read_bytes() == before

def test_states_that_do_not_fit_are_read_again(made, monkeypatch):
    p, c, x, fits = made
    plain = rm._AdapterEM.read
    def read(self, desc): plain(self, desc); self.kept = None
    monkeypatch.setattr(rm._AdapterEM, 'read', read)
    a = fit_adapters(p, c, 2, rounds=2, **SMALL)
    assert np.allclose(a.trace, fits['adapters'].trace, atol=1e-2)

def test_adapters_do_not_touch_the_model(made):
    p, c, x, fits = made
    before = rm._weights_sha(p.lm)
    a = fit_adapters(p, c, 2, rounds=1, **SMALL)
    assert rm._weights_sha(p.lm) == before == rm._weights_sha(tiny_model())
    ids = x.ids[:2]
    with torch.no_grad(): assert torch.equal(p.lm.model(ids).logits, tiny_model().model(ids).logits)
    size = lambda r: sum(v.numel() for u in range(2) for v in rm._lora(r, u).values())
    assert size(a.reader) < .05*2*sum(v.numel() for v in p.lm.model.parameters())

@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_both_architectures_and_every_pooling(kind):
    p = start(kind)
    c, x = people(p, n=20)
    for pool in POOLS:
        for f in (fit_rewards(p, c, 2, 6, pool=pool, progress=False), fit_adapters(p, c, 2, rounds=1, pool=pool, **SMALL)):
            assert np.allclose(f.score(x), f.judge([PROMPTS[i] for i in x.row], p.texts(x)), atol=2e-3) and np.allclose(f.tokens(x).sum(2) - torch.as_tensor(f.zero/f.unit), f.score(x), atol=1e-4)


# one interface

@KINDS
def test_groups_are_found_and_new_people_placed(made, kind):
    p, c, x, fits = made
    f = fits[kind]
    assert f.groups.tolist() == [0]*4 + [1]*2 and f.users == c.users and np.allclose(f.weights, [2/3, 1/3], atol=.05)
    new, _ = people(p, (1, 0, 1), 15, seed=9)
    new.user = np.array([f'new {u}' for u in new.user], object)
    assert f.assign(Comparisons(new.user, new.prompt, new.chosen, new.rejected)).argmax(1).tolist() == [1, 0, 1]

@KINDS
def test_the_interface_is_that_of_the_mixture(made, kind):
    "Posterior, probabilities and likelihood follow from the margins by the formulas of chapter 03."
    p, c, x, fits = made
    f = fits[kind]
    m, row = f.margins(c), c.user_index
    L = np.stack([np.bincount(row, log_sigmoid(v)) for v in m.T], 1)
    joint = L + np.log(f.weights)
    q = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    assert np.allclose(f.assign(c), q, atol=1e-8) and np.allclose(f.responsibilities, q, atol=1e-3)
    assert np.allclose(f.predict_proba(c), (f.responsibilities[row]/(1 + np.exp(-m))).sum(1))
    assert np.allclose(f.user_log_likelihood(c), np.logaddexp.reduce(joint, axis=1)) and np.isclose(f.user_log_likelihood(c).sum(), f.log_likelihood, rtol=1e-4)
    stranger = Comparisons(['nobody'], c.prompt[:1], c.chosen[:1], c.rejected[:1])
    assert np.allclose(f.predict_proba(stranger), f.weights@(1/(1 + np.exp(-m[0]))))

@KINDS
def test_score_judge_and_tokens_agree(made, kind):
    p, c, x, fits = made
    f = fits[kind]
    s = f.score(x).numpy()
    assert s.shape == (32, 2) and f.tokens(x).shape == (32, 2, x.response.shape[1])
    assert np.allclose(s, f.judge([PROMPTS[i] for i in x.row], p.texts(x)), atol=1e-3)
    assert np.allclose(s, (f.strengths(x) - f.zero)/f.unit, atol=1e-3)
    rows = torch.tensor([3, 17, 4])
    assert np.allclose(f.score(x[rows]), s[rows], atol=1e-4)
    r = f.relative_to(x)
    assert np.allclose(r.score(x).mean(0), 0, atol=1e-4) and np.allclose(r.score(x).numpy().reshape(4, 8, 2).var(1, ddof=1).mean(0), 1, atol=1e-3)

def test_adapters_pay_on_the_last_choice(made):
    p, c, x, fits = made
    t = fits['adapters'].tokens(x)
    last = x.actions.sum(1) - 1
    assert (t.abs().sum(1) > 0).sum() <= len(x) and all((t[i, :, :j] == 0).all() and (t[i, :, j + 1:] == 0).all() for i, j in enumerate(last))

def test_a_rollout_of_another_split_is_judged_alike(made):
    "Adapters read tokens, not the states that a policy happened to keep."
    p, c, x, fits = made
    other = start(split=0, read=2).read([PROMPTS[i] for i in x.row], p.texts(x))
    for f in fits.values(): assert np.allclose(f.score(other), f.score(x), atol=1e-3)

@KINDS
def test_relative_to_features_is_relative_to_the_rollout(made, kind):
    p, c, x, fits = made
    if kind == 'adapters':
        with pytest.raises(TypeError, match='pass the rollout'): fits[kind].relative_to(features(x, 8), x.row)
    else:
        a, b = fits[kind].relative_to(x), fits[kind].relative_to(features(x, 8), x.row)
        assert (a.zero == b.zero).all() and (a.unit == b.unit).all()

@KINDS
def test_saved_and_loaded(made, kind, tmp_path):
    p, c, x, fits = made
    fits[kind].save(tmp_path/'r.safetensors')
    f = RewardHeads.load(tmp_path/'r.safetensors', tiny_model())
    assert type(f) is type(fits[kind]) and f.score(x).numpy().tobytes() == fits[kind].score(x).numpy().tobytes()
    assert np.array_equal(f.assign(c), fits[kind].assign(c)) and f.users == fits[kind].users and f.log_likelihood == fits[kind].log_likelihood and np.array_equal(f.trace, fits[kind].trace)
    assert (f.basis is None) == (kind != 'shared') and (f.basis is None or f.basis.shape == (64, 1))

def test_heads_read_with_their_own_T(made, tmp_path):
    made[3]['heads'].save(tmp_path/'h.safetensors')
    say = [load_heads(tmp_path/'h.safetensors', m).judge(['the plot']*2, ['good', 'a long and dull film about nothing']) for m in (tiny_model(), Policy(tiny_model(), max_new_tokens=3), Policy(tiny_model(), max_new_tokens=40))]
    assert np.allclose(say[0], say[1]) and np.allclose(say[0], say[2])

def test_loading_says_what_is_wrong(made, tmp_path):
    fits, f = made[3], tmp_path/'a.safetensors'
    fits['adapters'].save(f)
    with pytest.raises(ValueError, match='pass that model'): load_heads(f)
    with pytest.raises(ValueError, match='other weights'): load_heads(f, tiny_model(seed=1))
    save_arrays(tmp_path/'b.safetensors', dict(x=np.ones(2)))
    with pytest.raises(ValueError, match='does not hold rewards'): load_heads(tmp_path/'b.safetensors')
    f.write_bytes(f.read_bytes()[:-20])
    with pytest.raises(ValueError, match='damaged'): load_heads(f, tiny_model())

def test_files_of_before_still_load(made, tmp_path):
    "Heads saved without pooling and penalty in the metadata."
    h = made[3]['heads']
    h.save(tmp_path/'h.safetensors')
    a, meta = load_arrays(tmp_path/'h.safetensors')
    for k in ('pool', 'l2'): meta.pop(k)
    save_arrays(tmp_path/'h.safetensors', a, meta)
    b = load_heads(tmp_path/'h.safetensors')
    assert b.pool == 'sum' and np.array_equal(b.phi, h.phi)
    with pytest.raises(ValueError, match='no language model to read text'): b.judge(['the plot'], ['good'])

def test_progress_bars_change_nothing(made):
    p, c, x, fits = made
    a = fit_adapters(p, c, 2, rounds=2, **SMALL | dict(progress=True))
    assert np.array_equal(a.trace, fits['adapters'].trace) and len(choose_features(p, c, 2, layers=[2], components=(2,), folds=2)) == 3

def test_weights_of_comparisons_count():
    "A comparison of weight two is that comparison twice."
    p = start()
    c, _ = people(p, n=10)
    w = np.random.default_rng(0).integers(1, 3, len(c))
    twice = c[np.repeat(np.arange(len(c)), w)]
    c.weight = w.astype(float)
    a, b = (fit_rewards(p, o, 2, 6, restarts=3, progress=False) for o in (c, twice))
    assert np.isclose(a.log_likelihood, b.log_likelihood, atol=1e-3) and np.allclose(a.assign(c), b.assign(twice), atol=1e-4)


# trainers

@KINDS
def test_ppo_and_maxmin_ppo_train_on_it(made, kind):
    f = made[3][kind]
    run = PPO(start(), f, batch=8)
    run.train(PROMPTS, 2)
    assert np.isfinite([h['reward'] for h in run.history]).all()
    run = MaxMinPPO(start(), f, batch=8)
    run.train(PROMPTS, 2)
    ref = run.reference
    assert np.allclose(run.rewards.score(ref).mean(0), 0, atol=1e-4)
    run = MaxMinPPO(start(), f, batch=8, per_response_min=True)
    run.train(PROMPTS, 1)
    x = run.policy.sample(PROMPTS*2)
    _, paid, _ = run.judge(x, torch.zeros(x.actions.shape))
    assert torch.allclose(paid.sum(1), run.rewards.score(x).min(1).values, atol=1e-4)

def test_ppo_learns_from_adapters(made):
    p, f = start(), made[3]['adapters']
    only = replace(f, mixture=replace(f.mixture, weights=np.array([0., 1.])))
    before = f.score(p.sample(PROMPTS, n=64, step=99))[:, 1].mean()
    PPO(p, only, batch=32, lr=5e-3, beta=.02).train(PROMPTS, 12)
    assert f.score(p.sample(PROMPTS, n=64, step=99))[:, 1].mean() > before + .3

@KINDS
def test_reward_function_has_the_shape_that_trl_calls(made, kind):
    p, c, x, fits = made
    f = fits[kind]
    prompts, said = c.prompt[:5], c.chosen[:5]
    want = f.judge(prompts, said)
    for group in (0, 1):
        r = f.as_reward_func(group=group)
        out = r(prompts=prompts, completions=said, completion_ids=[[1]]*5, trainer_state=None, column=['a']*5)
        assert r.__name__ == f'reward_of_group_{group}' and isinstance(out, list) and all(type(v) is float for v in out) and np.allclose(out, want[:, group])
        talk = r(prompts=[[dict(role='system', content='be kind'), dict(role='user', content=q)] for q in prompts], completions=[[dict(role='assistant', content=a)] for a in said])
        parts = r(prompts=[[dict(role='user', content=[dict(type='text', text=q)])] for q in prompts], completions=[[dict(role='assistant', content=[dict(type='text', text=a)])] for a in said])
        assert talk == parts == out
    assert np.allclose(f.as_reward_func(weights=[1, 3])(prompts, said), want@[.25, .75])
    assert np.allclose(f.as_reward_func()(prompts, said), want@f.weights)
    assert len({f.as_reward_func(group=0).__name__, f.as_reward_func(group=1).__name__, f.as_reward_func(weights=[1, 1]).__name__, f.as_reward_func().__name__}) == 4

def test_trl_trains_on_it(made, tmp_path):
    "Inside TRL's own trainer, with plain and with conversational prompts."
    trl = pytest.importorskip('trl')
    from datasets import Dataset
    for talk in (False, True):
        lm, seen = start().lm, []
        lm.tokenizer.pad_token = lm.tokenizer.eos_token
        funcs = [f.as_reward_func(group=1) for f in (made[3]['heads'], made[3]['adapters'])]
        def spied(prompts, completions, **kw): seen.append(funcs[0](prompts, completions, **kw)); return seen[-1]
        spied.__name__ = funcs[0].__name__
        args = trl.GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=8, max_steps=2, report_to=[], use_cpu=True, logging_steps=1, save_strategy='no', disable_tqdm=True)
        t = trl.GRPOTrainer(model=lm.model, reward_funcs=[spied, funcs[1]], args=args, train_dataset=Dataset.from_list([dict(prompt=[dict(role='user', content=q)] if talk else q, other='x') for q in PROMPTS]), processing_class=lm.tokenizer)
        t.train()
        logged = [h['rewards/reward_of_group_1/mean'] for h in t.state.log_history if 'rewards/reward_of_group_1/mean' in h]
        assert len(seen) == len(logged) == 2 and np.isfinite(logged).all()


# bad input

def table(**kw): return Comparisons(**dict(user=['a', 'b'], prompt=['a film', 'the plot'], chosen=['good', 'bad'], rejected=['bad', 'good']) | kw)

@pytest.mark.parametrize('fit', [fit_rewards, fit_adapters, choose_features])
@pytest.mark.parametrize('bad, error, said', [
    (lambda f, p: f(p, table(), 0), ValueError, 'n_groups is 0 and there are 2 users'),
    (lambda f, p: f(p, table(), 3), ValueError, 'n_groups is 3 and there are 2 users'),
    (lambda f, p: f(p, table(), 1.5), ValueError, 'n_groups is 1.5'),
    (lambda f, p: f(p, table(), True), ValueError, 'n_groups is True'),
    (lambda f, p: f(p, table().to_frame(), 1), TypeError, 'comparisons is a DataFrame'),
    (lambda f, p: f(p, Comparisons(['a'], None, ['good'], ['bad']), 1), ValueError, 'lack prompts'),
    (lambda f, p: f(p, Comparisons(['a'], ['x'], [[1., 2.]], [[0., 1.]]), 1), ValueError, 'hold features'),
    (lambda f, p: f(p, table(chosen=[['good'], ['bad']]), 1), TypeError, r"chosen of comparison 0 is \['good'\]; it must be text"),
    (lambda f, p: f(p, table(rejected=['bad', 3]), 1), TypeError, 'rejected of comparison 1 is 3; it must be text'),
    (lambda f, p: f(p, table(chosen=['good', None]), 1), TypeError, 'chosen of comparison 1 is None'),
    (lambda f, p: f(p, table(chosen=['good']), 1), ValueError, 'different lengths'),
    (lambda f, p: f(p, table(prompt=['a film', ' ']), 1), ValueError, 'must be text with at least one word')])
def test_bad_comparisons_are_named(fit, bad, error, said):
    kw = dict(folds=2) if fit is choose_features else {}
    with pytest.raises(error, match=said): bad(lambda *a: fit(*a, progress=False, **kw), start())

@pytest.mark.parametrize('bad, error, said', [
    (lambda m: fit_rewards(m[0], m[1], 2, pool='max'), ValueError, "pool is 'max'"),
    (lambda m: fit_rewards(m[0], m[1], 2, layer=5), ValueError, 'layer is 5'),
    (lambda m: fit_rewards(m[0], m[1], 2, rank=3, progress=False), ValueError, 'rank is 3; it must be a whole number from 1 to 2'),
    (lambda m: fit_rewards(m[0], m[1], 2, rank=0, progress=False), ValueError, 'rank is 0'),
    (lambda m: features(m[2], 8, 'max'), ValueError, "pool is 'max'"),
    (lambda m: read_features(m[0], ['a film'], ['good', 'bad'], [1]), ValueError, '1 prompts and 2 responses'),
    (lambda m: read_features(m[0], ['a film'], [7], [1]), TypeError, 'a response is 7'),
    (lambda m: read_features(m[0], ['a film'], [['good']], [1]), TypeError, r"a response is \['good'\]"),
    (lambda m: read_features(m[0], ['a film'], ['good'], [9]), ValueError, r'layers is \[9\]'),
    (lambda m: read_features(m[0], [], [], [1]), ValueError, 'at least one'),
    (lambda m: choose_features(m[0], m[1], 2, folds=5), ValueError, 'folds is 5 and there are 4 different prompts'),
    (lambda m: choose_features(m[0], m[1], 2, pools=['max']), ValueError, "pools holds 'max'"),
    (lambda m: choose_features(m[0], m[1], 2, components=(0,)), ValueError, 'components is'),
    (lambda m: fit_adapters(m[0], m[1], 2, n_layers=3, progress=False), ValueError, 'n_layers is 3; it must be from 1 to 2'),
    (lambda m: fit_adapters(m[0], m[1], 2, rounds=0), ValueError, 'rounds is 0'),
    (lambda m: fit_adapters(m[0], m[1], 2, lr=-1.), ValueError, 'lr is -1'),
    (lambda m: m[3]['heads'].as_reward_func(group=2), ValueError, 'group is 2; it must be from 0 to 1'),
    (lambda m: m[3]['heads'].as_reward_func(group=-1), ValueError, 'group is -1'),
    (lambda m: m[3]['heads'].as_reward_func(weights=[1, -1]), ValueError, r'weights is \[1, -1\]'),
    (lambda m: m[3]['heads'].as_reward_func(weights=[1]), ValueError, 'it must hold 2 numbers'),
    (lambda m: m[3]['heads'].as_reward_func(group=0, weights=[1, 1]), ValueError, 'both group and weights'),
    (lambda m: m[3]['heads'].as_reward_func(0)(['a film'], [3]), TypeError, 'a completion is 3'),
    (lambda m: m[3]['heads'].as_reward_func(0)([[dict(role='user', content='a'), dict(role='assistant', content='b')]], ['x']), ValueError, 'messages by user, assistant'),
    (lambda m: m[3]['heads'].as_reward_func(0)(['a film'], ['x', 'y']), ValueError, '1 prompts and 2 responses')])
def test_bad_input_is_named(made, bad, error, said):
    with pytest.raises(error, match=said) as e: bad(made)
    assert '\n' not in str(e.value)
