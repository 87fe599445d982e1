"Hand the fields of settings.ini to setuptools: every field that pyproject.toml calls dynamic is set here."
from configparser import ConfigParser
from pathlib import Path
import setuptools

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

audiences = [f'Intended Audience :: {o.strip()}' for o in cfg['audience'].split(',')]
status = {'3': 'Development Status :: 3 - Alpha', '4': 'Development Status :: 4 - Beta', '5': 'Development Status :: 5 - Production/Stable'}
pythons = [f'Programming Language :: Python :: 3.{m}' for m in (11, 12, 13)]
user = cfg['user'].strip()

setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], license='Apache-2.0', keywords=cfg['keywords'],
    project_urls={'Source': f'https://github.com/{user}/{cfg["repo"]}'} if user else {},
    classifiers=[status[cfg['status']], 'License :: OSI Approved :: Apache Software License', *audiences, *pythons],
    packages=setuptools.find_packages(include=['maxmin_nb', 'maxmin_nb.*']), package_data={cfg['lib_name']: ['py.typed']}, zip_safe=False,
    python_requires=f'>={cfg["min_python"]}', install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'data': cfg['data_requirements'].split(), 'gpu': cfg['gpu_requirements'].split(), 'site': cfg['site_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d']},
)
