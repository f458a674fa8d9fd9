"""nltk's Porter stemmer without the rest of nltk.

``import nltk`` brings its parsers and classifiers, and with them scipy's statistics and scikit-learn: more
than a second of a core, in every command that scores an answer, for one class that needs none of it. So
bare packages stand in for nltk's while the stemmer's own modules are imported, and are gone afterwards:
who imports nltk later gets all of it.
"""

import contextlib
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGE = "nltk"


def porter_stemmer() -> Any:
    """A ``nltk.stem.porter.PorterStemmer`` in its default mode."""
    if _PACKAGE not in sys.modules:
        # another nltk's stemmer may want the whole of it, and gets it below
        with contextlib.suppress(ImportError, AttributeError):
            try:
                for name in (_PACKAGE, f"{_PACKAGE}.stem"):
                    sys.modules[name] = _bare(name)
                return _stemmer()
            finally:
                for name in [n for n in sys.modules if n.partition(".")[0] == _PACKAGE]:
                    del sys.modules[name]
    return _stemmer()


def _stemmer() -> Any:
    return importlib.import_module(f"{_PACKAGE}.stem.porter").PorterStemmer()


def _bare(name: str) -> ModuleType:
    """A package whose submodules can be imported, without what its ``__init__`` does."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(name)
    package = ModuleType(name)
    package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
    return package
