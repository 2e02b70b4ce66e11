"""Training a network on TRAIN, scored on PUBLIC after each epoch. Read in this order:

1. ``runs.recipe``: the recipe, with every number that a run depends on.
2. ``runs.folder``: the folder of a run; ``runs.find``: how a run is found by its name.
3. ``start``: a new run, with its initial weights, and ``teachers``.
4. ``session``: everything that one run has in memory, made from the recipe and the folder.
5. ``loop``: the epochs and steps, from top to bottom.
6. Called in a step: ``batches`` and ``augment`` (images), ``losses``, ``vote_targets`` and
   ``distill`` (the loss), ``replicas`` (threads of one CPU), ``optim`` and ``sam`` (the update),
   ``qat`` and ``fake_quant`` (training for INT8), ``precision`` and ``machine`` (the device).
7. Called in an epoch: ``scoring``, and ``state`` (the state to resume from).
8. Beside it: ``folds`` (cross-validation), ``soup`` (averaged weights), and the folder ``search``
   (hyper-parameters).
"""
