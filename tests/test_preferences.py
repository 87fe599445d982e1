"Properties of `maxmin_nb.preferences` on random cases, and what it says about bad input."
import csv, json
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from maxmin_nb.preferences import (Comparisons, annotate, bt_prob, chernoff_information, comparisons_needed, diversity, log_sigmoid, mix, sigmoid, tv_distance)

seeds = st.integers(0, 2**32 - 1)
@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(2, 6), st.integers(1, 8))
def test_distance_of_the_whole(seed, U, n):
    rng = np.random.default_rng(seed)
    eta, rho, p, q = rng.dirichlet(np.ones(U)), rng.dirichlet(np.ones(n)), rng.random((U, n))**rng.choice([.2, 1, 4]), rng.random(n)
    pbar, eps = mix(eta, p), diversity(p, rho)
    d = tv_distance(pbar, p, rho)
    for u in range(U):
        rest = np.delete(eta, u)
        np.testing.assert_allclose(d[u], (1 - eta[u])*tv_distance(mix(rest/rest.sum(), np.delete(p, u, 0)), p[u], rho), atol=1e-12)
    assert (d <= (1 - eta)*eps + 1e-12).all()
    if U == 2: np.testing.assert_allclose(d, (1 - eta)*eps, atol=1e-12)
    D = np.array([tv_distance(o, p, rho) for o in p])
    a, b = np.unravel_index(D.argmax(), D.shape)
    np.testing.assert_allclose(eps, D.max())
    assert d[a] >= eta[b]*eps - 1e-12 and d[b] >= eta[a]*eps - 1e-12
    assert eta@d >= 2*eps*eta[a]*eta[b]/(eta[a] + eta[b]) - 1e-12
    assert tv_distance(q, p, rho).max() >= eps/2 - 1e-12

def test_bounds_are_attained():
    "Two groups and an indifferent third between them: the average bound holds with equality, max ½ too."
    eta, p = np.array([.4, .4, .2]), np.array([[.9], [.1], [.5]])
    d = tv_distance(mix(eta, p), p)
    np.testing.assert_allclose([eta@d, d.max()], [.8*2*.16/.8, .4], atol=1e-12)

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 7))
def test_chernoff(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, n))**rng.choice([.05, 1, 8])
    if rng.random() < .2: a[0] = float(rng.integers(2))
    rho = rng.dirichlet(np.ones(n))
    C, w = chernoff_information(a, b, rho)
    M = lambda w: rho@(a**w*b**(1 - w) + (1 - a)**w*(1 - b)**(1 - w))
    grid = np.linspace(0, 1, 2001)[1:-1]
    assert 0 <= w <= 1 and C >= -np.log(min(map(M, grid))) - 1e-12
    if 1e-3 < w < 1 - 1e-3: np.testing.assert_allclose(C, max(0, -np.log(M(w))), atol=1e-12)
    np.testing.assert_allclose(chernoff_information(b, a, rho)[0], C, atol=1e-10)
    D = tv_distance(a, b, rho)
    if D < 1 - 1e-9: assert -.5*np.log1p(-D**2)*(1 - 1e-6) - 1e-10 <= C <= -np.log1p(-D)*(1 + 1e-6) + 1e-10

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 6))
def test_error_bound_by_enumeration(seed, n, m):
    "Every outcome of m answers, exactly: both kinds of error and the error with equal chances stay below the bound."
    rng = np.random.default_rng(seed)
    a, b, rho = *rng.uniform(.02, .98, (2, n)), rng.dirichlet(np.ones(n))
    P, Q = np.r_[rho*a, rho*(1 - a)], np.r_[rho*b, rho*(1 - b)]
    Pm = Qm = np.ones(1)
    for _ in range(m): Pm, Qm = np.multiply.outer(Pm, P).ravel(), np.multiply.outer(Qm, Q).ravel()
    bound = np.exp(-m*chernoff_information(a, b, rho)[0])
    assert max(Pm[Qm >= Pm].sum(), Qm[Pm >= Qm].sum()) <= bound + 1e-12
    assert np.minimum(Pm, Qm).sum()/2 <= bound/2 + 1e-12

def test_comparisons_needed():
    assert comparisons_needed(np.log(20), .05) == 1 and comparisons_needed(.1, .05) == 30 and comparisons_needed(.1, .05, 5) == 44
    for bad in (dict(C=0), dict(C=.1, error=1.), dict(C=.1, n_groups=1)):
        with pytest.raises(ValueError): comparisons_needed(**bad)

def test_sigmoid():
    x = np.array([-800., -40, -1e-9, 0, 3, 40, 800])
    np.testing.assert_allclose(sigmoid(x) + sigmoid(-x), 1)
    np.testing.assert_allclose(np.exp(log_sigmoid(x)), sigmoid(x), rtol=1e-13)
    assert np.isfinite(log_sigmoid(x)).all() and log_sigmoid(-800.) == -800

@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))
def test_annotate(seed, items, U, users):
    rng = np.random.default_rng(seed)
    pairs = np.array([(i, j) for i in range(items) for j in range(i)])
    n = int(rng.integers(1, len(pairs) + 1))
    user, won, lost = annotate(rng, rng.normal(size=(U, items)), pairs, rng.integers(U, size=users), n)
    assert user.tolist() == np.repeat(np.arange(users), n).tolist() and (won != lost).all()
    for u in range(users): assert len({frozenset(o) for o in zip(won[user == u].tolist(), lost[user == u].tolist())}) == n

def test_annotate_follows_bradley_terry_with_scale_and_seed():
    call = lambda: annotate(np.random.default_rng(3), [[.7, 0.]], [[0, 1]], np.zeros(40_000, int), 1, scale=2.)
    freq = (call()[1] == 0).mean()
    assert abs(freq - bt_prob(1.4, 0)) < 4*.5/200
    assert all((a == b).all() for a, b in zip(call(), call()))

@pytest.mark.parametrize('kw', [dict(n_each=0), dict(n_each=2), dict(groups=[1]), dict(pairs=[[0, 2]]), dict(pairs=[]), dict(scores=[[np.nan, 0]]), dict(groups=[])])
def test_annotate_refuses(kw):
    good = dict(scores=[[1., 0]], pairs=[[0, 1]], groups=[0], n_each=1)
    annotate(np.random.default_rng(0), **good)
    with pytest.raises(ValueError): annotate(np.random.default_rng(0), **good | kw)

ids = st.one_of(st.lists(st.text(max_size=3), min_size=1, max_size=12), st.lists(st.integers(-5, 5), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
@given(ids, st.booleans(), st.booleans(), st.booleans(), seeds)
def test_round_trip(tmp_path_factory, users, text, prompt, weight, seed):
    rng, n = np.random.default_rng(seed), len(users)
    col = lambda: [f'text {o}' for o in rng.integers(9, size=n)] if text else rng.normal(size=(n, 3))
    c = Comparisons(users, [f'p{i}' for i in range(n)] if prompt else None, col(), col(), rng.random(n) + .1 if weight else None)
    path = tmp_path_factory.mktemp('c')/'c.parquet'
    c.save(path)
    d = Comparisons.load(path)
    assert d.to_frame().equals(c.to_frame()) and d.users == c.users == list(dict.fromkeys(users))
    assert [c.users[i] for i in c.user_index] == users
    assert sum(len(c.of(u)) for u in c.users) == n
    i = rng.permutation(n)[:max(1, n//2)]
    assert c[i].user.tolist() == [users[j] for j in i]
    mask = np.zeros(n, bool); mask[i] = True
    assert c[mask].to_frame().equals(c[np.sort(i)].to_frame()) and c[mask.tolist()].to_frame().equals(c[mask].to_frame())
    if not text: np.testing.assert_array_equal(c[i].diff, c.diff[i])

def test_any_hashable_user():
    c = Comparisons([('a', 1), ('b', 2), ('a', 1)], None, ['x']*3, ['y']*3)
    assert c.users == [('a', 1), ('b', 2)] and len(c.of(('a', 1))) == 2
    with pytest.raises(TypeError, match='all int or all str'): c.save('never.parquet')

@pytest.mark.parametrize('kw, says', [
    (dict(user=[]), 'user 0'), (dict(user='ab'), 'column'), (dict(user=[1, float('nan')]), 'comparison 1 is missing'), (dict(user=[1, [2]]), 'hashable'),
    (dict(prompt=['q', 3]), 'prompt of comparison 1 is 3'), (dict(prompt=['q']), 'prompt 1'), (dict(chosen=['a', []]), r'chosen of comparison 1 is \[\]'),
    (dict(chosen=[[], []]), r'chosen of comparison 0 is \[\]'), (dict(chosen=[7, 8]), 'must be text'), (dict(chosen=[None, 'a']), 'must be text'),
    (dict(chosen=np.ones((2, 2))), 'both must be text'), (dict(chosen=np.ones((2, 2)), rejected=np.ones((2, 3))), 'same number of features'),
    (dict(chosen=[[1., 2], [1.]], rejected=np.ones((2, 2))), 'different lengths'), (dict(chosen=np.full((2, 2), np.inf), rejected=np.ones((2, 2))), 'NaN or infinite'),
    (dict(weight=[1, -1]), 'weight'), (dict(weight=[0, 0]), 'weight'), (dict(weight=[1, np.nan]), 'weight'), (dict(weight=[1]), 'weight 1')])
def test_bad_table(kw, says):
    with pytest.raises((ValueError, TypeError), match=says): Comparisons(**dict(user=[1, 2], prompt=None, chosen=['a', 'b'], rejected=['c', 'd']) | kw)

def test_bad_selection_and_files(tmp_path):
    c = Comparisons([1, 2], None, ['a', 'b'], ['c', 'd'])
    for i in ([False, False], [], slice(0, 0)):
        with pytest.raises(ValueError, match='no comparisons'): c[i]
    for i in (2, [True], [0, 5]):
        with pytest.raises(IndexError): c[i]
    with pytest.raises(KeyError, match='no user 3'): c.of(3)
    with pytest.raises(FileNotFoundError, match='there is no file'): Comparisons.load(tmp_path/'no.csv')
    (tmp_path/'a.jsonl').write_text('{"user": 1}\n{broken'); (tmp_path/'a.xls').write_text('')
    for f in ('a.jsonl', 'a.xls'):
        with pytest.raises(ValueError, match=f): Comparisons.load(tmp_path/f)
    (tmp_path/'a.csv').write_text('user,chosen\n1,a\n')
    with pytest.raises(KeyError, match="no column 'rejected'"): Comparisons.load(tmp_path/'a.csv')
    with pytest.raises(KeyError, match="no column 'question'"): Comparisons.from_frame(c.to_frame(), prompt='question')
    with pytest.raises(ValueError, match='.parquet'): c.save(tmp_path/'c.csv')

any_text = st.text(st.one_of(st.characters(exclude_categories=['Cs']), st.sampled_from('\u2028\u2029\x85\x0b\x0c\x1c\r\n",')), max_size=12)

@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(any_text, any_text, any_text), min_size=1, max_size=5))
def test_any_text_survives_json_lines_and_csv(tmp_path_factory, rows):
    "Also texts with line separators of Unicode, quotes and empty texts."
    folder = tmp_path_factory.mktemp('c')
    (folder/'c.jsonl').write_bytes('\n'.join(json.dumps(dict(zip(('user', 'chosen', 'rejected'), ('u' + r[0], *r[1:]))), ensure_ascii=False) for r in rows).encode())
    with open(folder/'c.csv', 'w', newline='', encoding='utf-8') as f:
        w = csv.writer(f, quoting=csv.QUOTE_ALL); w.writerow(['user', 'chosen', 'rejected']); w.writerows([('u' + r[0], *r[1:]) for r in rows])
    for name in ('c.jsonl', 'c.csv'):
        c = Comparisons.load(folder/name)
        assert list(zip(c.user, c.chosen, c.rejected)) == [('u' + r[0], *r[1:]) for r in rows]

@pytest.mark.parametrize('name, content, says', [
    ('a.csv', 'user,chosen,rejected\n1,a,b\n2,a\n', 'row 1 has 2 fields and the header 3'), ('a.csv', 'user,chosen,rejected\n1,a,b,c\n', 'row 0 has 4 fields'),
    ('a.csv', 'user,chosen,chosen\n1,a,b\n', "two columns are called 'chosen'"), ('a.csv', 'user,chosen,rejected\n1,a,"b', 'unexpected end of data'),
    ('a.csv', '', 'is empty'), ('a.jsonl', ' \n', 'is empty'), ('a.parquet', '', 'is empty'), ('a.csv', 'user,chosen,rejected\n', 'there are no comparisons'),
    ('a.jsonl', '[1, 2]\n', 'not an object'), ('a.jsonl', '{"user": 1, "chosen": "a"}', "no column 'rejected'"),
    ('a.jsonl', '{"user": 1, "chosen": ["a"], "rejected": "b"}', 'chosen of comparison 0'), ('a.jsonl', '{"user": 1, "chosen": 7, "rejected": "b"}', 'chosen of comparison 0 is 7')])
def test_bad_files(tmp_path, name, content, says):
    (tmp_path/name).write_text(content)
    with pytest.raises((ValueError, TypeError, KeyError), match=says) as e: Comparisons.load(tmp_path/name)
    assert '\n' not in str(e.value) and [o.name for o in tmp_path.iterdir()] == [name]

def test_csv_weights_are_numbers(tmp_path):
    (tmp_path/'a.csv').write_text('user,prompt,chosen,rejected,weight\nann,NA,null,5,0.5\nben,,x,y,2\n')
    c = Comparisons.load(tmp_path/'a.csv')
    assert (c.prompt, c.chosen, c.rejected) == (['NA', ''], ['null', 'x'], ['5', 'y'])
    np.testing.assert_array_equal(c.weight, [.5, 2])

@pytest.mark.parametrize('call', [lambda: mix([.5, .6], np.ones((2, 1))), lambda: mix([1.], np.ones((2, 1))), lambda: tv_distance([1.2], [0]), lambda: tv_distance([np.nan], [0]),
    lambda: tv_distance([.5], [.5], [2.]), lambda: chernoff_information([.5], [.5, .5]), lambda: diversity(np.ones((2, 2)), [1.])])
def test_bad_probabilities(call):
    with pytest.raises(ValueError): call()
