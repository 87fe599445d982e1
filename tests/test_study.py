"The small-scale study and its command line: whole, resumable, clear about bad input, harmless in what it shows."
import json, os, resource, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from maxmin_nb import gpt2
from maxmin_nb.cli import main
from maxmin_nb.core import get_scale, load_arrays, read_json
from maxmin_nb.gpt2 import STAGES, Settings, Study, collect, resolve
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
    assert set(r['seconds']) == set(STAGES[:-1]) and all(v > 0 for k, v in r['seconds'].items())
    assert [p['policy'] for p in r['policies']] == ['reference', 'single', 'maxmin']
    assert {p.name for p in (out/'figures').iterdir()} == {f'{n}.{s}' for n in ('utilities', 'training', 'annotators') for s in ('png', 'svg')}
    assert sum('left' in s for s in said) == len(STAGES) and 'MaxMin wins against single reward' in said[-1]
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

@pytest.mark.parametrize('stage', ['samples', 'rewards', 'single', 'maxmin', 'evaluation'])
def test_interrupted_anywhere_it_goes_on(finished, tmp_path, monkeypatch, stage):
    "The stage is interrupted when its files are half made; the second run ends with the same numbers."
    def broken(self, *a):
        real(self, *a)
        raise KeyboardInterrupt
    name = dict(samples='_samples', rewards='_rewards', evaluation='_evaluate').get(stage)
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
    assert '[1/7]' not in done.stdout and '[5/7]' in done.stdout and (tmp_path/'k/report.html').exists()

BAD = [(['--ratio', '-5'], 'ratio is -5; it must be at least 1'), (['--groups', '7'], 'groups is 7 and there are 6 annotators'), (['--groups', '0'], 'groups is 0'),
       (['--comparisons', '0'], 'every annotator must make at least 1'), (['--annotators', '0'], 'annotators is 0'), (['--steps', '0'], 'steps is 0'),
       (['--model', '/no/such/model'], "holds a run with other settings (model 'tiny-llama' there, '/no/such/model' asked for)"), (['--scale', 'huge'], "scale is 'huge'; it must be one of smoke, laptop, paper"),
       (['--prompts', '/no/such/file'], 'there is no file /no/such/file'), (['--weights-step', 'slow'], "the step on the weights is 'slow'"), (['--seed', '-1'], 'seed is -1')]

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
    held = read_json(tmp_path/'e/heldout.json')
    evil = '<script>alert(1)</script><img src=x onerror=alert(2)>"\'&'
    held['responses'][2]['texts'][0] = evil
    held['prompts'][0] = '</td><b>bold'
    (tmp_path/'e/heldout.json').write_text(json.dumps(held)); (tmp_path/'e/results.json').unlink()
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
    assert len(read_json(tmp_path/'o/heldout.json')['prompts']) == 5

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
    assert set(t['runs']['measure']) >= {'utility', 'kl', 'worst_off_gain', 'em_right', 'win_rate'} and len(t['texts']) == 3*SMOKE.n_heldout
    with pytest.raises(FileNotFoundError, match='holds no results.json'): collect(['/no/such/run'])
