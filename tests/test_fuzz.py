"""Whatever is given, a user of the command line reads one sentence, and a user of the library an error of Python's own classes; what texts hold is shown and not obeyed.
The quick part takes some twenty seconds; the slow one sets MAXMIN_FUZZ=10, for ten times as many examples, and any other number can be set by hand."""
import contextlib, io, json, os, re
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from maxmin_nb import cli, gpt2, text, tulu2
from maxmin_nb.cli import main
from maxmin_nb.core import escaped, load_arrays, read_json, read_table, visible, write_json

MANY = int(os.environ.get('MAXMIN_FUZZ', 1))
def examples(n): return settings(max_examples=n*MANY, suppress_health_check=list(HealthCheck), deadline=None)

@pytest.mark.slow
def test_long(tmp_path):
    "All of this file with ten times as many examples."
    import subprocess, sys
    done = subprocess.run([sys.executable, '-m', 'pytest', __file__, '-q', '-m', 'not slow', '-p', 'no:cacheprovider'], env=os.environ | dict(MAXMIN_FUZZ='10'), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]

# --- texts

EVIL = ['\x1b[2J\x1b[31mred', '\x1b]0;title\x07', '\u202egnp.exe', '<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', "' onload='x", '\x00', '\x9b31m', '\u2066a\u2069', '&lt;b&gt;', '</pre></td><b>', '$\\frac{1}{', 'a\r\nb', '\u0000\ufffe', '😀', 'ﷺ'*50, '${jndi:x}', '%s%n', '{0.__class__}']
HALVES = ['\ud800', 'a\udfffb']
texts = st.one_of(st.sampled_from(EVIL), st.text(max_size=30))
any_text = st.one_of(texts, st.sampled_from(HALVES), st.text(st.characters(codec=None), max_size=10))
OBEYED = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')

def harmless(page):
    "Nothing that a browser runs or a terminal obeys, and a file can hold it."
    from html.parser import HTMLParser
    page.encode('utf-8')
    assert not OBEYED.search(page)
    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ('script', 'iframe', 'object', 'svg', 'b'), tag
            assert not [a for a, _ in attrs if a.startswith('on')], attrs
            assert all(v is None or not v.strip().lower().startswith(('javascript:', 'http')) for a, v in attrs if a in ('src', 'href'))
    Reader().feed(page)

@given(any_text)
@examples(100)
def test_visible(t):
    assert not OBEYED.search(visible(t)) and visible(visible(t)) == visible(t)
    harmless(escaped(t))
    if not OBEYED.search(t): assert visible(t) == t

@given(any_text, any_text, any_text)
@examples(40)
def test_report(tmp_path_factory, a, b, c):
    from maxmin_nb.evaluation import html_figure, html_table, write_report
    d = tmp_path_factory.mktemp('r')
    (d/'p.png').write_bytes(b'png')
    write_report(d/'r.html', a, [(b, html_table([a, b], [[c, a], ['+1.0', b]])), (c, html_figure(d/'p.png', a))])
    harmless((d/'r.html').read_text(encoding='utf-8').replace('<meta http-equiv', '<meta equiv'))

@given(any_text, any_text)
@examples(25)
def test_widgets(a, b):
    from maxmin_nb.widgets import Choice, interactive_figure, interactive_html
    w = interactive_html(lambda pick: (f'<p>{escaped(pick)}</p>', b), dict(pick=Choice(a, [a, a + 'x'])))
    harmless(w.html())
    forms = w._repr_mimebundle_()
    for k in ('text/plain', 'text/html'): assert not OBEYED.search(forms[k]), k
    harmless(forms['text/html'])

@given(st.lists(texts, min_size=2, max_size=4, unique=True), texts)
@examples(15)
def test_classroom(said, name):
    from maxmin_nb.classroom import Ballot, Classroom
    said = [t for t in said if t.strip()] + ['a good text', 'a bad text']
    try: room = Classroom([said[0]], [said], 'none')
    except (ValueError, TypeError) as e: builtin(e); return
    harmless(Ballot(room).question('somebody').replace('<b>', '').replace('</b>', ''))
    harmless(Ballot(room).question(name or 'x').replace('<b>', '').replace('</b>', ''))

@given(any_text)
@examples(60)
def test_terminal(t):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): cli._say(t); cli._complain(t)
    assert not OBEYED.search(out.getvalue()) and not OBEYED.search(err.getvalue()) and err.getvalue().count('\n') == 1

def test_a_terminal_that_knows_no_umlauts(monkeypatch, tmp_path):
    import sys
    raw = io.BytesIO()
    monkeypatch.setattr(sys, 'stderr', io.TextIOWrapper(raw, 'ascii'))
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'o'), '--model', 'größe/x/y']) == 2
    sys.stderr.flush()
    assert b'gr\\xf6' in raw.getvalue()

@given(any_text)
@examples(40)
def test_a_judge_that_says_anything(t):
    from maxmin_nb.judges import Judgement, judge_messages, parse_verdict
    assert parse_verdict(t) in (0., .5, 1., None)
    j = Judgement('judge', ['p', 'q'], np.array([1., np.nan]), np.array([1., np.nan]), np.zeros(2, bool), [(1, 'first', t)], asked=4)
    assert not OBEYED.search(j._silence())
    for m in judge_messages('criterion', t, t, t): json.dumps(m).encode()

@given(any_text)
@examples(25)
def test_tokenizer_and_prompts(t):
    from maxmin_nb.text import tiny_model
    lm = test_tokenizer_and_prompts.lm = getattr(test_tokenizer_and_prompts, 'lm', None) or tiny_model()
    for f in (lm.encode, lm.encode_response):
        try: ids = f(t)
        except (ValueError, TypeError) as e: builtin(e)
        else: assert all(isinstance(i, int) for i in ids) and isinstance(lm.decode(ids), str)

# --- errors

FOREIGN = re.compile(r"NoneType|object is not|has no attribute|list index|out of bounds|to unpack|division by zero|unsupported operand|unexpected keyword|positional argument|invalid literal|could not convert|codec can't|Arrow|local variable|must be real number|should not have happened")

def own(said):
    "Without what is in brackets: there another library may speak."
    return re.sub(r'\(.*\)', '', said, flags=re.S)

def builtin(e, *more):
    "An error of Python's own, that says something."
    assert type(e) in (ValueError, TypeError, KeyError, IndexError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError, OSError, FloatingPointError, RuntimeError, ConnectionError, MemoryError, *more), repr(e)
    assert str(e) and not FOREIGN.search(own(str(e))), repr(e)

# --- the command line

words = st.one_of(st.sampled_from(['', '0', '-1', '1', '2', '1e3', 'nan', 'inf', '-inf', '1e309', '9'*30, '1/0', '2/4', 'P1', 'P1,P9', 'single', 'maxmin,maxmin', 'paper', 'smoke', '..', '/', '-', '--', '٣', '0x10', 'tiny-gpt2', 'gpt2@0', '~nobody', '~nobody-here', 'http://x', *EVIL]), st.text(max_size=12))
VALUES = {'gpt2': '--scale --seed --model --annotators --ratio --comparisons --groups --steps --methods --angle --hostile --min-share --rewards --minutes --microbatch'.split(),
          'tulu2': '--scale --pairs --ratios --seeds --minutes --part --microbatch --model --revision --dtype --data --sha256 --judge-url --judge-model --gpus --tflops --bandwidth --gigabytes'.split()}

def test_every_option_is_in_the_fuzz():
    "Or names a place to write to, which has a test of its own."
    for sub in cli._parser()._subparsers._group_actions[0].choices.items():
        if sub[0] in VALUES: assert {o for a in sub[1]._actions for o in a.option_strings} - {'-h', '--help', '--out', '--tables', '--prompts', '--data', '--all', '--plan', '--dry-run'} == set(VALUES[sub[0]]) - {'--data'}

@pytest.fixture(scope='module')
def light():
    "The command without its work: everything is read and checked, nothing is trained."
    mp = pytest.MonkeyPatch()
    def away(name, *_): raise ConnectionError(f'the hub cannot be reached for {name!r}')
    mp.setattr(text, '_from_hub', away)
    mp.setenv('MAXMIN_QUIET', '1'); mp.delenv('MAXMIN_DEBUG', raising=False)
    mp.setattr(gpt2.Study, '_run', lambda self: None)
    load, tiny = gpt2.load_model, gpt2.load_model('tiny-llama')
    mp.setattr(gpt2, 'load_model', lambda name, *how: tiny if name in ('smollm2-135m', 'tiny-llama') else load(name, *how))     # scale paper falls back to the first
    mp.setattr(gpt2, '_queue', lambda *a: {}); mp.setattr(tulu2, 'run_tulu2', lambda *a, **k: {})
    mp.setattr(tulu2, 'load_model', lambda name, *how: tiny if name == 'smollm2-135m' else load(name, *how))
    yield mp
    mp.undo()

def said(argv, stdin=''):
    "(status, stderr) of a command that must not break."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main(argv)
        except SystemExit as e: return e.code, err.getvalue()          # argparse: usage and a sentence
    err = err.getvalue()
    assert code in (0, 2), code
    assert not OBEYED.search(err + out.getvalue())
    if code:
        lines = [l for l in err.splitlines() if l.startswith('maxmin: ')]
        assert len(lines) == 1 and 'Traceback' not in err, err
        assert not FOREIGN.search(own(lines[0])), lines[0]
    return code, err

@given(st.lists(st.tuples(st.sampled_from(VALUES['gpt2']), words), min_size=1, max_size=3))
@examples(80)
def test_options_of_gpt2(light, tmp_path_factory, given_):
    out = tmp_path_factory.mktemp('o')
    argv = ['gpt2', '--out', str(out/'x')] + ([] if any(o == '--scale' for o, _ in given_) else ['--scale', 'smoke']) + [f'{o}={v}' for o, v in given_]
    said(argv)

@given(st.lists(st.tuples(st.sampled_from(VALUES['tulu2']), words), min_size=1, max_size=3), st.booleans())
@examples(120)
def test_options_of_tulu2(light, tmp_path_factory, given_, plan):
    out = tmp_path_factory.mktemp('o')
    said(['tulu2', '--out', str(out/'x')] + ['--plan', '--tflops=1']*plan + ([] if any(o == '--scale' for o, _ in given_) else ['--scale', 'smoke']) + [f'{o}={v}' for o, v in given_])

@given(st.sampled_from(['--out', '--prompts', '--data', '--tables']), any_text)
@examples(60)
def test_names_of_files(light, tmp_path_factory, option, name):
    d = tmp_path_factory.mktemp('o')
    name = name.replace('..', '')
    said(['gpt2', '--scale', 'smoke', *([] if option == '--out' else ['--out', str(d/'x')]), *(['--all'] if option == '--tables' else []), f'{option}={d}/{name}'])

@given(st.one_of(st.binary(max_size=200), st.lists(texts, max_size=6).map(lambda l: '\n'.join(l).encode())), st.sampled_from(['p.txt', 'p.csv', 'p.tsv', 'p.json', 'p.jsonl', 'p.parquet', 'p.csv.gz', 'p']))
@examples(80)
def test_contents_of_files(light, tmp_path_factory, content, name):
    d = tmp_path_factory.mktemp('o')
    (d/name).write_bytes(content)
    said(['gpt2', '--scale', 'smoke', '--out', str(d/'x'), '--prompts' if name in ('p.txt', 'p') else '--data', str(d/name)])

@given(st.sampled_from(['export', 'collect']), any_text, any_text)
@examples(30)
def test_export_and_collect(light, tmp_path_factory, command, a, b):
    d = tmp_path_factory.mktemp('o')
    a, b = a.replace('..', ''), b.replace('..', '')
    said([command, f'{d}/{a}', f'{d}/{b}', f'--policy={a}'] if command == 'export' else [command, f'{d}/{a}', f'--to={d}/{b}'])

@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts, lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(['settings', 'used', 'scale', 'prompts', 'methods', 'wants', 'x']), c, max_size=4), max_leaves=8))
@examples(40)
def test_a_folder_with_another_run_json(light, tmp_path_factory, content):
    d = tmp_path_factory.mktemp('o')
    for f in ('run.json', 'shared.json', 'times.json', 'results.json'): (d/f).write_text(json.dumps(content))
    said(['gpt2', '--scale', 'smoke', '--out', str(d)])
    said(['export', str(d), str(d/'to')])
    said(['collect', str(d), '--to', str(d/'t')])

# --- files

def good_files(d):
    from maxmin_nb.mixture import fit_mixture
    from maxmin_nb.preferences import Comparisons
    rng = np.random.default_rng(0)
    Comparisons(['a', 'b', 'a'], ['p', 'p', 'q'], ['x', 'y', 'x'], ['z', 'x', 'y']).save(d/'c.parquet')
    fit_mixture(rng.normal(size=(12, 2)), list('abcdef')*2, 2, restarts=1).save(d/'m.safetensors')
    write_json(d/'j.json', dict(a=1, b=[1.5, None]))
    (d/'c.csv').write_text('user,prompt,chosen,rejected\na,p,x,y\n'); (d/'c.jsonl').write_text('{"user": "a", "prompt": "p", "chosen": "x", "rejected": "y"}\n')
    (d/'h.json').write_text(json.dumps([dict(chosen='\n\nHuman: a\n\nAssistant: b', rejected='\n\nHuman: a\n\nAssistant: c')]))

def readers():
    from maxmin_nb.mixture import RewardMixture
    from maxmin_nb.policy import load_rollout
    from maxmin_nb.preferences import Comparisons
    from maxmin_nb.reward_models import load_heads
    from maxmin_nb.text import load_preferences
    return {'c.parquet': [Comparisons.load, read_table, load_preferences], 'm.safetensors': [RewardMixture.load, load_arrays, load_heads, load_rollout], 'j.json': [read_json], 'c.csv': [Comparisons.load, load_preferences], 'c.jsonl': [Comparisons.load, load_preferences],
            'h.json': [lambda p: load_preferences({'a': p}, adapter='hh'), lambda p: load_preferences({'a': p}, adapter='soups'), lambda p: load_preferences({'a': p}, adapter='prism')]}

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    d = tmp_path_factory.mktemp('good')
    good_files(d)
    return {n: (d/n).read_bytes() for n in readers()}

@st.composite
def mutated(draw, whole):
    "The bytes with some cut, changed, doubled or put in."
    b = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, max(len(b) - 1, 0)))
        how = draw(st.sampled_from(['flip', 'cut', 'insert', 'repeat']))
        if how == 'flip' and b: b[i] ^= 1 << draw(st.integers(0, 7))
        if how == 'cut': del b[i:i + draw(st.integers(1, 40))]
        if how == 'insert': b[i:i] = draw(st.binary(max_size=8))
        if how == 'repeat': b[i:i] = b[i:i + 30]
    return bytes(b)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['c.parquet', 'm.safetensors', 'j.json', 'c.csv', 'c.jsonl', 'h.json'])
@given(st.data())
@examples(30)
def test_damaged_files(good, tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp('f')/name
    path.write_bytes(data.draw(st.one_of(mutated(good[name]), st.binary(max_size=60))))
    for read in readers()[name]:
        try: read(path)
        except Exception as e: builtin(e)

rows = st.fixed_dictionaries({}, optional={k: st.one_of(any_text, st.none(), st.integers(-2, 2), st.floats(), st.lists(texts, max_size=2), st.booleans()) for k in ('user', 'prompt', 'chosen', 'rejected', 'weight', 'tie', 'rank', 'response', 'ranking', 'user_input', 'completion_a', 'completion_b')})

@pytest.mark.filterwarnings('ignore')
@given(st.lists(rows, max_size=4), st.sampled_from([None, 'soups', 'prism', 'prism-scores', 'hh']), st.sampled_from([None, 'half', 'drop']))
@examples(120)
def test_tables_of_anything(table, adapter, ties):
    from maxmin_nb.preferences import Comparisons
    from maxmin_nb.text import load_preferences
    for load in (lambda d: load_preferences(d if adapter is None else {'a': d}, adapter=adapter, ties=ties), Comparisons.from_frame):
        try: load(pd.DataFrame(table, dtype=object))
        except Exception as e: builtin(e)

# --- functions

JUNK = [None, 'text', '', [], [[]], {}, np.nan, np.inf, -np.inf, 0, -1, 1e308, 10**30, True, [1, 'a'], [[1, 2], [3]], np.zeros((0, 3)), np.full(3, np.nan), np.full((2, 3), np.inf), np.zeros((2, 2, 2, 2)), np.array(['a', 'b']), np.array([1 + 2j]), np.array([None, 1]), object(), [0.5, 0.5], -np.ones(3), np.ones((3, 1)), [1e308, -1e308]]

def calls():
    "Public functions with arguments that are right."
    from maxmin_nb import dro, evaluation, general_utility, impossibility, judges, maxmin, mixture, preferences, rlhf, welfare
    rng = np.random.default_rng(0)
    ref, r, x, users = rng.dirichlet(np.ones(4), 2), rng.normal(size=(2, 2, 4)), rng.normal(size=(20, 2)), ['a', 'b', 'c', 'd']*5
    mdp = general_utility.MDP(rng.dirichlet(np.ones(3), (3, 2)), [1, 0, 0], .5)
    R, pi, E = rng.normal(size=(2, 3, 2)), np.full((3, 2), .5), welfare.Egalitarian()
    mix = mixture.fit_mixture(x, users, 2, restarts=1)
    p = [.2, .8]
    return [(maxmin.solve_maxmin, ref, r, .3), (maxmin.solve_minmax_regret, ref, r, .3), (maxmin.frontier, ref, r, [.1, 1.]), (maxmin.resample, rng, ref),
            (mixture.fit_mixture, x, users, 2), (mixture.match_groups, [0, 1], [1, 0]), (mixture.item_differences, list('ab'), list('ba')), (mixture.choose_groups, x, users, [1]), (mix.predict_proba, x, users), (mix.user_log_likelihood, x, users),
            (rlhf.fit_bradley_terry, x), (preferences.mix, [.5, .5], [p, p]), (preferences.tv_distance, p, p), (preferences.diversity, [p, p]), (preferences.chernoff_information, p, p), (preferences.comparisons_needed, .1), (preferences.annotate, rng, np.ones((2, 4)), [[0, 1], [2, 3]], [0, 1], 1), (preferences.Comparisons, ['a'], ['p'], ['x'], ['y']),
            *[(getattr(W, m), [.1, .2]) for W in (E, welfare.CVaR(.5), welfare.SoftMin(1.), welfare.Nash(), dro.KLBall(.1), dro.ChiSquareBall(.1)) for m in ('value', 'weights', 'conjugate')], (welfare.CVaR, .5, [.5, .5]), (welfare.SoftMin, 1., [.5, .5]), (welfare.Nash, [.5, .5], 0., .05), (welfare.Utilitarian, [.5, .5]), (dro.KLBall, .1, [.5, .5]),
            (welfare.exponentiated, [.5, .5], [0., 1.], 1.), (welfare.relative, r, ref), (welfare.regret, [0., 1.], [1., 1.]), (dro.certificate, ref, [.5, .5], ref, r, .3), (dro.constants, ref, r, .3), (partial(dro.play, steps=2, weigh=dro.jump()), ref, r, .3),
            (general_utility.MDP, mdp.P, mdp.start, .5), (general_utility.occupancy, mdp, pi), (general_utility.solve_lp, mdp, R, E), (general_utility.solve_cuts, mdp, R, E), (partial(general_utility.policy_gradient, steps=3), mdp, R, E), (general_utility.pareto_front, mdp, R),
            (impossibility.gap_bounds, ref, r, [.5, .5], .3), (impossibility.pooled_reward, [.5, .5], r), (evaluation.bootstrap, [1., 2.]), (evaluation.wins, [1., 2.], [2., 1.]), (judges.kappa, [1., 0., 1.], [1., 0., 0.]), (judges.gold, ['a text'], 'P1A')]

@pytest.fixture(scope='module')
def functions(): return calls()

numbers = st.one_of(st.floats(), st.integers(-3, 10**20), st.lists(st.floats(), max_size=5), st.lists(st.lists(st.floats(-2, 2), min_size=2, max_size=2), max_size=3),
                    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).map(np.ones), st.sampled_from(JUNK))

@pytest.mark.filterwarnings('ignore')
@given(st.data())
@examples(400)
def test_functions_of_anything(functions, data):
    "Arguments of a wrong kind raise what Python raises for them; wrong numbers raise ValueError. Nothing runs off an end, divides by zero or overflows."
    f, *args = functions[data.draw(st.integers(0, len(functions) - 1), 'function')]
    args[data.draw(st.integers(0, len(args) - 1), 'argument')] = data.draw(numbers)
    try: f(*args)
    except (ValueError, TypeError, AttributeError) as e: assert str(e)
    except RuntimeError as e: assert 'gap' in str(e) or 'linear programme' in str(e) or 'converge' in str(e), e
