"The large-scale study: its queue, its tables from what was really answered, its plan, its refusals, and every stage of it with a tiny model."
import json, os, subprocess, sys, zipfile
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from maxmin_nb.cli import main
from maxmin_nb.core import get_scale, read_json, write_json
from maxmin_nb.evaluation import wins
from maxmin_nb.gpt2 import KEY, check_settings
from maxmin_nb.judges import CRITERIA, gold
from maxmin_nb.maxmin import solve_maxmin
from maxmin_nb.text import tiny_model
from maxmin_nb.tulu2 import *
from maxmin_nb.tulu2 import _verdict

ROOT = Path(__file__).resolve().parent.parent
quiet = lambda *_: None


@pytest.fixture(scope='module')
def dry(tmp_path_factory):
    "Every stage, once."
    from maxmin_nb import core
    out, said = tmp_path_factory.mktemp('dry')/'run', []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(core, 'matmul_gflops', lambda: 100.)      # it is measured for every study, which takes a while
        tables = dry_run(out, said.append)
    return out, tables, said


def test_every_stage_ran(dry):
    out, tables, said = dry
    assert [s[:5] for s in said if s[:1] == '['] == [f'[{i}/5]' for i in range(1, 6)] and 'Every stage ran' in said[-1]
    runs = tables['runs']
    assert set(zip(runs.groups.map(lambda g: g[:2]), runs.ratio, runs.method)) == {(p, float(r), m) for p in PAIRS for r in (2, 10) for m in (('reference', 'resample') if r == 2 else ('reference', 'single', 'maxmin', 'resample'))}
    assert not runs[KEY].duplicated().any() and len(tables['steps']) == 6*2*1.5
    assert {p.name for p in (out/'figures').iterdir()} == {f'tulu2_{n}.{s}' for n in ('accuracy', 'wins') for s in ('png', 'svg')}
    assert (tables['judged'].agree.dropna() == 1).all() and (tables['judged'].bias == 0).all() and len(tables['judged']) == 4

def test_archive_choices_hide_the_group(dry):
    out, *_ = dry
    found = sorted((out/'soups').rglob('comparisons.parquet'))
    t, truth = pd.read_parquet(found[0]), read_json(found[0].parent/'truth.json')
    assert set(t.user) == set(truth) and set(truth.values()) == {0, 1} and not t.user.str.contains('P2').any()
    assert not t.prompt.str.contains('Generate').any()                                    # the sentence that names the persona is gone
    first = {u: g.iloc[0].chosen for u, g in t.groupby('user')}
    a, b = (gold(t.chosen, p) - gold(t.rejected, p) for p in PAIRS['P2'])
    group = t.user.map(truth)
    assert (a[group == 0] >= 0).all() and (b[group == 1] >= 0).all() and first

def test_tables_from_the_answers(dry):
    "The long tables agree with a slow count from the texts, formula by formula."
    _, tables, _ = dry
    w, texts = win_table(tables['texts']), tables['texts']
    for r in w.itertuples():
        t = texts[(texts.groups == ' / '.join(PAIRS[r.pair])) & (texts.ratio == r.ratio)]
        old, new = t[t.method == 'reference'], t[t.method == r.method].set_index('prompt').text
        slow = np.mean([wins(gold([new[q]], r.persona), gold([x], r.persona))[0] for q, x in zip(old.prompt, old.text)])
        assert np.isclose(r.mean, slow) and r.low <= r.mean <= r.high and len(r.by_seed) == 1
    a = reward_table(tables['runs'])
    assert set(a.reward) == {'single', 'em'} and a['mean'].between(0, 1).all() and len(a) == 3*2*2*2
    assert wide(a, 'reward').shape == (6, 4) and (wide(w, 'method') == '-').sum().sum() == 0
    b = beside_the_paper(tables)
    assert len(b) == 5 and b['verdict'].isin(['same direction', 'opposite direction', 'not decided']).all()
    assert list(worst_table(texts).columns) == ['pair', 'ratio', 'single', 'maxmin', 'mean', 'low', 'high'] and len(worst_table(texts)) == 3
    with pytest.raises(ValueError, match='no study has policies of both methods'): beside_the_paper(tables | dict(texts=texts[texts.method != 'maxmin']))
    half = texts[(texts.groups != 'P3A / P3B') | (texts.method != 'maxmin')]              # a queue that is not finished
    assert len(beside_the_paper(tables | dict(texts=half))) == 5 and len(worst_table(half)) == 2 and len(win_table(half)) == len(w) - 2
    o = opposition(texts, .1)
    assert (o.exact <= o.bound + 1e-6).all() and (o.exact >= -1e-6).all() and o.correlation.between(-1.001, 1.001).all()

def test_going_on_runs_nothing_again(dry):
    out, tables, _ = dry
    queue, said = tulu2_queue(tulu2_scale('smoke'), (0,), (10, 2)), []
    again = run_tulu2(queue, out/'elsewhere', out/'tulu2', said.append, lm=tiny_model())
    assert said == ['12 of 12 policies are in ' + str(out/'tulu2') + '_runs.parquet; 0 to do.'] and not (out/'elsewhere').exists() and len(again['runs']) == len(tables['runs'])

def test_parts_make_the_whole():
    q = tulu2_queue(tulu2_scale('laptop'))
    parts = [q[i-1::4] for i in range(1, 5)]
    assert sorted(map(id, sum(parts, []))) == sorted(map(id, q)) and {len(p) for p in parts} == {6}
    with pytest.raises(ValueError, match='part is 5/4'): run_tulu2(q, '.', 'x', quiet, lm=tiny_model(), part=(5, 4))

def test_the_queue_is_the_studys():
    q = tulu2_queue(tulu2_scale('laptop'))
    for s in q: check_settings(s)
    assert {(s.wants, s.scale.ratio, s.seed) for s in q} == {(p, r, k) for p in PAIRS.values() for r in RATIOS for k in (0, 1)}
    assert all(s.scale.n_annotators >= 30 and s.scale.n_reference >= 4 and s.scale.max_new_tokens == 48 for s in q)
    train, held = q[0].prompts
    assert len(train) + len(held) >= 300 and not set(train) & set(held)


# What can be had

@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 5), st.floats(.05, 2))
def test_bound_for_two_groups(seed, P, Y, beta):
    "Equation (1) bounds the exact optimum; for opposed rewards it is zero and the reference attains it."
    rng = np.random.default_rng(seed)
    ref = rng.dirichlet(np.ones(Y), P)
    r = rng.normal(size=(2, P, Y)); r -= (ref*r).sum(2).mean(1)[:, None, None]
    bound = beta*np.log((ref*np.exp(r.sum(0)/2/beta)).sum(1)).mean()
    assert solve_maxmin(ref, r, beta).value <= bound + 1e-6
    s = solve_maxmin(ref, np.stack([r[0], -r[0]]), beta)
    assert abs(s.value) < 1e-6 and bound >= -1e-12

def test_the_bound_is_not_for_utilities_that_are_not_relative():
    "Without the reference's mean taken off, opposed groups can both gain on the worse of their starting points."
    ref, r = np.array([[.9, .1]]), np.array([[1., -1.]])
    assert solve_maxmin(ref, np.stack([r, -r]), .1).value > (ref*np.stack([r, -r])).sum((1, 2)).min() + .1

@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30))
def test_win_rates_of_opposed_groups_sum_to_one(pairs):
    a, b = np.array(pairs, float).T
    assert np.allclose(wins(a, b) + wins(-a, -b), 1)


# Reward accuracy

@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 5))
def test_accuracy_of_opposed_groups_sums_to_one(seed, P, N):
    rng = np.random.default_rng(seed)
    score, g = rng.integers(-2, 3, (2, P, N)).astype(float)
    a, b = pair_accuracy(score, g), pair_accuracy(score, -g)
    ok = np.isfinite(a)
    assert np.allclose(a[ok] + b[ok], 1) and (np.isfinite(b) == ok).all()
    assert np.allclose(pair_accuracy(g, g)[ok], 1)
    assert np.array_equal(pair_accuracy(3*score + 7, g), a, equal_nan=True)

def test_who_is_served_by_the_wrong_reward_counts():
    z = np.random.default_rng(0).normal(size=(20, 4))
    acc = accuracies(z, np.stack([z, -z]), np.stack([z, -z]), [0, 0, 1, 1, 0], [0, 0, 0, 1, 1])
    assert np.isclose(np.mean(acc['accuracy_em_majority']), 2/3) and np.isclose(np.mean(acc['accuracy_em_minority']), 1/2)

def test_verdicts():
    assert _verdict(.1, .2) == 'same direction' and _verdict(-.2, -.1) == 'opposite direction' and _verdict(-.1, .1) == 'not decided' and _verdict(-.2, -.1, -1) == 'same direction'


# The planner

SIZES = st.builds(lambda d, L, f, k, V: Shape(64*d, L, 64*f, 64*min(k, d), V), st.integers(1, 64), st.integers(2, 80), st.integers(1, 128), st.integers(1, 64), st.integers(100, 100_000))
GROW = ('batch', 'minibatch', 'max_new_tokens', 'lora_r', 'n_prompts', 'n_responses')

@settings(max_examples=200)
@given(SIZES, st.sampled_from(list(DTYPES)), st.integers(0, 20), st.data())
def test_plan_is_additive_and_grows_with_every_size(shape, dtype, split, data):
    c = replace(get_scale('laptop'), split=min(split, shape.layers - 1))
    p = plan_memory(shape, c, dtype)
    assert p['peak'] == sum(p[k] for k in ('weights', 'merged', 'adapters', 'rollout')) + max(p['cache'] + p['logits'], p['activations'] + p['loss'])
    assert all(v >= 0 for v in p.values())
    name = data.draw(st.sampled_from(GROW))
    q = plan_memory(shape, replace(c, **{name: 2*getattr(c, name)}), dtype)
    assert all(q[k] >= p[k] for k in p) and any(q[k] > p[k] for k in p), name
    grown = data.draw(st.sampled_from(('d', 'layers', 'ff', 'kv', 'vocab')))
    q = plan_memory(replace(shape, **{grown: getattr(shape, grown) + 64}), replace(c, split=0), dtype)
    assert q['peak'] >= plan_memory(shape, replace(c, split=0), dtype)['peak']
    assert plan_memory(shape, replace(c, split=0), dtype)['peak'] >= p['peak']

def test_half_the_bytes_for_weights():
    a, b = (plan_memory(SHAPES['smollm2-135m'], tulu2_scale('laptop'), d) for d in ('float32', 'bfloat16'))
    assert a['weights'] == 2*b['weights'] and a['cache'] == 2*b['cache'] and a['adapters'] == b['adapters'] and a['host'] == b['host']

def test_shapes_are_the_models():
    lm = tiny_model()
    assert shape_of(lm.model.config) == SHAPES['tiny-llama'] and SHAPES['tiny-llama'].params == lm.model.num_parameters()
    assert SHAPES['smollm2-135m'].params == 134_515_008 and SHAPES[TULU2].params == 6_738_415_616       # as their makers state them

def test_time_and_calls_add_up():
    q = tulu2_queue(tulu2_scale('laptop'))
    assert judge_calls(q) == 36*4*112 == judge_calls(q[:10]) + judge_calls(q[10:])
    c, shape = tulu2_scale('laptop'), SHAPES['smollm2-135m']
    a, b = plan_step(shape, c, 1e11, 2e10), plan_step(shape, replace(c, epochs=2*c.epochs), 1e11, 2e10)
    assert b['update'] == 2*a['update'] and b['sample'] == a['sample']
    assert plan_step(shape, c, 1e11, 2e10)['sample'] >= plan_step(shape, c, 2e11, 4e10)['sample']*1.99

def test_plan_was_checked():
    path = ROOT/'nbs/results/bench/plan_check.json'
    if not path.is_file(): pytest.skip('not measured here')
    assert all(abs(m['ratio'] - 1) < .15 for m in read_json(path)['models'])


# The command

def test_plan_loads_nothing(monkeypatch, capsys):
    from maxmin_nb import tulu2
    monkeypatch.setattr(tulu2, 'load_model', lambda *a, **k: pytest.fail('a model was loaded'))
    assert main(['tulu2', '--plan', '--scale', 'laptop', '--tflops', '.1']) == 0
    assert main(['tulu2', '--plan', '--scale', 'paper', '--gpus', '8']) == 0
    out = capsys.readouterr().out
    for word in ('weights', 'adapters', 'peak', 'judge: at most 16128 calls', 'on 8 GPUs', TULU2): assert word in out

BAD = [(['--scale', 'paper'], 'needs a GPU and there is none here'), (['--pairs', 'P7'], "there is no pair 'P7'"), (['--part', '3'], "--part is '3'"), (['--part', '3/2'], 'part is 3/2'), (['--seeds', 'x'], "--seeds is 'x'"),
       (['--judge-url', 'https://example.org/v1'], 'belong together'), (['--judge-url', 'https://example.org/v1', '--judge-model', 'm'], 'MAXMIN_JUDGE_KEY is not set'),
       (['--dtype', 'int4'], 'it must be one of float32, bfloat16, 4bit'), (['--data', '/no/such/archive'], 'there is no /no/such/archive'), (['--model', 'some/model'], 'needs a GPU'), (['--scale', 'huge'], "scale is 'huge'")]

@pytest.mark.parametrize('args, said', BAD, ids=[' '.join(a) for a, _ in BAD])
def test_refusals_are_one_sentence(tmp_path, monkeypatch, capsys, args, said):
    import torch
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    monkeypatch.delenv('MAXMIN_JUDGE_KEY', raising=False)
    base = [] if '--scale' in args else ['--scale', 'smoke']
    assert main(['tulu2', '--out', str(tmp_path/'o'), *base, *args]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err and err.count('\n') == 0 and not (tmp_path/'o').exists()

def test_hub_needs_a_pinned_commit(monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for r in (None, 'main', 'abc'):
        with pytest.raises(ValueError, match='pinned to a commit of 40 hex digits'): load_policy_model(TULU2, r)

def test_no_hub_is_said(monkeypatch):
    import torch
    from maxmin_nb import text
    def offline(*a, **k): raise OSError('We could not connect to the hub')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(text, '_from_folder', offline)
    with pytest.raises(ConnectionError, match='nor could it be had from the model hub'): load_policy_model(TULU2, '0'*40)

def test_archive(tmp_path):
    toy_archive(tmp_path/'a')
    with zipfile.ZipFile(tmp_path/'data.zip', 'w') as z:
        for f in (tmp_path/'a').rglob('*.json'): z.write(f, Path('data')/f.relative_to(tmp_path/'a'))
        z.writestr('../evil.json', '{}'); z.writestr('data/run.py', 'print()')
    said = []
    folder = soups_folder(tmp_path/'data.zip', tmp_path/'x/to', None, said.append)
    assert 'sha256' in said[0] and not (tmp_path/'x/evil.json').exists() and not list((tmp_path/'x').rglob('*.py'))
    assert soups_folder(tmp_path/'data.zip', tmp_path/'x/to', said[0].split()[-1], quiet) == folder == soups_folder(folder, tmp_path/'x/to')
    train, held = soups_prompts(folder, 10, 5)
    assert len(train) == 10 and len(held) == 5 and not set(train) & set(held)
    with pytest.raises(ValueError, match='download it again'): soups_folder(tmp_path/'data.zip', tmp_path/'y', '0'*64, quiet)
    (tmp_path/'bad.zip').write_bytes(b'no archive')
    with pytest.raises(ValueError, match='is no zip archive'): soups_folder(tmp_path/'bad.zip', tmp_path/'y', None, quiet)
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no folder rm_training'): soups_folder(tmp_path/'empty', tmp_path/'y')

def test_configurations_are_there():
    import yaml
    for n in (1, 4, 8): assert yaml.safe_load((ROOT/f'configs/accelerate_{n}gpu.yaml').read_text())['num_processes'] == n
    assert '--part "$SLURM_ARRAY_TASK_ID/8"' in (ROOT/'configs/tulu2.slurm').read_text()
    pinned = [l.split('==')[0] for l in (ROOT/'configs/gpu-constraints.txt').read_text().splitlines() if '==' in l]
    assert {'torch', 'transformers', 'peft', 'accelerate', 'numpy'} <= set(pinned)

def test_a_study_is_found_again(dry):
    "Settings with (training, held-out) prompts survive their folder; studies of different pairs share the reference's samples."
    from maxmin_nb.gpt2 import load_study
    out, *_ = dry
    folder = next(f for f in (out/'studies').iterdir() if f.name.startswith('P3A') and 'ratio-10' in f.name)
    study = load_study(folder, lm=tiny_model(), shared=out/'studies/shared-smoke-seed0')
    assert study.groups == ['P3A', 'P3B'] and study.heldout == list(study.settings.prompts[1]) and len(study.train_prompts) == study.scale.n_prompts
    assert len(list((out/'studies').glob('shared-*'))) == 1

@pytest.mark.slow
def test_four_bits(tmp_path):
    "bitsandbytes, installed beside and not into this environment, since peft then looks at it everywhere."
    there, env = tmp_path/'there', {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', there, 'bitsandbytes', '-c', ROOT/'constraints.txt'], check=True)
    done = subprocess.run([sys.executable, ROOT/'tests/four_bits.py', tmp_path], env=env | {'PYTHONPATH': f'{ROOT}{os.pathsep}{there}'}, capture_output=True, text=True)
    assert done.returncode == 0 and 'as the unpacked matrices' in done.stdout, done.stderr[-3000:]

def test_four_bits_without_bitsandbytes(monkeypatch):
    import importlib.util
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None)
    with pytest.raises(ImportError, match="pip install 'maxmin_nb\\[gpu\\]'"): load_policy_model('smollm2-135m', dtype='4bit')

def test_a_plan_in_four_bits_needs_less():
    c, s = tulu2_scale('paper'), SHAPES[TULU2]
    four, half = (plan_memory(s, c, d) for d in ('4bit', 'bfloat16'))
    assert four['merged'] == 0 and .25 < four['weights']/half['weights'] < .3 and four['activations'] == half['activations']
