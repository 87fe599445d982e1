"""Slides from the notebooks, with nbconvert and reveal.js; mathematics, fonts and scripts are copied beside them, so that they need no network.

`python .ci/slides.py [FOLDER]` (default _docs/slides) makes one deck for every chapter, of its sections' first sentences, statements, equations and figures, and one for every file
`course/*.deck.md`: slides are parted by lines `---`, and `![[02_impossibility | phrase]]` is the figure, `[[02_impossibility | phrase]]` the code, of the one cell in whose code or description the phrase occurs."""
import base64, importlib.metadata, re, shutil, sys
from pathlib import Path
import nbformat
from jinja2 import DictLoader
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from website import copy_mathjax, figure, notebooks, prepare, root

TEMPLATE = '''{%- extends 'reveal/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>window.MathJax = {tex: {inlineMath: [['$', '$']], displayMath: [['$$', '$$']]}, chtml: {matchFontHeight: false}}</script>
<script src="mathjax/tex-chtml.js" defer></script>
{%- endblock -%}
{%- block html_head_css -%}
<style>
body.jp-Notebook .reveal { font-size: 26px; } body.jp-Notebook .reveal .slides { text-align: left; }
body.jp-Notebook .reveal :is(h1, h2, h3) { text-transform: none; letter-spacing: 0; line-height: 1.2; margin: 0 0 .5em; } body.jp-Notebook .reveal h1 { font-size: 2em; } body.jp-Notebook .reveal h2 { font-size: 1.5em; }
body.jp-Notebook .reveal .jp-RenderedHTMLCommon { font-size: 1em; line-height: 1.4; } body.jp-Notebook .reveal table { font-size: .85em; } body.jp-Notebook .reveal blockquote { width: 94%; }
body.jp-Notebook .reveal img { max-height: 400px; max-width: 100%; margin: 0 auto; display: block; } body.jp-Notebook .reveal section.alone img { max-height: 600px; width: 88%; object-fit: contain; }
body.jp-Notebook .reveal .slides section { max-height: 715px; overflow-y: auto; overflow-x: hidden; } body.jp-Notebook .reveal .jp-Cell { padding: 0; }
body.jp-Notebook .reveal pre { width: 100%; box-shadow: none; font-size: 15px; line-height: 1.35; } .jp-InputPrompt, .jp-OutputPrompt { display: none; }
</style>
{%- endblock -%}
{%- block footer_js -%}
<script src="reveal/dist/reveal.js"></script>
<script src="reveal/plugin/notes/notes.js"></script>
<script>for (const s of document.querySelectorAll('.reveal section')) if (s.querySelector('img') && !s.querySelector('section, li, table, p:not(:has(img))')) s.classList.add('alone');
Reveal.initialize({hash: true, slideNumber: true, center: false, transition: 'none', width: 1100, height: 720, plugins: [RevealNotes]})</script>
</html>
{%- endblock -%}'''

def reveal():
    "The folder of reveal.js in its wheel."
    return next(Path(f.locate()).parent.parent for f in importlib.metadata.files('sphinx-revealjs') if str(f).endswith('revealjs/dist/reveal.js'))

def slide(cell, kind='slide'):
    cell.metadata['slideshow'] = {'slide_type': kind}
    return cell

def picture(cell, kind='-'):
    "What a cell shows, without its code."
    return slide(new_code_cell('', outputs=[o for o in cell.outputs if figure(o)], metadata={'transient': {'remove_source': True}}), kind)

def statements(text, lead):
    "Of a text: its first paragraph where `lead`, statements that begin in bold, with their lists and equations. Proofs stay in the notebook."
    kept, proof, goes_on = [], False, False
    for k, p in enumerate(o for o in re.split(r'\n\s*\n', text) if o.strip()):
        p, *inside = re.split(r'\*Proof', p, maxsplit=1)
        keep = p.strip() and not proof and (lead and k == 0 or p.startswith(('**', '$$')) or goes_on and (goes_on == ':' or re.match(r'([-*(]|\d+\.) ?', p)))
        if keep: kept.append(p.replace('∎', '').rstrip())
        goes_on = keep and (':' if p.rstrip().endswith(':') else '.')
        proof = (proof or bool(inside)) and '∎' not in (inside or [p])[0]
    return kept

def chapter(nb):
    "The cells of one chapter's deck."
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = re.sub(r'\[([^\]\n]+)\]\([^)\s]+\.ipynb[^)\s]*\)', r'\1', c.source)
    first, *rest = nb.cells
    cells = [slide(new_markdown_cell(re.sub(r'\n(Previous|Next|You need).*', '', first.source)))]
    for c in rest:
        if c.cell_type == 'code':
            if any(map(figure, c.outputs)): cells.append(picture(c, 'subslide'))
            continue
        for section in re.split(r'(?=^##+ )', c.source, flags=re.M):
            if not section.strip() or '<details>' in section or section.startswith(('**References', 'Previous', '## References')): continue
            title, body = re.match(r'(##+ [^\n]*)?\s*(.*)', section, flags=re.S).groups()
            whole = title and title.strip('# ') in ('Summary', 'Questions')
            kept = [body] if whole else statements(body, bool(title))
            if title: cells.append(slide(new_markdown_cell('\n\n'.join([re.sub('^##+', '##', title), *kept]))))
            elif kept: cells.append(slide(new_markdown_cell('\n\n'.join(kept)), 'subslide'))
    return cells

def find(stem, phrase):
    "The one cell of a notebook in whose code or description the phrase occurs."
    nb = prepare(nbformat.read(root/f'nbs/{stem}.ipynb', 4))
    hits = [c for c in nb.cells if c.cell_type == 'code' and (phrase in c.source or any(phrase in o.get('data', {}).get('text/plain', '') for o in c.outputs))]
    if len(hits) != 1: sys.exit(f'{stem}: {len(hits)} cells have "{phrase}"; a slide needs exactly one')
    return hits[0]

def deck(text):
    "The cells of a deck that is written as Markdown."
    cells, text = [], re.sub(r'\]\((\S+\.png)\)', embed, text)
    for part in re.split(r'^---$', text, flags=re.M):
        for k, piece in enumerate(re.split(r'^(!?\[\[.+\]\])$', part.strip(), flags=re.M)):
            kind = 'slide' if k == 0 else '-'
            if m := re.fullmatch(r'(!?)\[\[(\S+) \| (.+)\]\]', piece.strip()):
                c = find(m[2], m[3])
                cells.append(picture(c) if m[1] else slide(new_code_cell(c.source, outputs=[o for o in c.outputs if not figure(o)]), '-'))
            elif piece.strip() or k == 0: cells.append(slide(new_markdown_cell(piece.strip()), kind))
    return cells

def embed(m):
    "An image of the notebooks' folder as a data URI."
    return '](data:image/png;base64,' + base64.b64encode((root/'course'/m[1]).read_bytes()).decode() + ')'

def decks():
    "Name and cells of every deck."
    for name, p in notebooks().items():
        if re.match(r'\d\d', name.name): yield name.stem, chapter(prepare(nbformat.read(p, 4)))
    for p in sorted((root/'course').glob('*.deck.md')): yield p.name.removesuffix('.deck.md'), deck(p.read_text(encoding='utf-8'))

def build(out):
    "All decks and what they load."
    out.mkdir(parents=True, exist_ok=True)
    copy_mathjax(out/'mathjax')
    for part in ('dist', 'plugin/notes', 'LICENSE'):
        source, target = reveal()/part, out/'reveal'/part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.map')) if source.is_dir() else shutil.copy(source, target)
    exporter = SlidesExporter(extra_loaders=[DictLoader({'deck.html.j2': TEMPLATE})], template_file='deck.html.j2', reveal_url_prefix='reveal', reveal_theme='white', exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    made = []
    for name, cells in decks():
        nb = new_notebook(cells=cells, metadata={'title': name, 'language_info': {'name': 'python'}})
        html, _ = exporter.from_notebook_node(nb, {'metadata': {'name': name}})
        (out/f'{name}.html').write_text(html, encoding='utf-8')
        made.append(name)
    return made


if __name__ == '__main__':
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root/'_docs/slides'
    print(f'{len(build(out))} decks in {out}')
