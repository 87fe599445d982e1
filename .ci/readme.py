"README.md is nbs/index.ipynb as Markdown. `readme.py` writes it, `readme.py --check` only compares."
import posixpath, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
index, readme = root/'nbs/index.ipynb', root/'README.md'

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
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

if __name__ == '__main__':
    if not index.exists(): sys.exit(f'{index.relative_to(root)} does not exist: README.md is left as it is')
    text = render()
    if '--check' not in sys.argv: readme.write_text(text, encoding='utf-8')
    elif readme.read_text(encoding='utf-8') != text: sys.exit('README.md differs from nbs/index.ipynb: make export')
