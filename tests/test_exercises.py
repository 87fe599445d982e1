"The exercises: solutions pass every check, wrong answers are told what is wrong, empty notebooks pass nothing, student versions come from the solutions."
import ast, contextlib, io, json, re, subprocess, sys, warnings
from functools import cache
from pathlib import Path
import matplotlib, numpy as np, pytest
from maxmin_nb import exercises as ex
from maxmin_nb.exercises import NotYet, check, given, student

matplotlib.use('Agg')
ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS, EXERCISES = ROOT/'nbs/solutions', ROOT/'nbs/exercises'
NAMES = sorted(p.name for p in SOLUTIONS.glob('*.ipynb'))
books = pytest.mark.parametrize('name', NAMES)


def read(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def mark(cell): return cell['metadata'].get('nbgrader', {})
def code(path): return [c for c in read(path) if c['cell_type'] == 'code']
def asked(text): return re.findall(r"check\('([\d.]+)'", text)

def run(cells, name=''):
    "Execute code cells in one fresh namespace as the student `name`: (namespace, for each cell its output or exception)."
    space, done = {'__name__': '__main__'}, []
    for c in cells:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: exec(compile(source(c).replace("student('')", f'student({name!r})'), '<cell>', 'exec'), space); done.append(out.getvalue())
            except Exception as e: done.append(e)
    return space, done

@cache
def solved(name): return run(code(SOLUTIONS/name))


@books
def test_solutions_pass(name):
    "Every cell of a solution notebook runs, and every check in it says 'right'."
    for c, out in zip(code(SOLUTIONS/name), solved(name)[1]):
        assert isinstance(out, str), f'{source(c)[:80]!r}: {out!r}'
        for i in asked(source(c)): assert f'{i}: right.' in out


@books
def test_for_everybody(name):
    "The solutions are right for other students' numbers too."
    if name[:2] in ('09', '11', '14'): others = ['Ada']
    else: others = ['Ada', 'Émile Borel'] if name.startswith('03') else ['Ada', 'Émile Borel', 'x', 'Grace Hopper']
    cells = [c for c in code(SOLUTIONS/name) if not mark(c).get('grade_id', '').startswith('work')]
    if name.startswith('11'): cells = [c for c in cells if not {'11.6'} & set(asked(source(c))) and 'tiny_model' not in source(c) and 'fresh(' not in source(c)]
    for who in others:
        for c, out in zip(cells, run(cells, who)[1]): assert isinstance(out, str), f'{who}: {source(c)[:80]!r}: {out!r}'


@books
def test_empty_passes_nothing(name):
    "In a student version nothing is right yet: every check refuses or cannot begin, and every cell at least parses."
    cells = [c for c in code(EXERCISES/name) if 'import' not in source(c) or 'student(' in source(c) or mark(c)]
    for c in cells: ast.parse(source(c))
    for c, out in zip(cells, run(cells)[1]):
        if asked(source(c)): assert isinstance(out, (NotYet, NameError)), f'{source(c)[:60]!r} gave {out!r}'
        if isinstance(out, NotYet): assert 'could not use' not in str(out) or 'NotImplemented' not in str(out)


def test_student_versions_agree():
    done = subprocess.run([sys.executable, ROOT/'.ci/exercises.py', '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@books
def test_form(name):
    "Hints folded, stars, valid nbgrader metadata, one check for each exercise, an open one with a rubric at the end; no widget, nothing given away."
    full, empty = read(SOLUTIONS/name), read(EXERCISES/name)
    ids, points = [mark(c)['grade_id'] for c in full if mark(c)], 0
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r'[\w-]+', i) for i in ids)
    for c in (c for c in full if mark(c)):
        m = mark(c)
        assert m['schema_version'] == 3 and m['task'] is False and {type(m[k]) for k in ('grade', 'solution', 'locked')} == {bool}
        assert ('points' in m) == m['grade'] and (not m['grade'] or m['points'] > 0)
        assert m['solution'] or m['grade'], 'neither solved nor graded'
        if c['cell_type'] == 'code' and m['grade']: assert m['locked'] and not m['solution'] and asked(source(c))
        if c['cell_type'] == 'code' and m['solution']: assert '### BEGIN SOLUTION' in source(c) and not m['locked']
        points += m.get('points', 0)
    heads = [source(c) for c in full if c['cell_type'] == 'markdown' and source(c).startswith('## ')]
    checks = [i for c in full if c['cell_type'] == 'code' for i in asked(source(c))]
    assert 4 <= len(heads) <= 6 and [re.match(r'## (\d\d\.\d) ', h)[1] for h in heads] == checks
    for h in heads: assert '★' in h.splitlines()[0] and '<details><summary>Hint</summary>\n\n' in h and h.endswith('</details>')
    stars = [h.splitlines()[0].count('★') for h in heads]
    assert stars[-1] == 3 == max(stars) and min(stars) == 1 and points >= 8
    assert ids[-1] == f"words-{checks[-1].replace('.', '-')}" and any('| points | for |' in source(c) for c in full)
    text = ''.join(source(c) for c in empty)
    assert 'BEGIN SOLUTION' not in text and not [c for c in empty if c.get('outputs')]
    assert not re.search(r'ipywidgets|interact\(|maxmin_nb\.widgets', ''.join(source(c) for c in full))


def test_no_answer_in_a_message():
    "Messages are written, not computed from the right answer: none says what the number would be."
    tree = ast.parse((ROOT/'maxmin_nb/exercises.py').read_text(encoding='utf-8'))
    wants = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, 'id', '') == '_want']
    assert len(wants) > 150
    for n in wants: assert 'true' not in {m.id for m in ast.walk(n.args[1]) if isinstance(m, ast.Name)}, ast.unparse(n)

def numbers(x):
    "Numbers of an answer, if it consists of numbers."
    if isinstance(x, dict): x = list(x.values())
    try: return set(np.ravel(np.asarray(x, float)).tolist())
    except (TypeError, ValueError): return set()


# Exercises whose answer is a number or a few, and only these.
ONE_ANSWER = {'00.5', '01.2', '02.1', '02.5', '03.3', '04.1', '05.1', '06.1', '06.4', '14.1', '14.2'}

def logit(p): return np.log(p/(1 - p))
def softmax(a): return np.exp(a)/np.exp(a).sum(1, keepdims=True)

# For each exercise usual errors, as functions of the solution's namespace, and a word of the sentence that each must be told.
WRONG = {
    '00.1': [(lambda s: lambda a, b: a*b, 'multiplied'), (lambda s: lambda a, b: (a + b)/2, 'averaged'), (lambda s: .94, 'callable')],
    '00.2': [(lambda s: s['r'] + 1, 'same shift'), (lambda s: 3*given('00.2'), 'away|unit'), (lambda s: given('00.2') + [[1., 2, 3, 4]], 'another probability')],
    '00.3': [(lambda s: ([.5, .3, .2], [[.9], [.1], [.5]]), 'where the others balance'), (lambda s: ([.3, .3, .4], [[.6], [.4], [.5]]), 'diversity'), (lambda s: ([.2, .2, .6], [[.9], [.1], [.5]]), 'so large')],
    '00.4': [(lambda s: lambda p, q: np.mean([ex.chernoff_information([a], [b])[0] for a, b in zip(p, q)]), 'inside the logarithm'),
             (lambda s: lambda p, q: -s['chernoff'](p, q), 'minus sign'), (lambda s: lambda p, q: 0., 'maximise')],
    '00.5': [(lambda s: -s['s'], 'sign'), (lambda s: 1.2*s['s'], 'falls'), (lambda s: .5*s['s'], 'rises')],
    '00.6': [(lambda s: np.zeros((3, 3)), 'one half'), (lambda s: [[2, 1, 0]]*3, 'one half'), (lambda s: np.zeros(3), 'shape')],
    '01.1': [(lambda s: lambda ref, r, b: s['best'](ref, r, 1/b), 'multiplied'), (lambda s: lambda ref, r, b: s['best'](np.where(ref > 0, 1., 0), r, b), 'equal reward'),
             (lambda s: lambda ref, r, b: ref*np.exp(r/b)/(ref*np.exp(r/b)).sum(), 'overflows'), (lambda s: lambda ref, r, b: ref*np.exp(r), 'sum to 1')],
    '01.2': [(lambda s: s['eta']*logit(s['p1']) + (1 - s['eta'])*logit(s['p2']), 'averaged the groups'), (lambda s: s['p'], 'the probability'), (lambda s: 0, 'frequency')],
    '01.3': [(lambda s: ([.7, .3], [[1, 0], [0, 1]]), 'no contradiction'), (lambda s: ([.3, .7], [[1, 0], [0, 1]]), 'does not prefer')],
    '01.4': [(lambda s: lambda pi, ref, r, b: b*s['kl'](s['gibbs'](ref, r, b), pi), 'other way round'), (lambda s: lambda pi, ref, r, b: b*s['kl'](pi, ref), 'from the best'), (lambda s: lambda pi, ref, r, b: s['kl'](pi, s['gibbs'](ref, r, b)), 'units')],
    '01.5': [(lambda s: lambda ref, r, k: 1., 'KL falls'), (lambda s: lambda ref, r, k: s['beta_for'](ref, r, min(k, -.99*np.log(ref[0, r[0].argmax()]))), 'return 0|KL falls')],
    '01.6': [(lambda s: ([.5, .5], [[1, -1, -1], [-1, 1, -1]]), 'who should want what'), (lambda s: ([.9, .1], [[9, 0, 0], [0, 9, 0]]), 'between')],
    '02.1': [(lambda s: s['distances'][::-1], 'exchanged'), (lambda s: s['distances'].sum()*np.ones(2), 'between the groups'), (lambda s: s['distances']/2, 'add up')],
    '02.2': [(lambda s: (0, s['g']), 'steep part'), (lambda s: (.6*s['g'], -.4*s['g']), 'steepest'), (lambda s: (1, 1), 'apart')],
    '02.3': [(lambda s: s['p'][0], 'worse of the two'), (lambda s: ex.mix([.9, .1], s['p']), 'worse of the two')],
    '02.4': [(lambda s: (s['ref'], s['ref'], s['r']/20, 1.), 'times Pinsker'), (lambda s: (s['gibbs'](s['ref'], s['r'][0], .2), s['ref'], s['r'], .2), 'must differ')],
    '02.5': [(lambda s: ('falls', s['ratio']), 'in proportion'), (lambda s: ('flattens', 1.), 'ratio is not')],
    '02.6': [(lambda s: (np.ones((1, 2))/2, [[3, 0]], [[0, 3]], 1.), 'agree'), (lambda s: (np.ones((1, 3))/3, [[0, 0, 9]], [[0, 3, 9]], 1.), 'disagree')],
    '03.1': [(lambda s: lambda k, m, t, e: s['sigmoid'](t*(2*k - m)), 'share of the group'), (lambda s: lambda k, m, t, e: s['sigmoid'](logit(e) + t*(k - m/2)), '2t'),
             (lambda s: lambda k, m, t, e: (a := e*s['sigmoid'](t)**k*s['sigmoid'](-t)**(m - k))/(a + (1 - e)*s['sigmoid'](-t)**k*s['sigmoid'](t)**(m - k)), 'underflow')],
    '03.2': [(lambda s: lambda ll, w: softmax(ll), 'weights of the groups'), (lambda s: lambda ll, w: np.exp(ll)*w/(np.exp(ll)*w).sum(1, keepdims=True), 'zero in floating point')],
    '03.3': [(lambda s: np.log(s['a'].sum()/s['b'].sum()), 'fully'), (lambda s: -s['phi'], 'sign'), (lambda s: 0., 'slope')],
    '03.4': [(lambda s: (([.5, .5], [3, -3]), ([.5, .5], [-3, 3])), 'alike'), (lambda s: (([.5, .5], [3, -3]), ([.5, .5], [1, 0])), 'tells them apart')],
    '03.5': [(lambda s: lambda t, m: t, 'larger than t'), (lambda s: lambda t, m: 1.1*t, 'mean share')],
    '03.6': [(lambda s: s['fit_mixture'](s['g']['diff'], s['g']['users'], 1), 'One reward for everybody'), (lambda s: 2, 'fit_mixture')],
    '04.1': [(lambda s: s['rules'] | dict(utilitarian=s['F'].mean()), 'over groups'), (lambda s: s['rules'] | dict(cvar=s['F'].min()), '60 %'), (lambda s: s['rules'] | dict(egalitarian=0), 'worst-off group')],
    '04.2': [(lambda s: [.5, .5, 0], 'library'), (lambda s: [1, 1, 1], 'third'), (lambda s: [.3, .1, 0], 'sum to 1'), (lambda s: [1.5, -.5, 0], 'negative')],
    '04.3': [(lambda s: lambda F, t, e: s['softmin'](F, t, np.ones(len(F))), 'shares are missing'), (lambda s: lambda F, t, e: -t*np.log(e@np.exp(-F/t)), 'overflows'), (lambda s: lambda F, t, e: -s['softmin'](-F, t, e), 'rise with')],
    '04.4': [(lambda s: ([.5, .5], [[1, 0], [0, 1]]), 'take turns'), (lambda s: ([.5, .5], [[3, -3], [-3, 3]]), 'between -1 and 1')],
    '04.5': [(lambda s: lambda a, b: a/(a + b), 'louder'), (lambda s: lambda a, b: .5, 'not equally well off')],
    '04.6': [(lambda s: s['Egalitarian'](), 'in the library'), (lambda s: type('Mine', (ex.Utilitarian,), {})(), 'favour'), (lambda s: type('Max', (ex.Welfare,), dict(value=lambda o, F: F.max(-1), weights=lambda o, F: (F == F.max(-1, keepdims=True))*1.))(), 'supergradient|concave')],
    '05.1': [(lambda s: ((1 + s['c'])/2, s['w']), 'wrong way'), (lambda s: (s['p'], (1 + logit(s['p']))/2), 'β = 1'), (lambda s: (.5, .5), 'equal')],
    '05.2': [(lambda s: lambda w, ref, r, b: s['G'](w, ref, r, b)/b, 'missing'), (lambda s: lambda w, ref, r, b: b*np.log((ref*np.exp(np.tensordot(w, r, 1)/b)).sum(-1).mean()), 'outside'),
             (lambda s: lambda w, ref, r, b: b*np.log((ref*np.exp(np.tensordot(w, r, 1)/b)).sum(-1)).mean(), 'logsumexp')],
    '05.3': [(lambda s: lambda pi, w, ref, r, b: s['G'](w, ref, r, b) - s['utility'](pi, ref, r, b)@w, 'certifies nothing|worst-off'), (lambda s: lambda pi, w, ref, r, b: 9., 'must be 0'), (lambda s: lambda pi, w, ref, r, b: 0., 'certifies nothing')],
    '05.4': [(lambda s: (np.full((2, 2), .5), np.zeros((2, 2, 2)), 1.), 'other prompt'), (lambda s: (np.full((2, 2), .5), 99*np.ones((2, 2, 2)), 1.), 'between')],
    '05.5': [(lambda s: lambda ref, r, b: -s['slope'](ref, r, b), 'cannot raise'), (lambda s: lambda ref, r, b: b*s['slope'](ref, r, b), 'no β remains'), (lambda s: lambda ref, r, b: -float(s['kl'](ref, s['solve_maxmin'](ref, r, b).policy)), 'other way round')],
    '05.6': [(lambda s: s['r'][0], 'truth'), (lambda s: 3*s['r'][0], 'Whom does MaxMin help')],
    '06.1': [(lambda s: s['eta'], 'worst-off groups first'), (lambda s: [1, 0, 0, 0], 'not in the set'), (lambda s: 2*s['eta'], 'sum to 1')],
    '06.2': [(lambda s: lambda F, e, k: s['worst_population'](-F, e, k), 'reversed'), (lambda s: lambda F, e, k: s['worst_population'](F, e, k/2), 'used up'), (lambda s: lambda F, e, k: s['worst_population'](F, e, 1.2*k), 'outside')],
    '06.3': [(lambda s: 'settles', 'Run it'), (lambda s: 'swings, average reaches V', 'Run it'), (lambda s: 'yes', 'one of')],
    '06.4': [(lambda s: s['T']//2, 'not yet'), (lambda s: s['T'] + 1, 'step fewer'), (lambda s: s['T'] - .5, 'whole')],
    '06.5': [(lambda s: lambda ref, r, b, T: s['gibbs'](ref, r[0], b), 'Neither is certified'), (lambda s: lambda ref, r, b, T: s['play'](ref, r, b, T, ex.eg(1.)).policies[-1], 'Neither is certified')],
    '06.6': [(lambda s: lambda U, n: 0., 'How does the needed radius'), (lambda s: lambda U, n: 1., 'more caution'), (lambda s: lambda U, n: s['radius'](2, n), 'How does the needed radius')],
    '07.1': [(lambda s: lambda g, p: 1/(1 - g*(1 - p)), 'number of visits'), (lambda s: lambda g, p: 1/p, 'without discount|share'), (lambda s: lambda g, p: 1 - g, 'flow equation')],
    '07.2': [(lambda s: lambda d: d/d.sum(0), 'sums over states'), (lambda s: lambda d: d/d.sum(1, keepdims=True), 'never visited'), (lambda s: lambda d: np.full(d.shape, 1/d.shape[1]), 'another occupancy')],
    '07.3': [(lambda s: (np.full((3, 2), .5),)*2, 'no counterexample')],
    '07.4': [(lambda s: lambda m, r: s['solve_lp'](m, r, s['Egalitarian']()).value, 'more than any'), (lambda s: lambda m, r: 9., 'No policy at all'), (lambda s: lambda m, r: 0., 'try all')],
    '07.5': [(lambda s: lambda m, r, W, t: s['gradient'](m, r, ex.Utilitarian(), t), 'differs'), (lambda s: lambda m, r, W, t: np.ones((3, 2)), 'sum to zero')],
    '07.6': [(lambda s: (dict(n=5, depot=(4, 2), houses=((4, 1), (0, 4)), slip=0.), [.8, .2]), 'quarter'), (lambda s: (dict(m=5), [.5, .5]), 'arguments')],
    '09.1': [(lambda s: lambda L, S, e: 1 - S/L, 'Sampling still'), (lambda s: lambda L, S, e: (2*L + 3*e*(L - S))/(L*(2 + 3*e)), 'reference starts'), (lambda s: lambda L, S, e: (L + (L - S)*(1 + e))/(L*(2 + e)), 'twice')],
    '09.2': [(lambda s: lambda z, y, t: s['log_probability'](z, y, 1.), 'missing'), (lambda s: lambda z, y, t: s['log_probability'](z, y, 1.)/t, 'normalised'), (lambda s: lambda z, y, t: s['log_probability'](z, y, t)/len(y), 'not the mean'), (lambda s: lambda z, y, t: s['log_probability'](z, y, 1/t), 'sharpen'),
             (lambda s: lambda z, y, t: np.log((np.exp(z/t)/np.exp(z/t).sum(1, keepdims=True))[range(len(y)), y]).sum(), 'overflow')],
    '09.3': [(lambda s: lambda p, u: np.searchsorted(np.cumsum(p), u), 'u = 0'), (lambda s: lambda p, u: np.searchsorted(np.cumsum(p), u, side='right'), 'range|sums to less'), (lambda s: lambda p, u: 1, 'frequencies|sums to less')],
    '09.4': [(lambda s: lambda x, q: (x - x.mean())/x.std(), 'all responses'), (lambda s: lambda x, q: x - x.mean(), 'another unit'), (lambda s: lambda x, q: x, 'must be 0')],
    '09.5': [(lambda s: ([1, 1], [2, 2]), 'mean score'), (lambda s: ([1, 1], [.5, .5]), 'sum must'), (lambda s: ([3., -1], [.5]*8), 'positive')],
    '09.6': [(lambda s: lambda n, i=0: .5, 'only'), (lambda s: lambda n, i=0: .95, 'rise with')],
    '11.1': [(lambda s: lambda r, v, l: r - v, 'next step'), (lambda s: lambda r, v, l: r + np.append(v[1:], v[-1]) - v, 'V = 0'), (lambda s: lambda r, v, l: s['advantages'](r, v, float(l > 0)), 'recursion')],
    '11.2': [(lambda s: {k: True for k in s['has_gradient']}, 'when is it the unclipped'), (lambda s: s['has_gradient'] | {(1.1, 1): False}, 'nothing is clipped'), (lambda s: {}, 'keys')],
    '11.3': [(lambda s: lambda p, q: p - q, 'k1'), (lambda s: lambda p, q: np.exp(p - q) - 1 - (p - q), 'mean'), (lambda s: lambda p, q: np.exp(q - p) - 1 - (p - q), 'negative|mean')],
    '11.4': [(lambda s: s['unchanged'] | {'reward x 10': True}, 'Write down'), (lambda s: s['unchanged'] | {'reward + the length': True}, 'Write down')],
    '11.5': [(lambda s: ([[.5, .5]], [[[1, 0]], [[0, 1]]], .02), 'lose .3'), (lambda s: ([[.5, .5]], [[[3, 0]], [[0, 3]]], .02), 'between')],
    '11.6': [(lambda s: {'a': s['logs']['β = 3'], 'b': s['logs']['β = 3']}, 'the same'), (lambda s: {'a': []}, 'two runs')],
    '14.1': [(lambda s: {k: (s['scores'][k] - s['scores']['reference']).min(0).mean() for k in s['worst_off']}, 'each prompt'), (lambda s: {k: s['scores'][k].mean(1).min() for k in s['worst_off']}, 'from the reference'), (lambda s: {k: (s['scores'][k] - s['scores']['reference']).mean() for k in s['worst_off']}, 'mean over groups')],
    '14.2': [(lambda s: s['a'].mean() - s['b'].mean() + np.array([-.7, .7]), 'separately'), (lambda s: (5, 6), 'does not hold'), (lambda s: (s['a'] - s['b']).mean() + np.array([-.01, .01]), 'as wide')],
    '14.3': [(lambda s: lambda w: 2*s['swing'](w), 'between 0 and 1|arrives'), (lambda s: lambda w: 0., 'changes hands')],
    '14.4': [(lambda s: lambda k, u, x: np.interp(x, k, u), 'last value'), (lambda s: lambda k, u, x: u[-1], 'was measured')],
    '14.5': [(lambda s: s['studies'][:1], 'seed'), (lambda s: [s['replace'](x, methods=('single',)) for x in s['studies']], 'both methods'), (lambda s: [x for x in s['studies'] if x.scale.ratio == 2], 'Nothing varies'),
             (lambda s: [s['replace'](x, angle=10*x.scale.ratio) for x in s['studies']], 'at once'), (lambda s: s['studies'][:-1], 'same seeds')]}


def test_every_exercise_has_wrong_answers():
    assert set(WRONG) == set(ex._CHECK) == {i for n in NAMES for c in code(SOLUTIONS/n) for i in asked(source(c))}


@pytest.mark.parametrize('exercise', sorted(WRONG))
def test_wrong_answers_are_named(exercise):
    "Each usual error is refused with the sentence that names it; so is no answer at all."
    name, = (n for n in NAMES if n.startswith(exercise[:2]))
    space, _ = solved(name)
    student('')
    space = space | at_exercise(name, exercise)
    call = next(n for c in code(SOLUTIONS/name) for n in ast.walk(ast.parse(source(c))) if isinstance(n, ast.Call) and ast.unparse(n).startswith(f"check('{exercise}'"))
    answer = eval(ast.unparse(call.args[1]), space)
    for make, word in WRONG[exercise]:
        with pytest.raises(NotYet) as e: check(exercise, make(space))
        assert re.search(word, str(e.value)), str(e.value)
        assert str(e.value).startswith(exercise)
        told = {float(t) for t in re.findall(r'-?\d*\.\d{2,}', str(e.value).removeprefix(exercise))}
        if exercise in ONE_ANSWER: assert not [t for t in told for a in numbers(answer) if abs(t - a) < .006], f'the answer is in {e.value}'
    for nothing in (None, ..., 'I do not know', [[[[]]]]):
        with pytest.raises(NotYet): check(exercise, nothing)

@cache
def at_exercise(name, exercise):
    "The namespace as it was when the exercise was solved: later ones use the same short names."
    cells = code(SOLUTIONS/name)
    last = next(i for i, c in enumerate(cells) if exercise in asked(source(c)))
    if name.startswith('11') and exercise != '11.6': cells = [c if 'tiny_model' not in source(c) else {'source': ''} for c in cells]
    if exercise in ('11.6', '03.6'): return {}
    return run([c for c in cells[:last] if '03-6' not in mark(c).get('grade_id', '')])[0]


def test_numbers_of_ones_own():
    "The same name gives the same data at every call and in every process; another name other data."
    flat = lambda x: json.dumps(x, default=lambda o: getattr(o, 'tolist', lambda: str(vars(o)))())
    try:
        for i in ex._GIVEN:
            student('Ada'); one, again = flat(given(i)), flat(given(i))
            student('ada '); same = flat(given(i))
            student('Grace'); other = flat(given(i))
            assert one == again == same != other, i
        student('Ada')
        code = "from maxmin_nb.exercises import *; student('Ada'); print(given('00.2').tolist())"
        assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == str(given('00.2').tolist())
    finally: student('')


def test_bad_input():
    with pytest.raises(KeyError, match='99.9'): check('99.9', 1)
    with pytest.raises(KeyError, match='no data'): given('00.1')
    with pytest.raises(TypeError, match='name is 3'): student(3)
    e = NotYet('It is too large.')
    assert isinstance(e, AssertionError) and e._render_traceback_() == ['Not yet. It is too large.']


@pytest.mark.slow
@books
def test_solutions_in_a_kernel(name, finished):
    "As a reader runs them: in a fresh kernel, in their own folder, at scale smoke."
    import test_notebooks
    test_notebooks.test_runs(SOLUTIONS/name, finished)
