"""README.md is nbs/index.ipynb as Markdown. `readme.py` writes it, `readme.py --check` only compares.
Where settings.ini names the owner, the README has buttons for Colab and Binder, and first cells that install on Colab know the address."""
import configparser, posixpath, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
index, readme = root/'nbs/index.ipynb', root/'README.md'

def settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

def badges(path, cfg, pictures=True):
    "Buttons (or, without pictures, links) that open the notebook `path` on Colab and on Binder; nothing where settings.ini does not name the owner."
    user, repo, branch = (cfg[k].strip() for k in ('user', 'repo', 'branch'))
    if not user: return ''
    where = {'Open in Colab': ('https://colab.research.google.com/assets/colab-badge.svg', f'https://colab.research.google.com/github/{user}/{repo}/blob/{branch}/{path}'),
             'Open in Binder': ('https://mybinder.org/badge_logo.svg', f'https://mybinder.org/v2/gh/{user}/{repo}/{branch}?urlpath=lab/tree/{path}')}
    return ' '.join(f'[![{name}]({picture})]({link})' if pictures else f'[{name}]({link})' for name, (picture, link) in where.items())

INSTALL = '''#| hide
import importlib.util
if importlib.util.find_spec('maxmin_nb') is None:  # on Colab; silent where the package is installed
    '''

def install_cell(cfg):
    "The first code cell of a notebook that is opened alone: installs the package only where it is missing, and only from a repository that settings.ini names."
    user, repo, branch = (cfg[k].strip() for k in ('user', 'repo', 'branch'))
    return INSTALL + (f'%pip install -q "maxmin_nb @ git+https://github.com/{user}/{repo}@{branch}"' if user else "raise ImportError('maxmin_nb is not installed: run `make setup` in its folder')")

def set_install_cells(write):
    "The install cells of all notebooks that have one, in step with settings.ini; returns those that were not."
    stale, want = [], install_cell(settings())
    for p in sorted((root/'nbs').rglob('*.ipynb')):
        nb = nbformat.read(p, 4)
        cells = [c for c in nb.cells if c.cell_type == 'code' and "find_spec('maxmin_nb')" in c.source and c.source != want]
        if not cells: continue
        stale.append(p.relative_to(root).as_posix())
        for c in cells: c.source = want
        if write: nbformat.write(nb, p)
    return stale

def relink(text):
    "Links relative to nbs/ become relative to the root; code is left alone."
    def move(m):
        target = m[2]
        if re.match(r'[a-z][a-z0-9+.-]*:|#|/', target): return m[0]
        path, hash_, anchor = target.partition('#')
        return m[1] + posixpath.normpath('nbs/' + path) + hash_ + anchor + m[3]
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', text, flags=re.S | re.M)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'(\]\()([^)\s]+)(\)|\s)', move, parts[i])
        parts[i] = re.sub(r'((?:src|href)=")([^"]+)(")', move, parts[i])
    return ''.join(parts)

def render():
    nb = nbformat.read(index, 4)
    nb.metadata['language_info'] = {'name': 'python'}
    nb.cells = [c for c in nb.cells if not re.match(r'#\|\s*(hide|export|default_exp)', c.source)]
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = relink(c.source)
        if c.cell_type == 'code': c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    # An image in an output would be a data URI, which GitHub does not show: its alternative text (text/plain) stands in for it.
    config = Config(NbConvertBase={'display_data_priority': ['text/markdown', 'text/plain']})
    text = MarkdownExporter(config=config).from_notebook_node(nb)[0]
    if b := badges('nbs/00_preferences.ipynb', settings()): text = re.sub(r'^(# .+\n)', lambda m: f'{m[1]}\n{b}\n', text, count=1, flags=re.M)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

if __name__ == '__main__':
    if not index.exists(): sys.exit(f'{index.relative_to(root)} does not exist: README.md is left as it is')
    write = '--check' not in sys.argv
    stale = set_install_cells(write)
    if stale and not write: sys.exit(f'{stale} install from another address than settings.ini names: make export')
    text = render()
    if write: readme.write_text(text, encoding='utf-8')
    elif readme.read_text(encoding='utf-8') != text: sys.exit('README.md differs from nbs/index.ipynb: make export')
