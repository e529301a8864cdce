"""Sources of backbones, one file each: ``--model timm/resnet18`` is a network of ``timm.py``.

A source is a module with what ``reid.models.backbone.Source`` lists; nothing else has to know it.
"""
