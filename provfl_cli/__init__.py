"""ProvFL: which clients of a federation are responsible for a prediction of its global model.

What its folders are for, in the order in which they may import each other, stands in `README.md` beside this file, and
what of them is stable. Importing this package imports none of them; `load_run` comes with `results/notebook.py`.
"""

from typing import TYPE_CHECKING

import lazy_loader as lazy

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .results.notebook import load_run as load_run
else:
    __getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"results.notebook": ["load_run"]})
