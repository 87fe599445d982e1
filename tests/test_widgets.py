"Interactive figures: pure in their values, legible without a widget, escaped, never a queue of redraws. Their computation takes under 50 ms."
import ast, asyncio, os, re, sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
import nbformat, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from nbclient import NotebookClient
from maxmin_nb.core import matmul_gflops
from maxmin_nb.widgets import Choice, Interactive, Slider, interactive_figure, interactive_html

NBS = Path(__file__).resolve().parent.parent/'nbs'
WITH_FIGURES = [p for p in sorted(NBS.rglob('*.ipynb')) if any(re.search(r'^interactive_(figure|html)\(', c['source'], flags=re.M) for c in nbformat.read(p, 4).cells if c.cell_type == 'code')]

def bars(ax, n, kind):
    if kind == 'log': ax.set_yscale('log')
    ax.plot(np.arange(1, 4), n*np.arange(1, 4), label=kind)
    if n > 2: ax.legend(); ax.set_title('many')
    return f'{kind} <{n:g}>'

@pytest.fixture(scope='module')
def figure(): return interactive_figure(bars, 'Bars', dict(n=Slider('how many', 1, 5, 2, .5), kind=Choice('scale', ['linear', 'log'])), figsize=(2, 1.5))


class Images(HTMLParser):
    "The alternative texts of all images."
    def __init__(self): super().__init__(); self.alts, self.tags = [], []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == 'img': self.alts.append(dict(attrs).get('alt'))

def test_pure(figure):
    "What is drawn depends on the values alone, whatever was drawn before."
    @settings(max_examples=15)
    @given(st.lists(st.tuples(st.sampled_from([1., 2., 3., 5.]), st.sampled_from(['linear', 'log'])), min_size=1, max_size=3))
    def check(path):
        for n, kind in path: last = figure.html(n=n, kind=kind)
        fresh.setdefault((n, kind), last)
        assert last == fresh[n, kind]
    fresh = {}
    figure.html()
    check()
    assert len(set(fresh.values())) == len(fresh) > 2                     # and it does depend on them


def test_alternative_text(figure):
    "The sentence is the image's alternative text, escaped, and stands below it."
    p = Images(); p.feed(figure.html(n=3, kind='log'))
    assert p.alts == ['log <3>'] and p.tags == ['img', 'p'] and '&lt;3&gt;' in figure.html(n=3)

@given(st.text(max_size=40))
def test_choices_are_escaped(text):
    "No text among the choices or in a sentence becomes a tag."
    p = Images(); p.feed(interactive_html(lambda who: ('', f'to {who}'), dict(who=Choice('who', [text]))).html())
    assert p.tags == ['p']


def test_without_ipywidgets(figure, monkeypatch):
    "Where ipywidgets is absent, the figure remains, and nothing else is offered."
    assert 'application/vnd.jupyter.widget-view+json' in figure._repr_mimebundle_()
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    alone = figure._repr_mimebundle_()
    assert set(alone) == {'image/png', 'text/html', 'text/plain'} and alone['text/plain'] == 'linear <2>'


def test_no_queue():
    "A hundred moves at once make few redraws, the last of them for the last value; the number and the slider follow each other."
    drawn = []
    def render(v): drawn.append(v); return f'<b>{v:g}</b>', 'text'
    async def play():
        box = interactive_html(render, dict(v=Slider('v', 0, 100, 0, 1))).widget()
        (number, slider), picture = box.children[0].children, box.children[1]
        drawn.clear()
        for i in range(1, 101): slider.value = i
        await asyncio.sleep(.2)
        assert drawn == [100.] and '<b>100</b>' in picture.value and number.value == 100
        number.value = 7
        await asyncio.sleep(.2)
        assert drawn == [100., 7.] and slider.value == 7
    asyncio.run(play())

def test_error_is_shown_and_passes():
    async def play():
        box = interactive_html(lambda v: (f'<i>{1/v}</i>', 'fine'), dict(v=Slider('v', 0, 2, 1, 1))).widget()
        slider, picture = box.children[0].children[1], box.children[1]
        slider.value = 0; await asyncio.sleep(.2)
        assert 'role="alert"' in picture.value and 'ZeroDivisionError' in picture.value
        slider.value = 2; await asyncio.sleep(.2)
        assert picture.value.startswith('<i>0.5</i>')
    asyncio.run(play())


def test_logarithmic_slider():
    box = interactive_html(lambda v: (f'{v:.3g}', 't'), dict(v=Slider('v', .01, 100, .5, .1, log=True))).widget()
    number, slider = box.children[0].children
    slider.value = 3.14159
    assert number.value == 3.14 and abs(slider.value - 3.14159) < 1e-9    # the number is rounded, the value not
    number.value = 50
    assert abs(slider.value - 50) < 1e-9


@pytest.mark.parametrize('make', [lambda: Slider('s', 0, 1, 2), lambda: Slider('s', 1, 1, 1), lambda: Slider('s', 0, 1, .5, 0), lambda: Slider('s', 0, 1, .5, log=True), lambda: Choice('c', ['a'], 'b'),
                                  lambda: Interactive(bars, {}), lambda: Interactive(bars, {'n': 3})])
def test_refused(make):
    with pytest.raises(ValueError): make()


@pytest.mark.slow
@pytest.mark.parametrize('path', [p for p in WITH_FIGURES if p.parent == NBS], ids=lambda p: p.stem)
def test_computation_time(path):
    "Computing what a figure of a chapter shows, its curves handed to matplotlib but not drawn, takes under 50 ms of processor time on two cores of 200 GFLOP/s together, and on slower ones as much longer as their measured rate says."
    nb = nbformat.read(path, 4)
    nb.cells.append(nbformat.v4.new_code_cell('''
import maxmin_nb.widgets as w
w._png = lambda fig: ''
{str(o): o.milliseconds(7) for o in list(Out.values()) if isinstance(o, w.Interactive)}'''))
    NotebookClient(nb, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute(env=os.environ | {'MAXMIN_SCALE': 'smoke'})
    times = ast.literal_eval(nb.cells[-1].outputs[-1].data['text/plain'])
    limit = 50*max(1, 200/matmul_gflops())
    print(path.stem, times, limit)
    assert times and max(times.values()) < limit, (times, limit)


def test_saved_figures_have_alternative_text():
    "Every interactive figure is saved as an ordinary output with an image or a table, alternative text, and no widget view."
    assert len(WITH_FIGURES) >= 6
    for path in WITH_FIGURES:
        for c in nbformat.read(path, 4).cells:
            if c.cell_type != 'code' or not re.search(r'^interactive_(figure|html)\(', c.source, flags=re.M): continue
            data = c.outputs[-1]['data']
            p = Images(); p.feed(''.join(data['text/html']))
            assert set(data) <= {'image/png', 'text/html', 'text/plain'} and len(data['text/plain']) > 10, path.name
            assert (p.alts and all(p.alts) if 'image/png' in data else 'p' in p.tags) and data['text/plain'] in unescape(data['text/html']), path.name


ABSENT = """import sys, warnings
class Absent:
    def find_spec(self, name, *_):
        if name.split('.')[0] == 'ipywidgets': raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
warnings.simplefilter('ignore')
"""

@pytest.mark.parametrize('before, text', [(ABSENT, True), ('', False)], ids=['absent', 'present'])
def test_progress_without_ipywidgets(before, text):
    "In a kernel without ipywidgets a progress bar is text and the loop runs; with it, it is a widget."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(before + "from maxmin_nb.core import progress\nassert sum(progress(range(5), 'five steps', leave=True)) == 10")])
    NotebookClient(nb, timeout=100, kernel_name='python3').execute(env={k: v for k, v in os.environ.items() if k != 'MAXMIN_QUIET'})
    said = ''.join(o['text'] for o in nb.cells[0].outputs if o['output_type'] == 'stream')
    assert ('five steps: 100%' in said) == text and any('application/vnd.jupyter.widget-view+json' in o.get('data', {}) for o in nb.cells[0].outputs) != text
