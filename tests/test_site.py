"The static site, the slides and what a lecturer is given: built, checked for links, looked at in a browser."
import base64, importlib.util, json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, numpy as np, pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'.ci'))
import readme, slides, website
from maxmin_nb import plots

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
OWNER = {'user': 'somebody', 'repo': 'maxmin_nb', 'branch': 'main'}


def test_check_finds_faults(tmp_path):
    "The link check is not blind: a broken link, a broken anchor, a mute image, a script from elsewhere and a link to a notebook are each reported."
    (tmp_path/'a.html').write_text('<h1 id="top">A</h1><a href="b.html#there">x</a><a href="https://example.org">y</a><img src="data:image/png;base64," alt="a dot">')
    (tmp_path/'b.html').write_text('<p id="there">B</p><a href="a.html">x</a>')
    assert website.check(tmp_path) == []
    (tmp_path/'c.ipynb').write_text('{}')
    for bad, said in (('<a href="d.html">', 'which does not exist'), ('<a href="b.html#nowhere">', 'no such place'), ('<img src="data:,">', 'without a description'), ('<img src="data:," alt=" ">', 'without a description'),
                      ('<script src="https://cdn.example.org/x.js"></script>', 'from elsewhere'), ('<link rel="stylesheet" href="//example.org/x.css">', 'from elsewhere'), ('<a href="c.ipynb">', 'a notebook instead of its page')):
        (tmp_path/'b.html').write_text('<p id="there">B</p>' + bad)
        found = website.check(tmp_path)
        assert len(found) == 1 and said in found[0], (bad, found)
    assert website.check(tmp_path/'nothing') == [f'{tmp_path/"nothing"} has no page']


def test_prepare():
    "Hidden cells go, directives go, the code of a figure is folded and a definition is not."
    new, picture = nbformat.v4.new_code_cell, [nbformat.v4.new_output('display_data', {'image/png': ''})]
    long = '\n'.join(f'x{i} = {i}' for i in range(20))
    nb = nbformat.v4.new_notebook(cells=[new('#| default_exp a'), new('#| hide\nimport x'), new('#| export\n' + long), new(long, outputs=picture), new('x = 1', outputs=picture), nbformat.v4.new_markdown_cell('$$a \\\\ b \\tag{1}$$')])
    cells = website.prepare(nb).cells
    assert [c.source for c in cells[:3]] == [long, long, 'x = 1']
    assert ['hide-input' in c.metadata.get('tags', []) for c in cells[:3]] == [False, True, False]
    assert cells[3].source.strip() == '\\begin{equation}\na \\\\ b \\tag{1}\n\\end{equation}'


def test_buttons_only_with_an_owner():
    "Nothing is shown or named while settings.ini does not say whose repository it is."
    nobody = OWNER | {'user': ' '}
    assert readme.badges('nbs/a.ipynb', nobody) == '' and 'github' not in readme.install_cell(nobody)
    b, cell = readme.badges('nbs/a.ipynb', OWNER), readme.install_cell(OWNER)
    assert 'colab.research.google.com/github/somebody/maxmin_nb/blob/main/nbs/a.ipynb' in b and 'mybinder.org/v2/gh/somebody/maxmin_nb/main?urlpath=lab/tree/nbs/a.ipynb' in b
    assert '.svg' in b and '.svg' not in readme.badges('nbs/a.ipynb', OWNER, False)
    assert 'git+https://github.com/somebody/maxmin_nb@main' in cell
    assert bool(readme.settings()['user'].strip()) == ('colab-badge' in (ROOT/'README.md').read_text(encoding='utf-8'))


def test_install_cell(monkeypatch):
    "Silent where the package is installed, and one installation where it is not."
    from IPython.core.interactiveshell import InteractiveShell
    shell, ran = InteractiveShell(), []
    shell.register_magic_function(ran.append, magic_name='pip')
    nobody = readme.install_cell(OWNER | {'user': ''})
    assert shell.run_cell(readme.install_cell(OWNER)).success and shell.run_cell(nobody).success and ran == []
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert shell.run_cell(readme.install_cell(OWNER)).success and len(ran) == 1 and 'somebody' in ran[0]
    assert 'make setup' in str(shell.run_cell(nobody).error_in_exec) and len(ran) == 1
    assert not readme.set_install_cells(write=False)


def shown(monkeypatch, *args, **kw):
    "What `moving` displays."
    import IPython.display
    out = []
    monkeypatch.setattr(IPython.display, 'display', lambda data, raw: out.append(data))
    plots.moving(*args, **kw)
    return out[0]

def line(s):
    fig, ax = plots.new_figure('A line', figsize=(3, 2))
    ax.plot([0, s]); ax.set_ylim(0, 3)
    return fig

def test_moving(monkeypatch):
    "Every frame differs and is described, the first shown is the one asked for, text is escaped, and too much is refused."
    data = shown(monkeypatch, line, [1, 2, 3], 'slope <s>', lambda s: f'A line that ends at "{s}".', start=1)
    page = website.Page(data['text/html'])
    assert not page.mute and '<s>' not in data['text/html'] and data['text/plain'] == 'A line that ends at "2".'
    import html
    frames, alts, names = (json.loads(html.unescape(re.search(f'data-{k}="(.*?)"', data['text/html'])[1])) for k in ('frames', 'alts', 'names'))
    assert len(set(frames)) == 3 and len(set(alts)) == 3 and names == ['1', '2', '3'] and page.loads == [frames[1]]
    assert frames[1].endswith(data['image/png'])
    as_text = shown(monkeypatch, lambda s: data['image/png'], [1, 2], 's', str)
    assert as_text['text/plain'] == '1' and base64.b64decode(as_text['image/png'])[:4] == b'\x89PNG'
    with pytest.raises(ValueError, match='3 frames take'): shown(monkeypatch, line, [1, 2, 3], 's', str, limit=1000)
    with pytest.raises(ValueError, match='there are 1 values'): shown(monkeypatch, line, [1], 's', str)


def test_decks():
    "Every figure and cell that a deck names is found; a chapter's deck has its sections, figures and no code."
    made = dict(slides.decks())
    assert 'lecture' in made and '02_impossibility' in made
    text = (ROOT/'course/lecture.deck.md').read_text(encoding='utf-8')
    assert sum(c.cell_type == 'code' for c in made['lecture']) == text.count('[[') > 5
    starts = [c for c in made['lecture'] if c.metadata['slideshow']['slide_type'] == 'slide']
    assert len(starts) == len(re.split(r'^---$', text, flags=re.M))
    last = max(int(n) for n in re.findall(r'\| (?:\d+ to )?(\d+) \| [^|]*\|\n', (ROOT/'course/README.md').read_text(encoding='utf-8').split('## Three weeks')[0]))
    assert last == len(starts), 'the plan of the lecture counts other slides than there are'
    for name, cells in made.items():
        if name == 'lecture': continue
        assert not [c.source for c in cells if c.cell_type == 'code' and c.source], name
        assert not [c for c in cells if c.cell_type == 'markdown' and '∎' in c.source], f'{name}: a proof on a slide'
    with pytest.raises(SystemExit, match='0 cells'): slides.find('02_impossibility', 'no such phrase')


def test_course_links():
    "Relative links of the course's pages lead to files."
    texts = {p: p.read_text(encoding='utf-8') for p in (ROOT/'course').glob('*.md')}
    texts[ROOT/'course/discussion.ipynb'] = '\n'.join(c.source for c in nbformat.read(ROOT/'course/discussion.ipynb', 4).cells if c.cell_type == 'markdown')
    missing = [f'{p.name}: {t}' for p, text in texts.items() for t in re.findall(r'\]\(([^)\s]+)\)', text) if not re.match(r'[a-z]+:|#', t) and not (p.parent/t.split('#')[0]).exists()]
    assert not missing


def test_discussion_runs():
    "The questions' computations run, and what is said about them is asserted in the cells. Saved outputs are there, clean and without a path of somebody's machine."
    path = ROOT/'course/discussion.ipynb'
    text, nb = path.read_text(encoding='utf-8'), nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    assert not [s for s in ('/root/', '/work/', '/home/', '/tmp/') if s in text] and all(c.execution_count is None for c in code)
    assert sum(bool(c.outputs) for c in code) >= 8 and sum('assert' in c.source for c in code) >= 7
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}
    NotebookClient(nb, timeout=200, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute(env=env)


def test_binder():
    "What Binder runs is a shell script that installs with the project's pins."
    script = ROOT/'binder/postBuild'
    assert os.access(script, os.X_OK)
    subprocess.run(['bash', '-n', script], check=True)
    assert '-c constraints.txt' in script.read_text() and re.fullmatch(r'python-3\.1[123]\n', (ROOT/'binder/runtime.txt').read_text())


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    if importlib.util.find_spec('myst_nb') is None: pytest.skip("the site's tools are not installed: make site")
    out = tmp_path_factory.mktemp('site')/'docs'
    done = subprocess.run([sys.executable, ROOT/'.ci/website.py', out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out

@pytest.mark.slow
def test_site(site):
    "A page for every notebook but the solutions, without hidden cells; its own search index; at least two figures that move, each under 2 MB."
    pages = {p.relative_to(site).with_suffix('').as_posix(): p.read_text(encoding='utf-8') for p in site.rglob('*.html')}
    assert {n.with_suffix('').as_posix() for n in website.notebooks()} | {'course/README', 'course/project', 'course/discussion', 'slides/lecture', 'search'} <= set(pages)
    assert not [n for n in pages if 'solution' in n]
    assert not [n for n, t in pages.items() if '#| export' in t or 'from fastcore.test' in t]
    assert 'egalitarian' in (site/'searchindex.js').read_text(encoding='utf-8') and (site/'_static/mathjax/tex-chtml.js').exists()
    moving = [m for t in pages.values() for m in re.findall(r'<div class="moving">.*?</div>', t, flags=re.S)]
    assert len(moving) >= 2 and max(map(len, moving)) < 2e6

@pytest.mark.slow
def test_site_in_a_browser(site):
    "Opened from disk without a network: mathematics is typeset, the search finds, a slider moves its figure, slides fit; nothing fails."
    sync = pytest.importorskip('playwright.sync_api', reason='playwright is not installed, so no browser looks at the site')
    if not CHROMIUM: pytest.skip('no Chromium is installed, so no browser looks at the site')
    said = []
    with sync.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'])
        page = b.new_context(offline=True).new_page()
        page.on('console', lambda m: said.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('requestfailed', lambda r: said.append(r.url))
        for name in [n.stem for n in website.notebooks() if re.match(r'\d\d', n.name)]:
            page.goto((site/f'{name}.html').as_uri())
            if page.locator('.math').count() == 0: continue            # MathJax is loaded where there is mathematics
            page.wait_for_function("window.MathJax?.startup?.promise")
            page.evaluate('MathJax.startup.promise.then(() => 0)')
            raw = page.evaluate("[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).length")
            assert raw == 0 and page.locator('mjx-merror').count() == 0, f'{name}: {raw} formulas are not typeset'
        page.goto((site/'search.html').as_uri() + '?q=worst+group')
        page.wait_for_selector('ul.search li')
        assert page.locator('ul.search li').count() > 5
        page.goto((site/'course/discussion.html').as_uri())
        figure = page.locator('.moving').first
        before = [figure.locator('img').get_attribute(k) for k in ('src', 'alt')]
        figure.locator('input').focus()
        page.keyboard.press('ArrowLeft')
        after = [figure.locator('img').get_attribute(k) for k in ('src', 'alt')]
        assert before[0] != after[0] and before[1] != after[1]
        page.set_viewport_size({'width': 1100, 'height': 720})
        page.goto((site/'slides/lecture.html').as_uri())
        page.wait_for_selector('mjx-container', state='attached')
        page.evaluate('MathJax.startup.promise.then(() => 0)')
        over = page.evaluate("Reveal.getSlides().filter(s => {const i = Reveal.getIndices(s); Reveal.slide(i.h, i.v); return s.scrollHeight > s.clientHeight + 4}).length")
        assert over == 0 and page.locator('mjx-merror').count() == 0, f'{over} slides are too full'
        b.close()
    assert not said
