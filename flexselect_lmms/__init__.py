"""FlexSelect as a model of lmms-eval, and the tasks of the released evaluation (`pip install flexselect[lmms]`).

lmms-eval finds the model by its entry point, and the tasks by `--include_path`; `python -m flexselect_lmms` prints
both.
"""
