"""The manifest by which lmms-eval finds the model, named in the entry point group `lmms_eval.models`."""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest("flexselect", chat_class_path="flexselect_lmms.model.FlexSelectLMMS")
