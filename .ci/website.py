"""The static site: every notebook as a page, with navigation, search and mathematics that need no network and no kernel.

`python .ci/website.py [FOLDER]` builds it (default _docs) and then checks it; `python .ci/website.py --check FOLDER` only checks.
Nothing is run: the pages show the outputs that the notebooks were saved with. Tools: Sphinx, MyST-NB, Furo; MathJax is copied from a wheel."""
import importlib.metadata, re, shutil, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
import nbformat
from readme import badges, settings

root = Path(__file__).resolve().parent.parent
PARTS = {'Theory': r'0[0-7]\w*', 'Language models': r'(08|09|1[0-3])\w*', 'Studies': r'1[4-9]\w*',
         'Exercises': r'exercises/\w+', 'For instructors': r'course/\w+', 'Tools': r'tools/\w+'}
HIDDEN = re.compile(r'#\|\s*(hide|default_exp)\b')
FOLD = 12   # a figure's code of more lines than this is folded


def notebooks():
    "Notebooks that become pages, with their names in the site. Solutions are the instructor's."
    found = {p.relative_to(root/'nbs'): p for p in sorted((root/'nbs').rglob('*.ipynb'))}
    return {n: p for n, p in found.items() if not {'.ipynb_checkpoints', 'solutions'} & set(n.parts)}

def figure(o): return any(k.startswith('image/') or k == 'text/html' for k in o.get('data', {}))

def prepare(nb):
    "What a reader of a page need not see goes: hidden cells, nbdev's directives. Long code that draws a figure is folded."
    nb.cells = [c for c in nb.cells if not (c.cell_type == 'code' and (HIDDEN.match(c.source) or not c.source.strip()))]
    for c in nb.cells:
        if c.cell_type == 'markdown':
            c.source = re.sub(r'<details>(.*?)</details>', fold, c.source, flags=re.S)
            c.source = re.sub(r'\$\$((?:(?!\$\$).)*)\$\$', tagged, c.source, flags=re.S)
            continue
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip('\n')
        if c.source.count('\n') >= FOLD and any(map(figure, c.outputs)): c.metadata['tags'] = ['hide-input']
    return nb

def fold(m):
    "MyST reads Markdown inside raw HTML only after a blank line."
    return '<details>' + re.sub(r'(</summary>)\s*', r'\1\n\n', m[1]) + '\n\n</details>'

def tagged(m):
    "Sphinx puts mathematics of several lines into an environment that allows no tag; this one does."
    return f'\n\\begin{{equation}}\n{m[1].strip()}\n\\end{{equation}}\n' if r'\\' in m[1] and r'\tag' in m[1] else m[0]

def anchor(heading):
    "The anchor that JupyterLab gives a heading, so that links work in both."
    return heading.strip().replace(' ', '-')

def title(text): return re.sub(r'[`*$]', '', re.search(r'^# (.+)$', text, flags=re.M)[1])

def write_sources(to, slides):
    "The notebooks, course/ and what they link to, as Sphinx will read them; returns the names of the pages."
    names = {}
    for name, p in notebooks().items():
        nb = prepare(nbformat.read(p, 4))
        nb.metadata.setdefault('language_info', {'name': 'python'})
        if b := badges(f'nbs/{name.as_posix()}', settings(), False): nb.cells[0].source = re.sub(r'^(# .+\n)', lambda m: f'{m[1]}\n{b}\n', nb.cells[0].source, count=1)
        if name.stem == 'index': index = nb; continue
        names[name.with_suffix('').as_posix()] = title(nb.cells[0].source)
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, to/name)
    (to/'course').mkdir(exist_ok=True)
    for p in sorted((root/'course').glob('*.ipynb')):
        nb = prepare(nbformat.read(p, 4))
        for c in nb.cells:
            if c.cell_type == 'markdown': c.source = c.source.replace('](../nbs/', '](../')
        names[f'course/{p.stem}'] = title(nb.cells[0].source)
        nbformat.write(nb, to/'course'/p.name)
    for p in sorted((root/'course').glob('*.md')):
        if p.name.endswith('.deck.md'): continue
        text = p.read_text(encoding='utf-8').replace('](../nbs/', '](../')
        text = re.sub(r'\[[^\]]+\]\((\w+)\.deck\.md\)', r'<a href="../slides/\1.html">\1</a>', text)
        if p.stem == 'README': text += '\n## All slides\n\n' + ' · '.join(f'<a href="../slides/{n}.html">{n}</a>' for n in slides) + '\n'
        names[f'course/{p.stem}'] = title(text)
        (to/'course'/p.name).write_text(text, encoding='utf-8')
    shutil.copytree(root/'nbs/results', to/'results', dirs_exist_ok=True)
    for name in ('LICENSE', 'CITATION.cff'): shutil.copy(root/name, to)
    (to/'CHANGELOG.md').write_text('---\norphan: true\n---\n' + (root/'CHANGELOG.md').read_text(encoding='utf-8'), encoding='utf-8')
    for c in index.cells:
        if c.cell_type == 'markdown': c.source = c.source.replace('](../', '](')
    names = dict(sorted(names.items(), key=lambda n: n[0] != 'course/README'))
    for part, pattern in PARTS.items():
        lines = [f'{(re.match(r"[0-9]+[a-z]?(?=_)", n) or [""])[0]} {t} <{n}>'.strip() for n, t in names.items() if re.fullmatch(pattern, n)]
        if lines: index.cells.append(nbformat.v4.new_markdown_cell('\n'.join(['```{toctree}', ':hidden:', f':caption: {part}', '', *lines, '```'])))
    nbformat.write(index, to/'index.ipynb')
    return ['index', *names]

def mathjax():
    "The folder with MathJax's files: the wheel holds them under a name that cannot be imported."
    files = importlib.metadata.files('sphinx-mathjax-offline')
    return next(Path(f.locate()) for f in files if f.name == 'tex-chtml.js').parent

def copy_mathjax(to):
    "MathJax's TeX input and its fonts, a tenth of the wheel."
    for p in ('tex-chtml.js', 'output/chtml/fonts/woff-v2'):
        source, target = mathjax()/p, to/p
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)

CSS = '''
.content { width: 54em; }
table.docutils { display: block; overflow-x: auto; width: fit-content; max-width: 100%; }
div.cell_output img, article img { max-width: 100%; height: auto; background: #fff; }
div.cell_output .animation img { max-width: 100%; }
div.cell_output { overflow-x: auto; }
mjx-container[display="true"] { overflow-x: auto; overflow-y: hidden; }
'''

def build(out):
    "Sources, then Sphinx; a warning is an error."
    if out.exists() and not (out/'.nojekyll').exists() and {p.name for p in out.iterdir()} - {'slides'}: sys.exit(f'{out} holds something else than a site; name another folder')
    sys.path.insert(0, str(root/'.ci'))
    import slides
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace
    work = Path(tempfile.mkdtemp(prefix='site-'))
    src, static, html = (work/n for n in ('source', 'static', 'html'))
    for d in (src, static): d.mkdir()
    write_sources(src, [n for n, _ in slides.decks()])
    copy_mathjax(static/'mathjax')
    (static/'site.css').write_text(CSS)
    conf = dict(project='maxmin_nb', html_title='maxmin_nb', copyright='the maxmin_nb authors', extensions=['myst_nb', 'sphinx.ext.mathjax'],
        master_doc='index', html_theme='furo', html_static_path=[str(static)], html_css_files=['site.css'],
        html_theme_options={'footer_icons': [], 'top_of_page_buttons': []}, html_show_sourcelink=False, html_copy_source=False,
        html_use_index=False, html_show_search_summary=False, mathjax_path='mathjax/tex-chtml.js',
        nb_execution_mode='off', nb_merge_streams=True, myst_enable_extensions=['dollarmath', 'amsmath'], myst_heading_anchors=4, myst_heading_slug_func='website.anchor',
        myst_dmath_double_inline=True, language='en', pygments_style='friendly', exclude_patterns=['results/**'])
    with docutils_namespace():
        app = Sphinx(src, None, html, work/'doctrees', 'html', confoverrides=conf, status=None, freshenv=True, warningiserror=True)
        app.build()
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(html, out)
    shutil.rmtree(work)
    for f in ('.buildinfo', 'objects.inv'): (out/f).unlink(missing_ok=True)
    (out/'.nojekyll').touch()
    slides.build(out/'slides')
    return app.statuscode


class Page(HTMLParser):
    "What a page links to and loads, its anchors, and its images without a description."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.mute = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('img', 'script', 'iframe', 'source') and a.get('src'): self.loads.append(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') in ('stylesheet', 'icon', 'preload'): self.loads.append(a['href'])
        if tag == 'img' and not (a.get('alt') or '').strip() and a.get('role') != 'presentation': self.mute.append((a.get('src') or a.get('id') or '')[:60])

def check(out):
    "One sentence for each broken link or anchor, each image without a description, and each thing that a page would fetch from elsewhere."
    pages = {p.resolve(): Page(p.read_text(encoding='utf-8')) for p in sorted(out.rglob('*.html'))}
    found = [] if pages else [f'{out} has no page']
    for p, page in pages.items():
        name = p.relative_to(out.resolve())
        found += [f'{name}: an image without a description: {m}' for m in page.mute]
        for t in [*page.links, *page.loads]:
            if re.match(r'(https?:)?//', t) and t in page.loads: found.append(f'{name} loads {t} from elsewhere')
            if re.match(r'([a-z][a-z0-9+.-]*:|//)', t): continue
            path, _, anchor = t.partition('#')
            path, anchor = unquote(path.partition('?')[0]), unquote(anchor)
            target = (p.parent/path).resolve() if path else p
            if target.is_dir(): target = target/'index.html'
            if not target.exists(): found.append(f'{name} links to {t}, which does not exist')
            elif anchor and target in pages and anchor not in pages[target].ids: found.append(f'{name} links to {t}, and there is no such place on that page')
            elif target.suffix == '.ipynb': found.append(f'{name} links to {t}, a notebook instead of its page')
    return found


if __name__ == '__main__':
    args = [a for a in sys.argv[1:] if a != '--check']
    out = Path(args[0]) if args else root/'_docs'
    bad = 0 if '--check' in sys.argv else build(out)
    problems = check(out)
    print('\n'.join(problems) or f'{len(list(out.rglob("*.html")))} pages in {out}: no broken link, every image described, nothing loaded from elsewhere')
    sys.exit(bool(bad or problems))
