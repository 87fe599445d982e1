"Wheel and sdist, checked and installed into an empty environment outside the repository, where the README's lines run."
import os, re, subprocess, sys, tarfile
from pathlib import Path
import pytest
from test_project import ROOT, copy_project

pytestmark = pytest.mark.slow
CPU = ['--retries', '1', '--extra-index-url', 'https://download.pytorch.org/whl/cpu']      # as in the Makefile: where there is no GPU, a tenth of the size
ENV = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}

def sh(*args, **kw): return subprocess.run([str(a) for a in args], capture_output=True, text=True, env=ENV | kw.pop('env', {}), **kw)

def venv(folder, *packages):
    "The interpreter of a new environment with `packages`."
    assert sh(sys.executable, '-m', 'venv', folder).returncode == 0
    python = folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    done = sh(python, '-m', 'pip', 'install', '-q', *packages)
    if done.returncode: pytest.skip(f'pip could not install {packages[-1]}, perhaps without a network: {(done.stderr.strip().splitlines() or ["no reason given"])[-1]}')
    return python

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "Folder with wheel and sdist, built from what the repository holds."
    d = tmp_path_factory.mktemp('build')
    python, project = venv(d/'tools', 'build', 'twine', 'setuptools>=64', 'wheel'), d/'project'
    project.mkdir()
    copy_project(project)
    done = sh(python, '-m', 'build', '--no-isolation', '--outdir', d/'dist', project)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name.split('-')[0] + p.suffix for p in (d/'dist').iterdir()) == ['maxmin_nb.gz', 'maxmin_nb.whl']
    check = sh(python, '-m', 'twine', 'check', '--strict', *(d/'dist').iterdir())
    assert check.returncode == 0 and check.stdout.count('PASSED') == 2, check.stdout
    return d/'dist', python

def test_sdist_holds_what_it_is_built_from(built, tmp_path):
    dist, python = built
    source, = dist.glob('*.tar.gz')
    with tarfile.open(source) as t: names = {n.split('/', 1)[-1] for n in t.getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'CHANGELOG.md', 'LICENSE', 'maxmin_nb/py.typed', 'maxmin_nb/core.py'} <= names
    done = sh(python, '-m', 'pip', 'wheel', source, '--no-deps', '--no-build-isolation', '-w', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == [p.name for p in dist.glob('*.whl')]

TABLE = '''
from maxmin_nb.preferences import Comparisons
from maxmin_nb.text import film_prompts
prompts, _ = film_prompts(12, 8)
good, bad = ['a good film', 'great', 'lovely story and music'], ['bad', 'the plot is boring and sad', 'dull']
rows = [(f'p{u}', p, *((good[i], bad[i]) if u%3 else (bad[i], good[i]))) for u in range(6) for i, p in enumerate(prompts[:3]*3) for i in [i%3]]
Comparisons(*map(list, zip(*rows))).save('preferences.parquet')
'''

def test_readme_runs_in_an_empty_environment(built, tmp_path):
    wheel, = built[0].glob('*.whl')
    python = venv(tmp_path/'env', *CPU, '--no-deps', 'torch', '-c', ROOT/'constraints.txt')
    done = sh(python, '-m', 'pip', 'install', '-q', wheel, '-c', ROOT/'constraints.txt')
    if done.returncode: pytest.skip(f'pip could not install what the package needs, perhaps without a network: {(done.stderr.strip().splitlines() or ["no reason given"])[-1]}')
    assert sh(python, '-m', 'pip', 'check').returncode == 0
    work = tmp_path/'work'
    work.mkdir()
    code, = [b for b in re.findall(r'```py\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), re.S) if 'Comparisons.load' in b]
    small = code.replace('smollm2-135m', 'tiny-llama').replace('steps=20', 'steps=1').replace('film_prompts(160, 128)', 'film_prompts(12, 8)')
    (work/'readme.py').write_text(TABLE + small + "\nimport maxmin_nb; print('from', maxmin_nb.__file__)\n", encoding='utf-8')
    ran = sh(python, 'readme.py', cwd=work, env=dict(MAXMIN_QUIET='1', OMP_NUM_THREADS='1'))
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert 'win rate against the reference' in ran.stdout and f'from {tmp_path}' in ran.stdout and (work/'my-policy/model.safetensors').is_file()
    maxmin = python.parent/'maxmin'
    assert sh(maxmin, '--help', cwd=work).returncode == 0
    run = sh(maxmin, 'gpt2', '--scale', 'smoke', '--out', 'run', cwd=work, env=dict(MAXMIN_QUIET='1', OMP_NUM_THREADS='1'))
    assert run.returncode == 0 and (work/'run/report.html').is_file(), run.stderr[-3000:]
