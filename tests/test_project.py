"What holds for the project as a whole: notebooks, exports, README, imports, documentation, wheel."
import ast, configparser, importlib, inspect, json, re, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/'nbs', ROOT/'maxmin_nb'
PATHS = [p for p in sorted(NBS.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
notebooks = pytest.mark.parametrize('path', [pytest.param(p, id=str(p.relative_to(NBS))) for p in PATHS])
MODULES = sorted(p.stem for p in LIB.glob('*.py') if not p.stem.startswith('_'))


def code_cells(path):
    "Code cells, but for one that installs the package on Colab."
    return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code' and source(c).strip() and "find_spec('maxmin_nb')" not in source(c)]
def source(cell): return ''.join(cell['source'])
def chapter(path): return int(m[0]) if path.parent == NBS and (m := re.match(r'\d\d', path.name)) else None
def tool(name): return str(Path(sys.executable).parent/name)

def exported(path):
    "The module that a notebook exports, or None."
    found = [m[1] for c in code_cells(path) for m in re.finditer(r'^#\|\s*default_exp\s+(\S+)', source(c), flags=re.M)]
    return found[0] if found else None

def imported(path):
    "The package's modules that a notebook's code imports."
    found = set()
    for c in code_cells(path):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(source(c)))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                base = ('maxmin_nb.' + (node.module or '')).rstrip('.') if node.level else node.module
                names = [base] if base.startswith('maxmin_nb.') else [f'{base}.{a.name}' for a in node.names]
            found |= {n.split('.')[1] for n in names if n.startswith('maxmin_nb.')}
    return found

HOME = {m: p for p in PATHS if (m := exported(p))}  # module -> its notebook
THEORY = [m for m, p in HOME.items() if chapter(p) is not None and chapter(p) <= 7]


def copy_project(to):
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'CHANGELOG.md', 'CITATION.cff', 'constraints.txt', 'LICENSE'): shutil.copy(ROOT/name, to)
    ignore = shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__')
    shutil.copytree(NBS, to/'nbs', ignore=ignore)
    shutil.copytree(LIB, to/'maxmin_nb', ignore=ignore)
    return to


def test_exports_in_step(tmp_path):
    "Exported afresh, the package has the same files with the same bytes: nobody edited a module, forgot an export or left an orphan."
    copy = copy_project(tmp_path)
    for p in (copy/'maxmin_nb').glob('*.py'):
        if p.name != '__init__.py': p.unlink()
    subprocess.run([tool('nbdev_export')], cwd=copy, check=True, capture_output=True, text=True)
    fresh, committed = ({p.name: p.read_bytes() for p in folder.glob('*.py')} for folder in (copy/'maxmin_nb', LIB))
    assert len(fresh) > 2
    differing = sorted(n for n in fresh.keys() | committed.keys() if fresh.get(n) != committed.get(n))
    assert not differing, f'not what the notebooks export: {differing}; run make export'


def test_notebooks_clean(tmp_path):
    "The notebooks are what nbdev_clean leaves: no execution counts, no widget state."
    copy = copy_project(tmp_path)
    subprocess.run([tool('nbdev_clean')], cwd=copy, check=True, capture_output=True, text=True)
    changed = [str(p.relative_to(NBS)) for p in PATHS if p.read_bytes() != (copy/'nbs'/p.relative_to(NBS)).read_bytes()]
    assert not changed, f'{changed}: run make clean-notebooks'


def test_readme_in_step():
    if not (NBS/'index.ipynb').exists(): pytest.skip('nbs/index.ipynb does not exist yet')
    done = subprocess.run([sys.executable, ROOT/'.ci/readme.py', '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_links():
    "Every relative link of the README leads to a file, and no image is a data URI."
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert 'data:image' not in text
    prose = re.sub(r'^```.*?^```', '', text, flags=re.S | re.M)
    targets = re.findall(r'\]\(([^)\s]+)', prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    missing = [t for t in targets if not re.match(r'[a-z]+:|#', t) and not (ROOT/t.split('#')[0]).exists()]
    assert not missing


@notebooks
def test_notebook_form(path):
    "Saved outputs, no error among them, no path of somebody's machine, no code cell over 45 lines."
    cells, text = code_cells(path), path.read_text(encoding='utf-8')
    outputs = [o for c in cells for o in c['outputs']]
    assert outputs or not cells or path.parent.name == 'exercises', 'no outputs: run it and save'   # exercises are empty until somebody solves them
    assert not [o['ename'] for o in outputs if o['output_type'] == 'error']
    assert not [s for s in ('/root/', '/work/', '/home/') if s in text], 'an absolute path'
    assert max([len(source(c).splitlines()) for c in cells], default=0) <= 45, 'a code cell of more than 45 lines'


@pytest.mark.parametrize('path', [p for p in PATHS if chapter(p) is not None], ids=lambda p: p.stem)
def test_chapter_has_its_parts(path):
    "What one can do afterwards, what one needs, how long it runs, a summary, references with links, the neighbours; the first cell installs where it must."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    text = [source(c) for c in cells if c['cell_type'] == 'markdown']
    first, last = text[0], '\n'.join(text[-3:])
    assert re.search('[Aa]fter this chapter you can', first) and re.search('[Yy]ou need', first) and re.search(r'second|minute|hour', first)
    references = re.search(r'^(\*\*References\b|## References)(.*)', last, re.M | re.S)
    assert re.search('^## Summary', '\n'.join(text), re.M) and references and '](https://' in references[2]
    assert 'Next: ' in last and ('Previous: ' in last or path.stem.startswith('00'))
    assert "find_spec('maxmin_nb')" in source(next(c for c in cells if c['cell_type'] == 'code'))

@notebooks
def test_reading_order(path):
    "A chapter imports chapters that come before it by file name, core, plots and widgets only; core imports nothing of the package, plots only core, widgets those two."
    if path in (NBS/'tools/core.ipynb', NBS/'tools/plots.ipynb'): allowed = {exported(path), 'core'}
    elif path == NBS/'tools/widgets.ipynb': allowed = {'widgets', 'plots', 'core'}
    elif chapter(path) is not None: allowed = {'core', 'plots', 'widgets'} | {m for m, p in HOME.items() if chapter(p) is not None and p.name < path.name}
    else: return
    assert imported(path) <= allowed, f'imports {sorted(imported(path) - allowed)}'


@pytest.mark.parametrize('module', THEORY)
def test_theory_is_light(module):
    "A theory module loads no torch, transformers or pandas, and takes under half a second of processor time beyond NumPy and SciPy."
    code = '''if 1:
        import sys, time, importlib
        for m in sys.argv[2:]: importlib.import_module(m)
        t = time.process_time(); import maxmin_nb; importlib.import_module('maxmin_nb.' + sys.argv[1])
        print(time.process_time() - t, *sys.modules)'''
    def run(*preload): return subprocess.run([sys.executable, '-c', code, module, *preload], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    loaded = run()[1:]
    assert not {'torch', 'transformers', 'pandas', 'datasets', 'peft', 'accelerate', 'pyarrow'} & set(loaded)
    given = [m for m in loaded if re.fullmatch(r'(numpy|scipy)(\.[a-z]\w*)*', m)]
    assert min(float(run(*given)[0]) for _ in range(3)) < .5


@pytest.mark.parametrize('module', ['maxmin_nb', 'maxmin_nb.core', 'maxmin_nb.cli'])
def test_import_is_quick(module):
    "Under 0.3 s of processor time beyond NumPy, and neither torch nor transformers."
    code = f'import time, sys; import numpy; t = time.process_time(); import {module}; print(time.process_time() - t, *sys.modules)'
    def run(): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    seconds, *loaded = min((run() for _ in range(3)), key=lambda o: float(o[0]))
    assert float(seconds) < .3 and not {'torch', 'transformers', 'pandas', 'matplotlib', 'scipy'} & set(loaded)


def dangers(code):
    "What in `code` could run somebody else's: pickles, torch.load, trust_remote_code=True, allow_pickle=True, eval, exec."
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import): found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom): found = [node.module or '', *(f'{node.module}.{a.name}' for a in node.names)]
        elif isinstance(node, (ast.Attribute, ast.Name)): found = [ast.unparse(node)]
        elif isinstance(node, ast.keyword) and not (isinstance(node.value, ast.Constant) and node.value.value is False): found = [f'{node.arg}=']
        else: continue
        yield from (f for f in found if f in ('torch.load', 'trust_remote_code=', 'allow_pickle=', 'shell=', 'eval', 'exec', 'os.system', 'yaml.load') or f and (f.split('.')[0] in ('pickle', 'dill', 'joblib', 'cloudpickle', 'marshal', 'shelve') or f.endswith('read_pickle')))

def test_nothing_dangerous():
    "No pickle is loaded, no remote code trusted and no shell asked: in the library, the notebooks, the benchmarks and the tools."
    code = {p.name: p.read_text(encoding='utf-8') for d in (LIB, ROOT/'benchmarks', ROOT/'.ci') for p in d.glob('*.py')}
    code |= {p.name: '\n'.join(TransformerManager().transform_cell(source(c)) for c in code_cells(p)) for p in PATHS if p.parent.name not in ('exercises', 'solutions')}
    assert {n: list(dangers(c)) for n, c in code.items()} == {n: [] for n in code}
    for bad in ('import pickle', 'from torch import load', 'torch.load(f)', 'f(trust_remote_code=True)', 'np.load(f, allow_pickle=x)', 'eval(s)', 'subprocess.run(s, shell=True)', 'pd.read_pickle(f)'): assert list(dangers(bad)), bad
    assert not list(dangers('model.eval(); f(trust_remote_code=False) # pickle'))


def undocumented(f):
    "Parameters of `f` without a comment; self, cls, *args and **kwargs need none."
    if inspect.isclass(f) and f.__init__ is object.__init__: return []
    free = {n for n, p in inspect.signature(f).parameters.items() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | {'self', 'cls', 'return'}
    return [n for n, comment in docments(f).items() if not comment and n not in free]

@pytest.mark.parametrize('module', MODULES)
def test_documented(module):
    "Every exported function and class has a docstring and a comment for each parameter; every public method has a docstring."
    lacking = []
    for name, o in vars(importlib.import_module(f'maxmin_nb.{module}')).items():
        if name.startswith('_') or getattr(o, '__module__', '') != f'maxmin_nb.{module}' or not (inspect.isfunction(o) or inspect.isclass(o)): continue
        # a dataclass without a docstring is given its signature as one
        if not o.__doc__ or o.__doc__.startswith(f'{name}('): lacking.append(f'{name}: docstring')
        lacking += [f'{name}: {p}' for p in undocumented(o)]
        if inspect.isclass(o):
            lacking += [f'{name}.{m}: docstring' for m, f in vars(o).items() if not m.startswith('_') and inspect.isfunction(getattr(f, '__func__', f)) and not inspect.getdoc(getattr(o, m))]
    if lacking: pytest.fail(f'{module} lacks a docstring or a comment for: ' + ', '.join(lacking), pytrace=False)


def test_wheel(tmp_path):
    "The wheel builds without a network and holds every module, the command `maxmin` and the licence."
    copy, out = tmp_path/'project', tmp_path/'out'
    copy.mkdir()
    copy_project(copy)
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '-w', out], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, = out.glob('maxmin_nb-*.whl')
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        read = lambda end: z.read(next(n for n in names if n.endswith(end))).decode()
        points, meta = read('.dist-info/entry_points.txt'), read('.dist-info/METADATA')
    assert {f'maxmin_nb/{p.name}' for p in LIB.glob('*.py')} | {'maxmin_nb/py.typed'} <= set(names)
    assert not [n for n in names if n.split('/')[0] not in ('maxmin_nb', wheel.name.split('-py3')[0] + '.dist-info')]
    assert any(n.endswith('LICENSE') for n in names)
    assert 'maxmin = maxmin_nb.cli:main' in points
    assert 'Requires-Dist: torch<3,>=2.6' in meta and 'Provides-Extra: dev' in meta and 'Requires-Python: >=3.11' in meta


def test_versions_agree():
    "settings.ini, the package and CITATION.cff say the same version."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    version = ini['DEFAULT']['version']
    assert f'__version__ = "{version}"' in (LIB/'__init__.py').read_text(encoding='utf-8')
    assert f'\nversion: {version}\n' in (ROOT/'CITATION.cff').read_text(encoding='utf-8')
    assert f'\n## {version}' in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')

def test_extras_are_in_the_readme():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    extras = [k.removesuffix('_requirements') for k in ini['DEFAULT'] if k.endswith('_requirements')]
    assert extras and all(f"pip install '.[{e}]'" in (ROOT/'README.md').read_text(encoding='utf-8') for e in extras)
