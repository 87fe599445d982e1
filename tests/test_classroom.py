"The class as annotators: votes that make sense, a file that is whole and harmless, groups and policies by the same route as everywhere."
import json
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from maxmin_nb.classroom import Ballot, Classroom, FEATURES, features

SHIPPED = Path(__file__).resolve().parent.parent/'nbs/results/class_texts.json'
names = st.text(min_size=1, max_size=30).filter(lambda s: 0 < len(' '.join(s.split())) <= 40)

def room(P=3, Y=3, n_each=12, seed=0):
    rng, words = np.random.default_rng(seed), 'good bad fine ! I film so awful lovely the'.split()
    return Classroom([f'p{i}' for i in range(P)], [[' '.join(rng.choice(words, k + 2 + i)) for k in range(Y)] for i in range(P)], n_each=n_each)

class Tags(HTMLParser):
    def __init__(self, text): super().__init__(); self.tags = set(); self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.add(tag)


@given(names, st.integers(1, 20))
def test_pairs(name, n_each):
    "A person is asked different pairs until there are enough or none left; order and side depend on the name alone."
    r, again, seen = room(n_each=n_each), room(n_each=n_each), []
    while q := r.pair(name):
        assert q == again.pair(name)
        seen.append((q[0], *sorted(q[1:])))
        for o in (r, again): o.choose(name, *q)
    assert len(seen) == len(set(seen)) == min(n_each, 9)

def test_sides_are_mixed():
    "The first text is not always the one with the lower number, nor is the order that of the table."
    r = Classroom.load(SHIPPED)
    firsts = [(q := r.pair(f'person {i}'))[1] < q[2] for i in range(200)]
    assert 60 < sum(firsts) < 140 and len({r.pair(f'person {i}') for i in range(200)}) > 60


@given(st.lists(st.tuples(names, st.integers(0, 2), st.permutations(range(3))), max_size=12))
def test_file(tmp_path_factory, votes):
    "Whatever names people type, the file gives back the class, and merging it changes nothing."
    r, path = room(), tmp_path_factory.getbasetemp()/'class.json'
    for name, p, (i, j, _) in votes: r.choose(name, p, i, j)
    r.save(path)
    back = Classroom.load(path)
    assert (back.prompts, back.texts, back.votes) == (r.prompts, r.texts, r.votes)
    back.merge(r)
    assert sorted(back.votes) == sorted(r.votes)

def test_last_word_counts():
    r = room()
    r.choose(' Ada  L. ', 1, 0, 2); r.choose('Bo', 1, 0, 2); r.choose('Ada L.', 1, 2, 0)
    assert r.votes == [('Bo', 1, 0, 2), ('Ada L.', 1, 2, 0)]


@pytest.mark.parametrize('vote', [('', 0, 0, 1), ('   ', 0, 0, 1), ('x'*41, 0, 0, 1), (3, 0, 0, 1), ('a', 3, 0, 1), ('a', -1, 0, 1), ('a', 0, 1, 1), ('a', 0, 0, 3), ('a', 0, 0., 1), ('a', True, 0, 1), ('a', 0, None, 1)])
def test_bad_votes(vote):
    with pytest.raises(ValueError, match='name is|a choice of'): room().choose(*vote)

@pytest.mark.parametrize('change', [lambda d: d.clear(), lambda d: d.update(format='other'), lambda d: d.update(votes=None), lambda d: d.update(votes=[['a', 0, 0]]), lambda d: d.update(votes=[['a', 0, 0, 0]]), lambda d: d.update(votes={'a': 1}),
                                    lambda d: d['texts'].pop(), lambda d: d['texts'][0].pop(), lambda d: d['texts'][0].__setitem__(0, 5), lambda d: d.update(texts=[['a'], ['b'], ['c']]), lambda d: d.pop('prompts')])
def test_bad_files(tmp_path, change):
    room().save(tmp_path/'c.json')
    d = json.loads((tmp_path/'c.json').read_text())
    change(d)
    (tmp_path/'c.json').write_text(json.dumps(d))
    with pytest.raises(ValueError): Classroom.load(tmp_path/'c.json')

def test_not_json(tmp_path):
    (tmp_path/'c.json').write_bytes(b'\x80\x04K\x01.')
    with pytest.raises(ValueError, match='not a JSON file'): Classroom.load(tmp_path/'c.json')
    with pytest.raises(ValueError, match='different texts'): room(seed=1).merge(room(seed=2))
    with pytest.raises(ValueError, match='nobody has chosen'): room().result()


def test_features():
    f = dict(zip(FEATURES, features(["I'm so glad, so very glad!!", 'A dull film. My, my.']).T.tolist()))
    assert f['words'] == [6, 5] and f['exclamation marks'] == [2, 0] and f['speaks of I'] == [1, 2] and f['tone'][0] > .5 > 0 > f['tone'][1]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(.1, 3))
def test_result(seed, beta):
    "MaxMin's worst-off group is never worse off than under single reward, nor than with a text at random; probabilities sum to one."
    r = Classroom.load(SHIPPED)
    r.add_classmates(tuple(map(tuple, np.random.default_rng(seed).normal(size=(6, 4))*2)), seed)
    res = r.result(beta=beta)
    single, best = res.utilities.values()
    assert best.min() > max(0, single.min()) - 1e-6
    for pi in res.policies.values(): np.testing.assert_allclose(pi.sum(1), 1)

def test_ready_made_classmates_are_found():
    "Seven and four, at several seeds, and one person alone is put with those of the same taste."
    right = []
    for seed in range(5):
        r = Classroom.load(SHIPPED); r.add_classmates(seed=seed)
        while q := r.pair('Ada'):
            p, a, b = q
            r.choose('Ada', p, *sorted((a, b), key=lambda i: len(r.texts[p][i])))      # always the shorter
        g = r.result().mixture
        groups = dict(zip(g.users, g.groups))
        kinds = [groups[f'classmate {h}'] for h in range(1, 12)]
        assert groups['Ada'] == np.bincount(kinds[7:]).argmax()
        right += [k == (h >= 7) for h, k in enumerate(kinds)]
    assert np.mean(right) > .9


@given(names)
def test_nothing_typed_becomes_a_tag(name):
    r = Classroom.load(SHIPPED, n_each=1)
    hostile = f'<img src=x>{name}'[:40]
    assert Tags(Ballot(r).question(hostile)).tags <= {'p', 'b'}
    r.choose(hostile, *r.pair(hostile))
    assert Tags(Ballot(r).question(hostile)).tags <= {'p', 'b'} and r.pair(hostile) is None

def test_room_is_escaped():
    r = Classroom(['<u>p</u>', 'q'], [['<i>one two three</i>', 'good <i>', 'bad!'], ['fine', 'I', 'so so !']], n_each=4)
    for k in range(4): r.choose(f'<s>{k}', k%2, k%3, (k + 1)%3); r.choose(f'<s>{k}', (k + 1)%2, (k + 1)%3, k%3)
    assert Tags(r.result().html(r)).tags == {'h4', 'table', 'thead', 'tbody', 'tr', 'th', 'td'}
