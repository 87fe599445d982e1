"Choices that people made: every source, shape and mistake. All rows are made up here, in the shapes of the collections they stand for."
import csv, gzip, hashlib, json, subprocess, sys, warnings
from itertools import combinations
from pathlib import Path
import datasets, numpy as np, pandas as pd, pytest
from hypothesis import assume, given, settings, strategies as st
from maxmin_nb import text
from maxmin_nb.preferences import Comparisons, log_sigmoid
from maxmin_nb.text import load_preferences

COMMIT = '0123456789abcdef0123456789abcdef01234567'
GOOD = dict(user=['ann', 'ben'], prompt=['p', 'q'], chosen=['a', 'b'], rejected=['c', 'd'])
good = lambda **kw: pd.DataFrame(GOOD | kw)
same = lambda c, df: c.to_frame().astype(object).equals(df.astype(object))

@pytest.fixture(autouse=True)
def no_surprises():
    with warnings.catch_warnings(): warnings.simplefilter('error'); yield

def jsonl(df): return '\n'.join(json.dumps(o, ensure_ascii=False) for o in df.to_dict('records'))

WRITERS = {
    'c.parquet': lambda df, p: df.to_parquet(p, index=False), 'c.csv': lambda df, p: df.to_csv(p, index=False, quoting=csv.QUOTE_ALL), 'c.csv.gz': lambda df, p: df.to_csv(p, index=False, quoting=csv.QUOTE_ALL),
    'c.json': lambda df, p: p.write_text(json.dumps(df.to_dict('records')), encoding='utf-8'), 'c.jsonl': lambda df, p: p.write_bytes(jsonl(df).encode()),
    'c.jsonl.gz': lambda df, p: p.write_bytes(gzip.compress(jsonl(df).encode())), 'lines.json': lambda df, p: p.write_bytes(b'\xef\xbb\xbf' + jsonl(df).encode())}


# --- every source

texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=8)
rows = st.lists(st.tuples(st.text('ab1,"', min_size=1, max_size=2), texts, texts, texts, st.floats(.01, 9)), min_size=1, max_size=6)

@settings(max_examples=200)
@given(rows, st.sampled_from(sorted(WRITERS)), st.booleans(), st.booleans())
def test_round_trip_through_files(tmp_path_factory, rows, name, prompt, weight):
    df = pd.DataFrame(rows, columns=['user', 'prompt', 'chosen', 'rejected', 'weight'])
    df = df[df.chosen != df.rejected].reset_index(drop=True)
    assume(len(df))
    df = df.drop(columns=['prompt']*(not prompt) + ['weight']*(not weight))
    path = tmp_path_factory.mktemp('c')/name
    WRITERS[name](df, path)
    assert same(load_preferences(path), df) and same(load_preferences(str(path)), df) and same(load_preferences(df), df)
    saved = path.with_name('saved.parquet')
    load_preferences(path).save(saved)
    assert same(load_preferences(saved), df)

@settings(max_examples=200)
@given(rows)
def test_round_trip_through_a_dataset(rows):
    df = pd.DataFrame(rows, columns=['user', 'prompt', 'chosen', 'rejected', 'weight'])
    df = df[df.chosen != df.rejected].reset_index(drop=True)
    assume(len(df))
    d = datasets.Dataset.from_pandas(df)
    assert same(load_preferences(d), df)
    assert same(load_preferences(d.to_iterable_dataset()), df)
    assert same(load_preferences(datasets.DatasetDict(train=d.select([0]), test=d), split='test'), df)

def test_folders(tmp_path, monkeypatch):
    df, d = good(), datasets.Dataset.from_pandas(good())
    monkeypatch.setattr('socket.socket.connect', lambda *a: pytest.fail('a folder needs no network'))
    d.save_to_disk(tmp_path/'one'); datasets.DatasetDict(train=d, test=d.select([1])).save_to_disk(tmp_path/'both')
    assert same(load_preferences(tmp_path/'one'), df) and same(load_preferences(str(tmp_path/'both')), df) and len(load_preferences(tmp_path/'both', split='test')) == 1
    clone = tmp_path/'clone'; clone.mkdir()
    (clone/'README.md').write_text('---\nconfigs:\n- config_name: x\n  data_files: x.jsonl\n- config_name: y\n  data_files: y.jsonl\n---\n')
    WRITERS['c.jsonl'](df, clone/'x.jsonl'); WRITERS['c.jsonl'](df[:1], clone/'y.jsonl')
    assert same(load_preferences(clone, subset='x'), df) and len(load_preferences(clone, subset='y')) == 1
    with pytest.raises(ValueError, match='cannot be read by datasets'): load_preferences(clone)
    with pytest.raises(KeyError, match="no split 'valid'; the splits are 'train'"): load_preferences(clone, subset='x', split='valid')
    with pytest.raises(KeyError, match="no split 'valid'"): load_preferences(tmp_path/'both', split='valid')

@pytest.mark.parametrize('name', ['clone.py', 'sub/load.py', 'weights.pkl', 'm.pth', 'a.tar', 'a.tar.gz', 'a.tgz'])
def test_nothing_that_could_run_is_opened(tmp_path, name):
    (tmp_path/'sub').mkdir()
    (tmp_path/name).write_text('raise SystemExit("never run")')
    with pytest.raises(ValueError, match='no .parquet|scripts, pickles and archives'): load_preferences(tmp_path)
    WRITERS['c.jsonl'](good(), tmp_path/'c.jsonl')
    with pytest.raises(ValueError, match='scripts, pickles and archives are not opened'): load_preferences(tmp_path)
    with pytest.raises(ValueError, match='and from no other kind'): load_preferences(tmp_path/name)

def test_the_name_of_the_source_stands_for_the_user_where_a_column_is_not_to_be_used():
    assert set(load_preferences(dict(G=good(), H=good()), user=None).user) == {'G', 'H'}

def test_a_flipped_byte_in_a_gzip_file_is_named(tmp_path):
    whole = gzip.compress(b'user,chosen,rejected\n1,a,b\n'*200)
    for i in range(10, len(whole), 3):
        (tmp_path/'a.csv.gz').write_bytes(whole[:i] + bytes([whole[i]^0xff]) + whole[i+1:])
        with pytest.raises(ValueError, match='a.csv.gz cannot be read as csv'): load_preferences(tmp_path/'a.csv.gz')

def test_import_is_light():
    code = 'import sys, maxmin_nb.text; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout.split()
    assert not {'torch', 'transformers', 'pandas', 'datasets', 'huggingface_hub', 'pyarrow'} & set(loaded)


# --- the hub, which these tests do not reach

def blob(data): return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A repository of two files, one with a SHA-256 and one with git's hash; `calls` counts downloads."
    monkeypatch.setenv('MAXMIN_CACHE', str(tmp_path/'cache'))
    files = {'a/train.jsonl': jsonl(good()).encode(), 'README.md': b'# made up\n', 'b.txt': b'x'}
    listing = {f: ('sha256', hashlib.sha256(d).hexdigest()) if f.endswith('jsonl') else ('git', blob(d)) for f, d in files.items()}
    class hub: calls = []
    def download(name, revision, names, folder):
        hub.calls.append(names)
        for f in names: (Path(folder)/f).parent.mkdir(parents=True, exist_ok=True); (Path(folder)/f).write_bytes(files[f])
    hub.files, hub.listing, hub.cache = files, listing, tmp_path/'cache'
    monkeypatch.setattr(text, '_hub_listing', lambda name, revision: hub.listing)
    monkeypatch.setattr(text, '_hub_download', download)
    return hub

@pytest.mark.parametrize('source, names', [('some/data', ['a/train.jsonl', 'README.md']), ('some/data:a/train.jsonl', ['a/train.jsonl'])])
def test_hub_is_pinned_checked_and_cached(hub, source, names):
    for _ in range(2): assert same(load_preferences(source, revision=COMMIT), good())
    assert hub.calls == [names]
    kept = next(p for p in hub.cache.rglob('train.jsonl'))
    kept.write_text(kept.read_text().replace('ann', 'eve'))
    with pytest.raises(ValueError, match='so it is not used: delete the folder'): load_preferences(source, revision=COMMIT)

@pytest.mark.parametrize('file', ['a/train.jsonl', 'README.md'])
def test_wrong_bytes_from_the_hub_are_refused_and_not_kept(hub, file):
    hub.files[file] += b' '
    with pytest.raises(ValueError, match='hash .* so it is not used'): load_preferences('some/data', revision=COMMIT)
    assert not [p for p in hub.cache.rglob('*') if p.is_file()]

def test_hub_refuses(hub):
    for revision in (None, 'main', COMMIT[:7]):
        with pytest.raises(ValueError, match='pinned to a commit of 40 hex digits'): load_preferences('some/data', revision=revision)
    with pytest.raises(ValueError, match="no file 'c.csv'"): load_preferences('some/data:c.csv', revision=COMMIT)
    hub.listing['data.py'] = ('git', '')
    with pytest.raises(ValueError, match='the data set some/data holds data.py'): load_preferences('some/data', revision=COMMIT)
    hub.listing = {'b.txt': ('git', '')}
    with pytest.raises(ValueError, match='holds no .parquet'): load_preferences('some/data', revision=COMMIT)
    assert not hub.calls

def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv('MAXMIN_CACHE', str(tmp_path))
    def refuse(*a, **kw): raise OSError('no route to host')
    monkeypatch.setattr('socket.socket.connect', refuse); monkeypatch.setattr('socket.getaddrinfo', refuse)
    with pytest.raises(ConnectionError, match="'some/data' is neither a file or folder here nor could it be had from the hub") as e: load_preferences('some/data', revision=COMMIT)
    assert '\n' not in str(e.value) and not [p for p in tmp_path.rglob('*') if p.is_file()]


# --- ties and rankings

@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.sampled_from([.5, 1., 2.])), min_size=1, max_size=8), st.booleans(), st.integers(0, 99))
def test_a_tie_is_half_an_answer_each_way(rows, weighted, seed):
    "The likelihood of what is loaded is that of soft labels, whatever the scores; 'drop' is that of the strict rows alone."
    assume(any(a != b for _, a, b, _, _ in rows) and any(a != b and not t for _, a, b, t, _ in rows))
    df = pd.DataFrame(rows, columns=['user', 'a', 'b', 'tie', 'weight']).assign(chosen=lambda d: d.a.map(str), rejected=lambda d: d.b.map(str))
    score = np.random.default_rng(seed).normal(size=4)
    def loglik(c): return float(sum(w*log_sigmoid(score[int(x)] - score[int(y)]) for x, y, w in zip(c.chosen, c.rejected, np.ones(len(c)) if c.weight is None else c.weight)))
    def soft(rows): return sum((w if weighted else 1)*((1 - t/2)*log_sigmoid(score[a] - score[b]) + t/2*log_sigmoid(score[b] - score[a])) for _, a, b, t, w in rows if a != b)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        half, drop = (load_preferences(df, ties=t, weight='weight' if weighted else None) for t in ('half', 'drop'))
    np.testing.assert_allclose([loglik(half), loglik(drop)], [soft(rows), soft([r for r in rows if not r[3]])], atol=1e-12)

rankings = st.lists(st.lists(st.tuples(st.integers(1, 4), st.sampled_from('abcdef')), min_size=1, max_size=5), min_size=1, max_size=4)

@settings(max_examples=200)
@given(rankings, st.sampled_from([None, 'half', 'drop']), st.sampled_from(['one', 'pairs']), st.booleans(), st.randoms(use_true_random=False))
def test_rankings_become_their_pairs(ranked, ties, count, ids, random):
    "Against a plain enumeration: which pairs, which way round, and how much each ranking weighs in all; the order of the rows does not matter."
    rows = [dict(user=f'u{k%2}', prompt='same' if ids else f'p{k}', id=k, response=t, rank=r) for k, one in enumerate(ranked) for r, t in one]
    random.shuffle(rows)
    want, tied = {}, 0
    for k, one in enumerate(ranked):
        pairs = [(a, b) for a, b in combinations(one, 2) if a[1] != b[1] and not (ties == 'drop' and a[0] == b[0])]
        tied += sum(a[0] == b[0] for a, b in pairs)
        for a, b in pairs:
            for better, worse in ((a, b), (b, a)):
                share = 1. if better[0] < worse[0] else .5 if better[0] == worse[0] else 0.
                if share: want[f'u{k%2}', better[1], worse[1]] = want.get((f'u{k%2}', better[1], worse[1]), 0) + share/(len(pairs) if count == 'one' else 1)
    assume(want)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        c = load_preferences(pd.DataFrame(rows), ties=ties, rankings=count, ranking='id' if ids else 'ranking')
    found = {}
    for u, a, b, w in zip(c.user, c.chosen, c.rejected, c.weight): found[u, a, b] = found.get((u, a, b), 0) + w
    assert found.keys() == want.keys()
    np.testing.assert_allclose([found[k] for k in want], list(want.values()))
    if count == 'one': assert abs(c.weight.sum() - round(c.weight.sum())) < 1e-9
    assert bool([w for w in said if 'ties' in str(w.message)]) == bool(tied and ties is None)

def test_naive_pairs_overcount_and_weights_multiply():
    df = pd.DataFrame(dict(user='u', prompt='p', response=list('abcd'), rank=[1, 2, 3, 4]))
    assert load_preferences(df, rankings='pairs').weight.sum() == 6 and abs(load_preferences(df).weight.sum() - 1) < 1e-12
    np.testing.assert_allclose(load_preferences(df.assign(weight=3)).weight, .5)
    assert load_preferences(df.assign(weight=3), weight=None).weight.sum() == pytest.approx(1)

def test_flags():
    with pytest.warns(UserWarning, match='1 of 2 comparisons are ties'): c = load_preferences(good(tie=[True, False]))
    assert (c.chosen, c.rejected) == (['a', 'c', 'b'], ['c', 'a', 'd']) and c.weight.tolist() == [.5, .5, 1]
    with pytest.warns(UserWarning, match='1 of 2 comparisons have the same text on both sides'): assert len(load_preferences(good(rejected=['a', 'd']))) == 1
    with pytest.warns(UserWarning, match='1 of 2 rankings compare no two different'): assert len(load_preferences(pd.DataFrame(dict(user=[1, 1, 2], prompt='p', response=list('xyz'), rank=[1, 2, 1])))) == 1
    assert len(load_preferences(good(tie=['0', 'TRUE']), ties='drop')) == 1 and len(load_preferences(good(tie=[True, True]), tie=None)) == 2


# --- Personalized Soups: rm_training/P1A.json …, a JSON array of user_input, completion_a (preferred), completion_b

def soups(folder, personas=('P1A', 'P1B', 'P3A'), n=7):
    ask = dict(P1A='that can be easily understood by an elementary school student', P1B='that only a PhD Student in that specific field could understand', P3A='that is friendly, witty, funny, and humorous, like a close friend')
    for p in personas:
        made = [dict(user_input=f'Name a bird, number {i}.  Generate a response {ask[p]}.', completion_a=f'good {i}', completion_b=f'bad {i}') for i in range(n)]
        (folder/f'{p}.json').write_text(json.dumps(made))
    (folder/'allcombo_8.json').write_text('[]')

def test_soups(tmp_path):
    soups(tmp_path)
    c = load_preferences(tmp_path, 'soups')
    assert c.users == ['P1A', 'P1B', 'P3A'] and len(c) == 21 and set(c.prompt) == {f'Name a bird, number {i}.' for i in range(7)}
    assert all(a.replace('good', 'bad') == b for a, b in zip(c.chosen, c.rejected))
    d = load_preferences(tmp_path/'P1B.json', 'soups', annotators=3, seed=4)
    assert sorted(d.users) == ['P1B-1', 'P1B-2', 'P1B-3'] and sorted(len(d.of(u)) for u in d.users) == [2, 2, 3]
    assert d.user.tolist() == load_preferences(tmp_path/'P1B.json', 'soups', annotators=3, seed=4).user.tolist() != load_preferences(tmp_path/'P1B.json', 'soups', annotators=3, seed=5).user.tolist()

def test_soups_refuses(tmp_path):
    soups(tmp_path, ['P1A'], 2)
    with pytest.raises(ValueError, match='annotators is 3 and P1A has 2 rows'): load_preferences(tmp_path, 'soups', annotators=3)
    with pytest.raises(ValueError, match='allcombo_8.json is not named after a persona'): load_preferences(tmp_path/'allcombo_8.json', 'soups')
    with pytest.raises(FileNotFoundError, match='unpack its data.zip'): load_preferences(tmp_path/'rm_training', 'soups')
    with pytest.raises(KeyError, match="needs a column 'user_input', 'completion_a', 'completion_b'; the columns are 'user'"): load_preferences(dict(P1A=good()), 'soups')
    with pytest.warns(UserWarning, match='1 of 1 prompts hold no sentence'): load_preferences(dict(P1A=pd.DataFrame(dict(user_input=['Name a bird. Keep it simple.'], completion_a=['x'], completion_b=['y']))), 'soups')

def test_every_persona_sentence_goes_and_no_other():
    for word in text.SOUPS.values():
        assert text._SOUPS.sub('', f'Do it. Generate a response in a manner that is {word}, very.') == 'Do it.'
    for kept in ('Generate a response to this letter.', 'Generate a response.\nBe concise.', 'A friendly note.'): assert text._SOUPS.sub('', kept) == kept


# --- PRISM: utterances.jsonl, one response a row

def utterance(i, conv, turn, k, prompt, response, score, chosen, user='user3'):
    return dict(utterance_id=f'ut{i}', interaction_id=f'int{conv}{turn}', conversation_id=f'c{conv}', user_id=user, turn=turn, within_turn_id=k, included_in_balanced_subset=True,
                conversation_type='unguided', user_prompt=prompt, model_response=response, model_name='m', model_provider='p', score=score, if_chosen=chosen)

PRISM = [utterance(0, 0, 0, 0, 'Hi', 'Hello', 80, True), utterance(1, 0, 0, 1, 'Hi', 'Yes', 40, False), utterance(2, 0, 0, 2, 'Hi', 'No', 40, False), utterance(3, 0, 0, 3, 'Hi', 'EMPTY STRING', 1, False),
         utterance(4, 0, 1, 0, 'Why', 'So', 60, False), utterance(5, 0, 1, 1, 'Why', 'Because', 70, True), utterance(6, 1, 0, 0, 'Hm', 'Ah', 9, True, 'user8'), utterance(7, 1, 0, 1, 'Hm', 'Oh', 8, False, 'user8')]

@pytest.mark.parametrize('order', [1, -1])
def test_prism(tmp_path, order):
    (tmp_path/'utterances.jsonl').write_text('\n'.join(map(json.dumps, PRISM[::order])))
    c = load_preferences(tmp_path/'utterances.jsonl', 'prism')
    found = {(u, p, a, b): w for u, p, a, b, w in zip(c.user, c.prompt, c.chosen, c.rejected, c.weight)}
    later = 'Human: Hi\n\nAssistant: Hello\n\nHuman: Why'
    assert found == {('user3', 'Hi', 'Hello', x): pytest.approx(1/3) for x in ('Yes', 'No', '')} | {('user3', later, 'Because', 'So'): 1, ('user8', 'Hm', 'Ah', 'Oh'): 1}

def test_prism_scores():
    with pytest.warns(UserWarning, match='1 pairs within rankings are ties'): c = load_preferences(pd.DataFrame(PRISM), 'prism-scores')
    assert c.weight.sum() == pytest.approx(3) and len(c) == 7 + 1 + 1
    assert load_preferences(pd.DataFrame(PRISM), 'prism-scores', ties='drop', rankings='pairs').weight.sum() == 5 + 1 + 1

@pytest.mark.parametrize('change, says', [
    (lambda d: d.drop(columns='if_chosen'), "PRISM needs a column 'if_chosen'"), (lambda d: d.assign(score=np.nan), 'score of row 0 is nan'), (lambda d: d.assign(if_chosen='perhaps'), "if_chosen of row 0 is 'perhaps'"),
    (lambda d: d[4:6], 'has a turn 1 but no chosen response in turn 0'), (lambda d: d.assign(model_response=3), 'model_response of row 0 is 3'), (lambda d: d.assign(user_prompt=list('abcdefgh')), 'two different prompts')])
def test_prism_refuses(change, says):
    with pytest.raises((ValueError, TypeError, KeyError), match=says): load_preferences(change(pd.DataFrame(PRISM)), 'prism-scores')


# --- HH-RLHF: train.jsonl.gz, two dialogues a row

def hh(path, n=6):
    one = [dict(chosen=f'\n\nHuman: Hi {i}\n\nAssistant: Hello', rejected=f'\n\nHuman: Hi {i}\n\nAssistant: Hell') for i in range(n)]
    two = [dict(chosen='\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: yes', rejected='\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: yes and no')]
    path.parent.mkdir(); path.write_bytes(gzip.compress('\n'.join(map(json.dumps, one + two)).encode()))
    return path

def test_hh(tmp_path):
    a, b = hh(tmp_path/'helpful-base'/'train.jsonl.gz'), hh(tmp_path/'harmless-base'/'train.jsonl.gz', 3)
    with pytest.raises(KeyError, match="no column 'user'; the columns are 'chosen', 'rejected', 'prompt'; where nothing says who chose"): load_preferences(a, 'hh')
    c = load_preferences(dict(helpful=a, harmless=b), 'hh')
    assert c.users == ['helpful', 'harmless'] and len(c) == 11
    assert (c.prompt[0], c.chosen[0], c.rejected[0]) == ('Hi 0', 'Hello', 'Hell')
    assert (c.prompt[6], c.chosen[6], c.rejected[6]) == ('Human: a\n\nAssistant: b\n\nHuman: c', 'yes', 'yes and no')
    assert len(load_preferences(dict(helpful=a, harmless=b), 'hh', annotators=2).users) == 4
    worker = pd.DataFrame(dict(chosen=['\n\nHuman: a\n\nAssistant: b'], rejected=['\n\nHuman: a\n\nAssistant: c'], worker=[7]))
    assert load_preferences(worker, 'hh', user='worker').users == [7]
    with pytest.raises(ValueError, match='share no dialogue'): load_preferences(dict(h=good()), 'hh')


# --- every mistake, one sentence

@pytest.mark.parametrize('df, kw, says', [
    (good(chosen=[['a'], 'b']), {}, r"chosen of row 0 is \['a'\]; it must be text"), (good(rejected=['c', [dict(role='user', content='x')]]), {}, 'rejected of row 1 is .*it must be text'),
    (good(chosen=[1., 2.]), {}, 'chosen of row 0 is 1.0'), (good(chosen=[np.ones(3)]*2), {}, 'chosen of row 0 is .*must be text'), (good(rejected=['c', None]), {}, 'rejected of row 1 is (None|nan)'),
    (good(prompt=['p', np.nan]), {}, 'prompt of row 1 is nan'), (good(user=['ann', None]), {}, 'user of row 1 is (None|nan)'), (good(user=[[1], 2]), {}, r'user of row 0 is \[1\]'),
    (good(weight=['1', 'heavy']), {}, "weight of row 1 is 'heavy'"), (good(weight=[1, np.inf]), {}, 'weight of row 1 is inf'), (good(weight=[1, -1]), {}, 'weight must hold finite numbers >= 0'), (good(tie=['no idea', '0']), {}, "tie of row 0 is 'no idea'"),
    (good(), dict(user='who'), "no column 'who'; the columns are 'user', 'prompt', 'chosen', 'rejected'; where nothing says"), (good(), dict(chosen='better'), "no column 'better'"), (good(), dict(weight='w'), "no column 'w'"),
    (good(), dict(shosen='x'), 'no argument shosen'), (good(), dict(adapter='ultra'), "adapter is 'ultra'; it must be one of soups, hh, prism"), (good(), dict(ties='maybe'), "ties is 'maybe'"), (good(), dict(annotators=2), 'annotators is 2, but the rows say who chose'),
    (good(), dict(annotators=0), 'annotators is 0'), (good()[:0], {}, 'holds no rows'), (good(rejected=['a', 'b']), {}, 'no comparison is left'), (good(tie=True), dict(ties='drop'), 'no comparison is left'),
    (pd.DataFrame(dict(user=1, prompt='p', response=['a', 'b'], rank=['1', 'last'])), {}, "rank of row 1 is 'last'"), (pd.DataFrame(dict(user=1, prompt='p', response=['a', 'b'])), {}, "no column 'rank'"),
    (pd.DataFrame(dict(user=1, response=['a', 'b'], rank=[1, 2])), {}, 'ranking ids'), (pd.DataFrame(dict(user=1, prompt=['p', 'q'], response=['a', 'b'], rank=[1, 2], ranking=0)), {}, 'different prompts'),
    (pd.DataFrame(dict(user=1, prompt='p', response=['a', 'b'], rank=[1, 2], weight=[1, 2])), {}, 'different weights'), (3, {}, 'the source is a int'), ([GOOD], {}, 'the source is a list')])
def test_bad_input(df, kw, says):
    with pytest.raises((ValueError, TypeError, KeyError), match=says) as e: load_preferences(df, **kw)
    assert '\n' not in e.value.args[0]

@pytest.mark.parametrize('name, data, says', [
    ('a.csv', b'', 'is empty'), ('a.csv', b' \n', 'is empty'), ('a.jsonl', b'\n', 'is empty'), ('a.json', b'[]', 'holds no rows'), ('a.csv', b'user,chosen,rejected\n', 'holds no rows'), ('a.parquet', b'nothing', 'cannot be read as parquet'),
    ('a.jsonl', b'{"user": 1}\n{broken', 'cannot be read as jsonl'), ('a.json', b'[1, 2]', 'not an object with named fields'), ('a.json', b'\xff\xfe', 'cannot be read as json'), ('a.csv', b'user,chosen,rejected\n1,a,b,c\n', 'row 0 has 4 fields and the header 3'),
    ('a.csv', b'user,chosen,user\n1,a,b\n', "two columns are called 'user'"), ('a.csv', b'user,chosen,rejected\n1,a,b\n\n1,a\n', 'cannot be read as csv .row 1 has 2 fields'), ('a.csv', b'user,chosen,rejected\n1,a,"b\n', 'cannot be read as csv'), ('a.jsonl.gz', b'{"user": 1}', 'cannot be read as jsonl'), ('a.tsv', b'user\tchosen\trejected\n1\ta\n', 'row 0 has 2 fields and the header 3'), ('a.txt', b'x', "ends in '.txt'"),
    ('a.jsonl', b'{"user": 1, "chosen": "x"}', "no column 'rejected'; the columns are 'user', 'chosen'"), ('a.jsonl', b'{"user": 1, "chosen": NaN, "rejected": "x"}', 'chosen of row 0 is nan')])
def test_bad_files(tmp_path, name, data, says):
    (tmp_path/name).write_bytes(data)
    with pytest.raises((ValueError, TypeError, KeyError), match=says) as e: load_preferences(tmp_path/name)
    assert '\n' not in e.value.args[0] and [p.name for p in tmp_path.iterdir()] == [name]

@pytest.mark.parametrize('source', ['no/such.jsonl', './nothing', '/no/such/folder', 'a/b/c', '', 'x.parquet', 'x.csv.gz'])
def test_wrong_path_is_named(source):
    with pytest.raises(FileNotFoundError, match='there is no file or folder'): load_preferences(source)

def test_several_sources_share_users():
    c = load_preferences(dict(first=good(), second=good(weight=[2, 2])))
    assert c.users == ['ann', 'ben'] and c.weight.tolist() == [1, 1, 2, 2]
    d = load_preferences(dict(x=good().drop(columns='user'), y=good().drop(columns='user')))
    assert d.users == ['x', 'y'] and isinstance(d, Comparisons)

def test_hub_calls_fit_the_library(monkeypatch):
    "The listing is read from the library's own classes, filled with the fields that the hub sends; the download's arguments are ones it has."
    import huggingface_hub, inspect
    from huggingface_hub.hf_api import DatasetInfo
    sent = dict(id='some/data', siblings=[dict(rfilename='a.jsonl', size=3, blobId='b1', lfs=dict(size=3, sha256='s1', pointerSize=9)), dict(rfilename='README.md', size=2, blobId='b2')])
    real, asked = inspect.signature(huggingface_hub.HfApi.dataset_info), {}
    def info(self, *a, **kw): asked.update(real.bind(self, *a, **kw).arguments); return DatasetInfo(**sent)
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', info)
    assert text._hub_listing('some/data', COMMIT) == {'a.jsonl': ('sha256', 's1'), 'README.md': ('git', 'b2')}
    assert asked['revision'] == COMMIT and asked['files_metadata']
    took = inspect.signature(huggingface_hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda *a, **kw: asked.update(took.bind(*a, **kw).arguments))
    text._hub_download('some/data', COMMIT, ['a.jsonl'], 'x')
    assert (asked['repo_type'], asked['revision'], asked['allow_patterns'], asked['local_dir']) == ('dataset', COMMIT, ['a.jsonl'], 'x')

def test_git_hash(tmp_path):
    (tmp_path/'f').write_bytes(b'hello\n')
    assert text._hash(tmp_path/'f', 'git') == 'ce013625030ba8dba906f756967f9e9ca394464a' # git hash-object
