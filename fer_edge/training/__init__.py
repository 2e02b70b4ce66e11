"""Training a network on TRAIN, scored on PUBLIC after each epoch. Read in this order:

1. ``config``: the recipe, every number that a run depends on; ``recipes/`` holds the shipped ones.
2. ``runs``: the folder of a run, and how a run is found by its name.
3. ``session``: everything that one run holds in memory, made from the recipe and the folder.
4. ``loop``: the epochs and steps, from top to bottom.
5. What a step calls: ``batches`` and ``augment`` (images), ``losses`` and ``distill`` (the loss),
   ``replicas`` (threads of one CPU), ``optim`` and ``sam`` (the update), ``qat`` and ``fake_quant``
   (training for INT8).
6. What an epoch calls: ``scoring``, and ``checkpoint`` (the state to resume from).
7. Around it: ``start`` (initial weights), ``teachers``, ``machine`` (device, interrupts),
   ``folds`` (cross-validation), ``soup`` (averaged weights), and ``search``, ``space``, ``study``
   (hyperparameters).
"""
