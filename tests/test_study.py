"The small-scale study and its command line: whole, resumable, clear about bad input, harmless in what it shows."
import json, os, resource, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from maxmin_nb import gpt2
from maxmin_nb.cli import main
from maxmin_nb.core import get_scale, load_arrays, read_json
from maxmin_nb.gpt2 import (GOLD, KEY, METHODS, STUDY, UTILITIES, GoldRewards, Settings, Study, choosing, claims, collect, compare, curves_figure, em_table, estimate, exaggerated, gains, habits, limit_figure, limit_table,
                            limits, load_study, main_table, measures, merge, methods_figure, missing, over_figure, overrated, pick, read_tables, reference_table, reported_rewards, resolve, run_queue, steered_table, by_setting,
                            sweep_figure, sweep_table, trend, verdict, whole_study)
from maxmin_nb.text import load_model

SMOKE = get_scale('smoke')
quiet = lambda *_: None
MAXMIN = str(Path(sys.executable).parent/'maxmin')

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp('run')/'a'
    said = []
    Study(Settings(SMOKE), out, said.append).run()
    return out, said

def tree(folder): return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}

def test_everything_is_there(finished):
    out, said = finished
    r = read_json(out/'results.json')
    for k in ('seed', 'scale', 'versions', 'model', 'gflops', 'seconds', 'policies', 'em', 'worst_off_gain', 'maxmin_wins_against_single'): assert k in r
    stages = ['samples', 'reference', 'annotators', 'rewards', 'single', 'maxmin', 'report']
    assert set(r['seconds']) == set(stages[:-1]) and all(v > 0 for k, v in r['seconds'].items())
    assert [p['policy'] for p in r['policies']] == ['reference', 'single', 'maxmin']
    assert {p.name for p in (out/'figures').iterdir()} == {f'{n}.{s}' for n in ('utilities', 'training', 'annotators') for s in ('png', 'svg')}
    assert sum('left' in s for s in said) == len(stages) and 'MaxMin wins against single reward' in said[-1]
    assert (out/'table.txt').read_text().strip() in said[-1]

def test_the_learner_never_sees_the_groups(finished):
    out, _ = finished
    assert 'truth' not in ''.join(load_arrays(out/'choices.safetensors')[0])
    import pandas as pd
    assert set(pd.read_parquet(out/'comparisons.parquet').columns) <= {'user', 'prompt', 'chosen', 'rejected', 'weight'}

def test_same_seed_same_numbers(finished, tmp_path):
    out, _ = finished
    again = Study(Settings(SMOKE), tmp_path/'b', quiet).run()
    first = read_json(out/'results.json')
    for k in ('policies', 'em', 'worst_off_gain', 'reward_correlation'): assert again[k] == first[k], k

@pytest.mark.parametrize('stage', ['samples', 'reference', 'rewards', 'single', 'maxmin'])
def test_interrupted_anywhere_it_goes_on(finished, tmp_path, monkeypatch, stage):
    "The stage is interrupted when its files are half made; the second run ends with the same numbers."
    def broken(self, *a):
        real(self, *a)
        raise KeyboardInterrupt
    name = dict(samples='_samples', rewards='_rewards', reference='_reference').get(stage)
    if name:
        real = getattr(Study, name)
        def half(self, path):
            real(self, path)
            path.unlink()
            raise KeyboardInterrupt
        monkeypatch.setattr(Study, name, half)
    else:
        from maxmin_nb.ppo import PPO
        real = PPO.save
        def dies(self, path):
            real(self, path)
            if len(self.history) == 2 and path.parent.name == stage: raise KeyboardInterrupt
        monkeypatch.setattr(PPO, 'save', dies)
    with pytest.raises(KeyboardInterrupt): Study(Settings(SMOKE), tmp_path/'c', quiet).run()
    assert not (tmp_path/'c/results.json').exists()
    monkeypatch.undo()
    r = Study(Settings(SMOKE), tmp_path/'c', quiet).run()
    first = read_json(finished[0]/'results.json')
    for k in ('policies', 'em', 'worst_off_gain'): assert r[k] == first[k], k

def test_killed_and_started_again_by_the_command(tmp_path):
    import signal, time
    env = os.environ | {'MAXMIN_QUIET': '1'}
    args = [MAXMIN, 'gpt2', '--scale', 'smoke', '--steps', '40', '--out', str(tmp_path/'k')]
    p = subprocess.Popen(args, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not (tmp_path/'k/single/checkpoint.safetensors').exists() and time.time() < end and p.poll() is None: time.sleep(.05)
    p.send_signal(signal.SIGKILL); p.wait()
    assert (tmp_path/'k/single/checkpoint.safetensors').exists() and not (tmp_path/'k/results.json').exists()
    done = subprocess.run(args, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '[1/7]' not in done.stdout and '[4/7]' not in done.stdout and '[5/7]' in done.stdout and (tmp_path/'k/report.html').exists()

BAD = [(['--ratio', '-5'], 'ratio is -5; it must be at least 1'), (['--groups', '7'], 'groups is 7 and there are 6 annotators'), (['--groups', '0'], 'groups is 0'),
       (['--comparisons', '0'], 'every annotator must make at least 1'), (['--annotators', '0'], 'annotators is 0'), (['--steps', '0'], 'steps is 0'),
       (['--model', '/no/such/model'], "holds a run with other settings (model 'tiny-llama' there, '/no/such/model' asked for)"), (['--scale', 'huge'], "scale is 'huge'; it must be one of smoke, laptop, paper"),
       (['--prompts', '/no/such/file'], 'there is no file /no/such/file'), (['--methods', 'single,magic'], "there is no method 'magic'"), (['--methods', ''], 'methods is empty'), (['--methods', 'regret'], 'add majority and minority'),
       (['--angle', '181'], 'angle is 181'), (['--min-share', '.7'], 'min_share 0.7'), (['--rewards', 'silver'], "rewards is 'silver'"), (['--rewards', 'gold'], 'single and resample work on learned rewards'), (['--hostile', '-1'], 'hostile is -1'),
       (['--data', '/no/such/table.csv'], "holds a run with other settings (data '' there"), (['--seed', '-1'], 'seed is -1')]

@pytest.mark.parametrize('args, said', BAD, ids=[' '.join(a) for a, _ in BAD])
def test_bad_options_are_one_sentence_and_touch_nothing(finished, capsys, args, said):
    out, _ = finished
    before = tree(out)
    base = ['gpt2', '--out', str(out)] + ([] if '--scale' in args else ['--scale', 'smoke'])
    assert main(base + args) == 2
    err = capsys.readouterr().err.strip()
    assert said in err and err.count('\n') == 0 and 'Traceback' not in err
    assert tree(out) == before

def test_wrong_model_path(tmp_path, capsys):
    assert main(['gpt2', '--scale', 'smoke', '--model', '/no/such/model', '--out', str(tmp_path/'o')]) == 2
    err = capsys.readouterr().err.strip()
    assert 'there is no folder /no/such/model; a model is a folder' in err and err.count('\n') == 0
    assert not (tmp_path/'o').exists()

def test_empty_prompt_list(tmp_path, capsys):
    (tmp_path/'p.txt').write_text('\n \n')
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'o'), '--prompts', str(tmp_path/'p.txt')]) == 2
    assert 'there are 0 prompts; there must be at least 4' in capsys.readouterr().err
    assert not (tmp_path/'o').exists()

def test_other_settings_are_refused_and_named(finished, capsys):
    out, _ = finished
    before = tree(out)
    assert main(['gpt2', '--scale', 'smoke', '--out', str(out), '--seed', '3']) == 2
    assert 'seed 0 there, 3 asked for' in capsys.readouterr().err and tree(out) == before

def test_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    "A small file system fills up during the run; with room made, the same command goes on."
    mount = tmp_path/'small'; mount.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=700k', 'tmpfs', str(mount)], capture_output=True).returncode: pytest.skip('mounting a small file system needs root')
    try:
        args = [MAXMIN, 'gpt2', '--scale', 'smoke', '--out', str(mount/'run')]
        run = lambda: subprocess.run(args, env=os.environ | {'MAXMIN_QUIET': '1'}, capture_output=True, text=True)
        first = run()
        assert first.returncode == 2 and 'no space left' in first.stderr and 'Traceback' not in first.stderr, first.stderr
        kept = tree(mount/'run')
        assert not any(p.name.startswith('.') for p in kept)
        subprocess.run(['mount', '-o', 'remount,size=50m', str(mount)], check=True)
        second = run()
        assert second.returncode == 0, second.stderr
        assert all(tree(mount/'run')[p] == b for p, b in kept.items() if p.name in ('samples.json', 'samples.safetensors', 'comparisons.parquet'))
    finally: subprocess.run(['umount', str(mount)])

def test_read_only_folder(tmp_path, capsys):
    if os.geteuid() == 0: pytest.skip('root may write anywhere')
    (tmp_path/'ro').mkdir(mode=0o500)
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'ro/x')]) == 2
    assert 'cannot be written' in capsys.readouterr().err

def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path/'f').write_text('mine')
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'f')]) == 2
    assert 'is a file; the output must be a folder' in capsys.readouterr().err and (tmp_path/'f').read_text() == 'mine'

def test_damaged_file_is_named(finished, tmp_path, capsys):
    import shutil
    shutil.copytree(finished[0], tmp_path/'d')
    (tmp_path/'d/results.json').unlink(); (tmp_path/'d/mixture.safetensors').write_bytes(b'spoiled')
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'d')]) == 2
    assert 'mixture.safetensors is damaged' in capsys.readouterr().err

def test_generated_text_is_escaped_in_the_report(finished, tmp_path):
    import shutil
    shutil.copytree(finished[0], tmp_path/'e')
    held, ref = read_json(tmp_path/'e/maxmin/heldout.json'), read_json(tmp_path/'e/reference.json')
    evil = '<script>alert(1)</script><img src=x onerror=alert(2)>"\'&'
    held['texts'][0], ref['texts'][0] = evil, '</td><b>bold'
    (tmp_path/'e/maxmin/heldout.json').write_text(json.dumps(held)); (tmp_path/'e/reference.json').write_text(json.dumps(ref)); (tmp_path/'e/results.json').unlink()
    Study(Settings(SMOKE), tmp_path/'e', quiet).run()
    page = (tmp_path/'e/report.html').read_text()
    assert '<script' not in page and 'onerror=alert(2)>' not in page and '<b>bold' not in page and '&lt;script&gt;' in page
    assert 'src="http' not in page and "default-src 'none'" in page

def test_paper_scale_falls_back_with_a_sentence(monkeypatch):
    def offline(*a, **k): raise ConnectionError('no route')
    monkeypatch.setattr(gpt2, 'load_model', lambda name: offline() if name == get_scale('paper').model else load_model('tiny-llama'))
    said = []
    s, lm, train, held, judge = resolve(Settings(get_scale('paper')), said.append)
    assert len(said) == 1 and 'The hub cannot be reached' in said[0] and 'smollm2-135m' in said[0]
    assert s.scale.name == 'laptop' and s.scale.ratio == get_scale('paper').ratio and len(train) == 160

def test_gpt2_architecture_runs_the_whole_study(tmp_path):
    r = Study(Settings(replace(SMOKE, model='tiny-gpt2', split=0)), tmp_path/'g', quiet).run()
    assert r['em']['right'] >= 4

def test_prompts_of_ones_own(tmp_path):
    (tmp_path/'p.txt').write_text('\n'.join(f'the {w} film' for w in 'good bad long short sad happy old new nice dull'.split()))
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'o'), '--prompts', str(tmp_path/'p.txt')]) == 0
    assert len(read_json(tmp_path/'o/reference.json')['prompts']) == 5

def test_export_loads_with_transformers(finished, tmp_path):
    from transformers import AutoModelForCausalLM
    assert main(['export', str(finished[0]), str(tmp_path/'m')]) == 0
    m = AutoModelForCausalLM.from_pretrained(tmp_path/'m')
    assert m.generation_config.do_sample and m.generation_config.temperature == SMOKE.temperature
    assert main(['export', str(finished[0]), str(tmp_path/'m')]) == 2     # never overwrites

def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as e: main(['gpt2', '--help'])
    assert e.value.code == 0
    out = capsys.readouterr().out
    for word in ('--ratio', 'examples:', 'goes on', 'report.html'): assert word in out

def test_collected_tables(finished):
    t = collect([finished[0]])
    assert list(t['runs']['method']) == ['reference', 'single', 'maxmin'] and len(t['texts']) == (2 + SMOKE.n_reference)*SMOKE.n_heldout and len(t['steps']) == SMOKE.steps*(1 + 2)
    assert not t['runs'][KEY].duplicated().any() and (t['runs'].query("method == 'reference'").utility_majority == 0).all()
    with pytest.raises(FileNotFoundError, match='holds no results.json'): collect(['/no/such/run'])

EVERY = ('single', 'majority', 'minority', 'mean', 'maxmin', 'jump', 'minimum', 'regret', 'softmin', 'cvar', 'resample')

def test_every_method_runs_on_the_same_samples(tmp_path):
    assert set(EVERY) == set(METHODS)
    r = Study(Settings(SMOKE, methods=EVERY), tmp_path/'m', quiet).run()
    assert [p['policy'] for p in r['policies']] == ['reference', *EVERY]
    weights = {m: [h['weights'] for h in read_json(tmp_path/f'm/{m}/done.json')['history']] for m in EVERY[:-1]}
    assert all(w == [1., 0.] for w in weights['majority']) and all(w == [0., 1.] for w in weights['minority'])
    assert np.allclose(weights['mean'], r['em']['shares']) and all(sorted(w) == [0., 1.] for w in weights['jump'])
    assert not np.allclose(weights['maxmin'], weights['softmin'])
    gold = [h['gold'] for h in read_json(tmp_path/'m/single/done.json')['history']]
    assert np.isfinite(gold).all() and np.shape(gold) == (SMOKE.steps, 2)

def test_regret_counts_from_what_each_group_reaches_alone(tmp_path):
    study = Study(Settings(SMOKE, methods=('majority', 'minority', 'regret')), tmp_path/'r', quiet)
    study.run()
    last = {m: read_json(tmp_path/f'r/{m}/done.json')['history'][-1]['utility'] for m in ('majority', 'minority')}
    assert np.allclose(study.own_utilities(), [last['majority'][0], last['minority'][1]])     # a quarter of three steps is the last one
    assert np.allclose(study.trainer('regret').own, study.own_utilities())

def test_resampling_beats_the_reference_on_what_it_maximises(tmp_path):
    study = Study(Settings(replace(SMOKE, n_reference=16), methods=('resample',)), tmp_path/'r', quiet)
    study.run()
    a, r = study.answers(), read_json(tmp_path/'r/resample/heldout.json')
    best, drawn = a['learned'].mean((1, 2)), np.mean(r['learned'], 0)
    assert drawn.min() > best.min() + .3 and np.mean(r['kl']) > 0 and max(r['kl']) <= np.log(16) + 1e-9

def test_gold_rewards_are_the_judges_scores(tmp_path):
    study = Study(Settings(SMOKE, methods=('maxmin',), rewards='gold'), tmp_path/'g', quiet)
    study.run()
    policy = study.policy(); gold = GoldRewards(study, policy)
    o = policy.sample(study.heldout, 2, step=5)
    z = study.gold(policy.texts(o), o.n_words.tolist())
    assert np.allclose(gold.score(o).numpy(), (z.T - gold.zero)/gold.unit, atol=1e-5)
    assert np.allclose(gold.tokens(o).sum(2).numpy() - gold.zero/gold.unit, gold.score(o).numpy(), atol=1e-5)
    assert ((gold.tokens(o) != 0).sum(2) <= 1).all()

@pytest.mark.parametrize('angle, r', [(0., 1.), (60., None), (180., -1.)])
def test_angle_goes_from_agreement_to_opposition(tmp_path, angle, r):
    study = Study(Settings(SMOKE, methods=('single',), angle=angle), tmp_path/'a', quiet).prepare()
    z = study.gold(study.samples['texts'], study.samples['n_words'])
    assert np.allclose(z.std(1), 1) and np.allclose(z[0], study._standard(study.samples['texts'], study.samples['n_words'])[0])
    if r is not None: assert np.allclose(z[1], r*z[0])
    else: assert -1 < np.corrcoef(z)[0, 1] < 1

def test_a_hostile_person_and_the_least_share(tmp_path):
    s = Settings(replace(SMOKE, n_annotators=9), n_groups=3, hostile=1, methods=('maxmin',))
    study = Study(s, tmp_path/'h', quiet); study.run()
    truth = read_json(tmp_path/'h/truth.json')
    assert sorted(truth.values()) == [0]*6 + [1]*3 + [2] and truth['annotator 10'] == 2
    kept = Study(replace(s, min_share=.15), tmp_path/'k', quiet).prepare()
    r, every = kept.rewards(kept.policy()), study.rewards(study.policy())
    assert r.n_groups == (every.shares >= .15).sum() < 3 and np.isclose(r.shares.sum(), 1) and np.allclose(r.mixture.responsibilities.sum(1), 1)

def test_your_own_groups(tmp_path):
    judges = dict(length=lambda t, n: n, vowels=lambda t, n: [sum(c in 'aeiou' for c in o) - .4*len(o) for o in t])
    r = Study(Settings(SMOKE), tmp_path/'j', quiet, judges=judges).run()
    assert r['groups'] == ['length', 'vowels'] and 'length (majority)' in (tmp_path/'j/table.txt').read_text()
    with pytest.raises(ValueError, match='other settings'): Study(Settings(SMOKE), tmp_path/'j', quiet)
    with pytest.raises(ValueError, match='the judge of silence gives all sampled responses the same score'): Study(Settings(SMOKE), tmp_path/'s', quiet, judges=dict(length=judges['length'], silence=lambda t, n: np.zeros(len(t)))).run()

def test_data_of_ones_own(tmp_path, capsys):
    import pandas as pd
    pd.DataFrame(dict(text=[f'{a} {b} film about nothing much at all' for a in 'the my our one this'.split() for b in 'good bad odd new old sad'.split()])).to_csv(tmp_path/'d.csv', index=False)
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'o'), '--data', str(tmp_path/'d.csv'), '--methods', 'maxmin']) == 0
    run = read_json(tmp_path/'o/samples.json')
    assert len(run['prompts']) == SMOKE.n_prompts and any(p.startswith('the') for p in run['prompts'])
    pd.DataFrame(dict(words=['a'])).to_csv(tmp_path/'e.csv', index=False)
    capsys.readouterr()
    assert main(['gpt2', '--scale', 'smoke', '--out', str(tmp_path/'p'), '--data', str(tmp_path/'e.csv')]) == 2
    assert "there is no column text or prompt; the columns are 'words'" in capsys.readouterr().err and not (tmp_path/'p').exists()

def small_queue(): return [Settings(SMOKE, methods=('maxmin', 'majority', 'minority', 'regret', 'resample')), Settings(SMOKE, methods=('single', 'maxmin'), angle=45.)]

def test_queue_is_taken_up_on_another_machine(tmp_path):
    "Half of it here, half of it with nothing but the tables: the same numbers as in one go."
    whole = run_queue(small_queue(), tmp_path/'w', tmp_path/'w-t', quiet)
    calls = iter(range(100))
    class Enough(Exception): pass
    def stop(said):
        if said.startswith('[') and next(calls) == 3: raise Enough
    with pytest.raises(Enough): run_queue(small_queue(), tmp_path/'a', tmp_path/'t', stop)
    said = []
    halves = run_queue(small_queue(), tmp_path/'elsewhere', tmp_path/'t', said.append)
    assert said[0].startswith('3 of 7') and not (tmp_path/'elsewhere').joinpath('maxmin').exists()
    skip = ['seconds', 'gflops', 'date']
    for n in ('runs', 'steps', 'texts'):
        a, b = (t[n].sort_values([*KEY, *([c for c in ('step', 'group', 'prompt', 'sample') if c in t[n]])]).reset_index(drop=True).drop(columns=skip, errors='ignore') for t in (whole, halves))
        for d in (a, b):
            if 'learned' in d: d['learned'] = d.learned.map(list)       # they come back from Parquet as arrays
        assert a.equals(b), n
    assert run_queue(small_queue(), tmp_path/'third', tmp_path/'t', quiet)['runs'].equals(halves['runs']) and not (tmp_path/'third').exists()

def test_queue_refuses_damaged_tables(tmp_path):
    run_queue(small_queue()[1:], tmp_path/'a', tmp_path/'t', quiet)
    (tmp_path/'t_steps.parquet').write_bytes(b'spoiled')
    with pytest.raises(ValueError, match='is damaged'): run_queue(small_queue(), tmp_path/'a', tmp_path/'t', quiet)
    (tmp_path/'t_steps.parquet').unlink()
    with pytest.raises(ValueError, match='some are missing'): run_queue(small_queue(), tmp_path/'a', tmp_path/'t', quiet)

def test_the_whole_study_is_what_the_chapter_says():
    q = whole_study(get_scale('laptop'))
    from maxmin_nb.gpt2 import _key, check_settings
    for s in q: check_settings(s)
    keys = [_key(s, m) for s in q for m in s.methods]
    assert len(set(keys)) == len(keys)
    assert {(s.scale.ratio, s.scale.n_annotators) for s in q} == {(1, 42), (2, 42), (6, 42), (10, 44), (20, 42)}

def test_a_model_of_the_hub_is_pinned(monkeypatch):
    "At scale paper a model that came from the hub without a commit is refused, and the refusal names it; with one, that commit is what is loaded."
    from maxmin_nb.text import tiny_model
    lm, asked = tiny_model(), []
    monkeypatch.setattr(lm.model.config, '_commit_hash', 40*'a', raising=False)
    monkeypatch.setattr(gpt2, 'load_model', lambda *a: asked.append(a) or lm)
    monkeypatch.setattr(gpt2, 'classifier_tone', lambda: lambda texts: np.zeros(len(texts)))
    monkeypatch.setattr(gpt2, 'imdb_prompts', lambda n, h, lm, seed: (['a'], ['b']))
    with pytest.raises(ValueError, match=f"is not pinned; name its commit, --model lvwerra/gpt2-imdb@{40*'a'}"): resolve(Settings(get_scale('paper')), quiet)
    assert resolve(Settings(replace(get_scale('paper'), model=f"a/b@{40*'c'}")), quiet)[1] is lm and asked[-1] == ('a/b', 40*'c')

# Results: a small made-up table whose numbers are known.

MINORITY = {1: -.1, 2: -.3, 4: -.5, 8: -.7}  # under single reward, at each ratio: .2 less at each doubling

SIX = dict(single=(1., -.6), majority=(1.1, -.9), minority=(-.2, 1.5), maxmin=(.3, .2), jump=(.25, .35), resample=(.1, .4))

def made(ratio=6., us=SIX, seeds=(0, 1), P=6, noise=.1, **where):
    "(runs, steps, texts) of one setting: each method's utilities are exact, to rounding."
    import pandas as pd
    key = STUDY | dict(groups='tone / brevity', annotators=10, ratio=ratio) | where
    runs, steps, texts = [], [], []
    for s in seeds:
        rng = np.random.default_rng((s, 7))
        ref = rng.normal(size=(2, P, 4))
        def answer(m, p, j, g): texts.append(key | dict(seed=s, method=m, prompt=f'p{p}', sample=j, text=f'{m} says {p} and {j} more', tokens=5 + j, kl=0. if m == 'reference' else 1., nll=1., learned=[2*g[0], g[1]], gold_majority=g[0], gold_minority=g[1]))
        for p in range(P):
            for j in range(4): answer('reference', p, j, ref[:, p, j])
        for m, u in us.items():
            e = rng.normal(size=(2, P))*noise; e -= e.mean(1, keepdims=True)
            for p in range(P): answer(m, p, 0, ref[:, p].mean(1) + u + e[:, p])
            w = where.get('n_groups', 2)
            if m != 'resample': steps += [key | dict(seed=s, method=m, step=i, group=k + 1, utility=0., utility_se=.1, reward=2.*i, weight=(k + 1)/(w*(w + 1)/2), kl=i/2, gold_majority=u[0]*i/4, gold_minority=u[1]*i/4) for i in range(1, 5) for k in range(w)]
        runs += [key | dict(seed=s, method=m, kl=0. if m == 'reference' else 1., em_right=10 - (ratio == 8), group_shares=json.dumps([.8, .2]), reward_correlation=json.dumps({'group 1': {'tone': .6, 'brevity': -.1}, 'group 2': {'tone': .1, 'brevity': .9}})) for m in ('reference', *us)]
    return dict(zip(('runs', 'steps', 'texts'), map(pd.DataFrame, (runs, steps, texts))))

@pytest.fixture(scope='module')
def study():
    hostile = [made(6., dict(maxmin=(-.3, -.1), softmin=(.2, .1), cvar=(.1, .1)), (0,), n_groups=3, hostile=1), made(6., dict(maxmin=(.3, .3)), (0,), n_groups=3, hostile=1, min_share=.05)]
    return merge([made(), *(made(float(r), dict(single=(1., m), maxmin=(.3, .2))) for r, m in MINORITY.items()), *hostile])

def test_utilities_are_differences_to_the_reference(study):
    t = pick(study['texts'])
    x = gains(t, 'maxmin')
    assert list(x) == [0, 1] and x[0].shape == (2, 6) and np.allclose([o.mean(1) for o in x.values()], [.3, .2]) and np.allclose(list(gains(t, 'reference').values()), 0)
    m = measures(t).set_index(['method', 'measure'])
    assert np.isclose(m.loc[('single', 'worst-off'), 'mean'], -.6) and np.allclose(m.loc[('single', 'worst-off'), 'by_seed'], [-.6, -.6]) and np.isclose(m.loc[('maxmin', 'KL'), 'mean'], 1)
    assert np.isclose((e := compare(t, 'maxmin', 'single'))['mean'], .8) and e['low'] < .8 < e['high'] and compare(t, 'maxmin', 'regret') is None
    with pytest.raises(ValueError, match='several settings; pick one ratio'): gains(study['texts'], 'single')
    assert missing(study['runs'], ['single', 'regret']) == ['regret'] and missing(study['runs'], ['single'], ratio=3.) == ['single']

def test_intervals_are_those_of_the_mean():
    "Two seeds of independent prompts: the interval of the mean of both is that of a normal law; a paired difference has a smaller one than its parts."
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(1, 300)) for _ in range(2)]
    e = estimate(x)
    assert np.isclose(e['mean'], np.mean([o.mean() for o in x])) and np.isclose(e['high'] - e['low'], 2*1.96/600**.5, rtol=.1)
    both = [np.r_[o, o + .01*rng.normal(size=o.shape)] for o in x]
    paired = estimate(both, lambda m: m[0] - m[1])
    assert paired['high'] - paired['low'] < .05*(e['high'] - e['low'])

def test_main_table_and_figures_say_the_numbers(study):
    t = pick(study['texts'])
    table = main_table(t, ['reference', 'single', 'maxmin'])
    assert list(table.index) == ['reference', 'single', 'maxmin'] and table.loc['single', 'minority'].startswith('-0.60 [') and table.loc['maxmin', 'seeds'] == 2 and table.loc['reference', 'tokens'] == 5
    for fig, alt in (methods_figure(measures(t, ['single', 'maxmin'])), curves_figure(pick(study['steps']), ['single', 'maxmin']), limit_figure(t, ['single', 'maxmin', 'resample']), over_figure(pick(study['steps']), ['single', 'minority'])):
        assert all(ax.get_xlabel() or ax.get_xticklabels() for ax in fig.axes) and fig.get_suptitle() and len(alt) > 60
        import matplotlib.pyplot as plt; plt.close(fig)
    assert '+1.00 and -0.60' in methods_figure(measures(t, ['single']))[1]
    assert 'single reward +7.0' not in over_figure(pick(study['steps']), ['single'])[1] and 'single reward +5.0 learned, +0.6 gold' in over_figure(pick(study['steps']), ['single'])[1]

def test_the_sweep_and_its_trend(study):
    s = by_setting(study['texts'], 'ratio', ('single', 'maxmin'))
    assert list(s) == [1, 2, 4, 6, 8]
    s.pop(6)
    e = trend(s, 'single')
    assert np.isclose(e['mean'], -.2) and e['high'] < -.1 and np.allclose(e['by_seed'], -.2) and np.isclose(trend(s, 'maxmin')['mean'], 0)
    assert trend({1: s[1]}, 'single') is None
    t = sweep_table(s); t = t[(t.method == 'single') & (t.measure == 'minority')].set_index('at')
    assert np.allclose(t['mean'], list(MINORITY.values()))
    fig, alt = sweep_figure(s, 'ratio', lambda v: f'{v:g}:1', 'a title')
    assert '8:1 +0.90 [' in alt and [o.get_text() for o in fig.axes[0].get_xticklabels()] == ['1:1', '2:1', '4:1', '8:1']

def test_no_choice_among_the_answers_is_above_the_limit(study):
    t = pick(study['texts'], ratio=6.); t = t[t.seed == 0]
    z = reference_table(t); top = limits(t)[0]
    assert z.shape == (2, 6, 4) and np.allclose(z[0, 2], t[(t.method == 'reference') & (t.prompt == 'p2')].gold_majority)
    z = z - z.mean((1, 2), keepdims=True)
    for a in (.1, .5, 2.):
        for pi in np.random.default_rng(3).dirichlet(np.full(4, a), (200, 6)):
            k = (pi*np.log(np.maximum(pi, 1e-300)*4)).sum(1).mean()
            assert (pi*z).sum(2).mean(1).min() <= top(k) + 1e-9
    c = choosing(t, learned=False)
    assert top(c['kl']) - .05 < min(c['majority'], c['minority']) <= top(c['kl']) + 1e-8          # gold in other units, and the best there is
    rows = limit_table(t, ['maxmin']).iloc[0]
    assert np.isclose(rows.worst, .2) and rows.kl == 1 and np.isclose(rows.limit, top(1.))

def test_who_was_found_and_who_was_steered(study):
    em = em_table(study['runs']).set_index(['ratio', 'n_groups', 'hostile'])
    assert em.loc[(8, 2, 0), 'in the right group'] == 18 and em.loc[(8, 2, 0), 'of'] == 20 and np.isclose(em.loc[(6, 2, 0), "with the minority's"], .9) and em.loc[(6, 3, 1), 'of'] == 11
    t = steered_table(study)
    assert list(t.index) == ['two groups', *(f'a hostile person: {n}' for n in ('MaxMin', 'soft minimum', 'CVaR of one half', 'least share .05'))]
    assert np.isclose(t.loc['a hostile person: MaxMin', 'worst-off of the two'], -.3) and t.loc['a hostile person: MaxMin', 'the hostile one'] > 0 > t.loc['a hostile person: soft minimum', 'the hostile one'] and np.isnan(t.loc['two groups', 'the hostile one'])
    assert t.loc['a hostile person: MaxMin', 'weights'] == '0.17 0.33 0.50'

def test_reports_and_what_they_change():
    "Truth is learned as it is; who is louder is learned louder, and no louder once counted in deviations; who leans is learned to dislike what the others like."
    z = np.random.default_rng(5).normal(size=(2, 60, 6))
    unit = lambda r: r.std((1, 2))
    fit = lambda loud, lean: reported_rewards(z, loud, lean, sizes=(20, 8), n_comparisons=200)
    corr = lambda r, g, h: np.corrcoef(r[g].ravel(), z[h].ravel())[0, 1]
    true = fit((1, 1), (0, 0))
    assert np.allclose(unit(true), 1, atol=.15) and corr(true, 0, 0) > .98 and corr(true, 1, 1) > .98 and abs(corr(true, 1, 0)) < .15 and np.allclose(true.mean((1, 2)), 0)
    loud = fit((1, 3), (0, 0))
    assert np.allclose(unit(loud), (1, 3), rtol=.25) and corr(loud, 1, 1) > .98
    assert corr(fit((1, 1), (0, 1)), 1, 0) < -.5 < abs(corr(fit((1, 1), (0, 1)), 0, 0))

def test_exaggeration_in_units_of_its_own_changes_nothing():
    t = made(seeds=(0,), P=60)['texts']
    e = exaggerated(t).set_index(['report', 'rule'])
    louder = lambda rule: (e.loc[('minority louder', rule)] - e.loc[('truthful', rule)])
    assert abs(louder('MaxMin, sd')[['majority', 'minority']]).max() < .08 < abs(louder('MaxMin, raw').minority)
    assert len(e) == 20 and np.isfinite(e).all().all() and (e.kl > -1e-12).all()

def test_habits_and_what_is_overrated(study):
    t = pick(study['texts'])
    h = habits(t)
    assert h.loc['single', 'commonest beginning'].startswith('single says') and h.loc['single', 'at most five tokens'] == 1 and h.loc['single', 'tokens'] == 5
    o = overrated(t, 'single', n=3)
    gap = o.learned - o.gold
    assert len(o) == 3 and (gap.diff().dropna() <= 0).all() and np.allclose(o.learned, 2*o.gold)

def test_claims_have_computed_verdicts(study):
    assert [verdict(dict(low=a, high=b), s) for a, b, s in ((.1, .2, 1), (-.2, -.1, 1), (-.1, .1, 1), (-.2, -.1, -1), (.1, .2, -1))] == ['holds', 'fails', 'not decided', 'holds', 'fails']
    c = claims(study).set_index('claim')
    says = lambda start: c[c.index.str.startswith(start)].iloc[0]
    assert says('6:1, single reward').verdict == 'holds' and says('6:1, single reward').measured.startswith('-0.60 [') and says('6:1, single reward').seeds == 2
    assert says('8:1, the worst-off group gains').verdict == 'holds' and says('8:1, EM').verdict == 'fails' and says('8:1, EM').measured == '18 of 20'
    worse = {n: t.copy() for n, t in study.items()}
    worse['texts'].loc[(worse['texts'].method == 'maxmin') & (worse['texts'].ratio == 8), GOLD] -= 5
    assert claims(worse).set_index('claim').verdict[lambda v: v.index.str.startswith('8:1, the worst-off group gains')].iloc[0] == 'fails'

def test_own_run_goes_through_the_same_tables(finished):
    t = collect([finished[0]])
    assert list(main_table(t['texts']).index) == ['reference', 'single', 'maxmin'] and set(UTILITIES) < set(main_table(t['texts']).columns)

def test_the_readme_says_what_the_tables_say():
    "Single reward and the mean lift the majority and lower the minority below the reference; MaxMin, by either rule for the weights or by resampling, lifts both."
    root = Path(__file__).resolve().parent.parent
    text = (root/'README.md').read_text(encoding='utf-8')
    assert 'Single reward and the mean lift the majority and lower the minority below the reference; MaxMin lifts both.' in text and 'results/figures/methods.png' in text
    tables = read_tables(root/'nbs/results/study')
    r = pick(tables['runs'])
    assert 'Forty-two simulated people, thirty-six' in text and gpt2.group_sizes(int(r.annotators.iloc[0]), r.ratio.iloc[0]) == (36, 6) and f'{r.prompts.iloc[0]} held-out prompts' in text
    m = measures(pick(tables['texts'])).pivot(index='method', columns='measure', values='mean')
    assert (m.loc[['single', 'mean'], 'majority'] > 0).all() and (m.loc[['single', 'mean'], 'minority'] < 0).all() and (m.loc[['maxmin', 'jump', 'resample'], 'worst-off'] > 0).all()
